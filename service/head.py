"""The head: the small fixed-layout record that is everything the service knows of a vehicle beside its state.

One NumPy structured dtype, `(epoch, layout, seq, nonce, last_ts_ms)` first: those 32 bytes are the version that every
commit compares, and they stay where they are whatever else a later layout changes. A batch of heads is a structured
array, packed and unpacked without touching fields one by one. What was answered to the last samples is in the journal.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.preprocess import Preprocessor
from service.accepted_seqs import N_INTERVALS
from service.checksum import intact, record_dtype, seal
from service.samples import NO_SEQ

NEVER_MS = -1
LAYOUT = 2  # 2: answers went to the journal; checksum

Heads = NDArray[np.void]


class Version(NamedTuple):
    """How every head begins, in every layout."""

    epoch: int
    layout: int
    seq: int
    nonce: int
    last_ts_ms: int


VERSION = struct.Struct("<IIqQq")


def read_version(data: bytes) -> Version | None:
    """The version of a head; None if the record is too short to have one."""
    return Version(*VERSION.unpack_from(data)) if len(data) >= VERSION.size else None


class Phase(IntEnum):
    """Phase of a vehicle's alert."""

    INACTIVE = 0
    PENDING = 1
    FIRING = 2


ALERT_DTYPE = np.dtype(
    [
        ("phase", "<i8"),
        ("first_crossed_ms", "<i8"),  # when risk first reached the threshold
        ("fired_ms", "<i8"),
        ("below_ms", "<i8"),  # since when risk has been under the resolve threshold, or -1
    ]
)


class HeadLayout:
    """The head's dtype for one checkpoint."""

    def __init__(self, preprocessor: Preprocessor, fingerprint: str) -> None:
        n = len(preprocessor.schema.channels)
        self.fingerprint = fingerprint  # 32 hex digits
        self.fingerprint_bytes = np.frombuffer(bytes.fromhex(fingerprint), "u1")
        self._preprocessor = preprocessor
        # Aligned, so that compiled code reads the fields where they are; the scripts read the first 48 bytes.
        self.dtype = record_dtype(
            [
                ("epoch", "<u4"),
                ("layout", "<u4"),
                ("seq", "<i8"),  # last accepted, or NO_SEQ
                ("nonce", "<u8"),  # of the commit that wrote this head; 0 before the first
                ("last_ts_ms", "<i8"),  # last accepted, or NEVER_MS; the session's order, whatever becomes of the model
                ("accepted", "<u4"),  # in this session: the number of the next journal entry
                ("samples", "<u4"),  # of those, what this model has seen
                ("risk", "<f4"),
                ("surprise", "<f4"),
                ("check", "<u4"),  # over the whole record
                ("n_intervals", "<u4"),
                ("intervals", "<i8", (N_INTERVALS, 2)),  # accepted seqs, first and last of each run
                ("alert", ALERT_DTYPE),
                ("fingerprint", "u1", (16,)),  # of the model whose state this is
                ("forecast_mean", "<f4", (n,)),
                ("forecast_log_scale", "<f4", (n,)),
                ("preprocess", preprocessor.dtype),
            ]
        )

    def new_session(self, epoch: int) -> Heads:
        """Head of a session that has seen nothing; (1,), sealed."""
        head = np.zeros(1, self.dtype)
        head["epoch"], head["layout"], head["seq"], head["last_ts_ms"] = epoch, LAYOUT, NO_SEQ, NEVER_MS
        head["alert"]["below_ms"] = -1
        self.clear_model(head)
        seal(head)
        return head

    def clear_model(self, head: Heads) -> None:
        """Forget what belongs to the model, in place: a cold start. The session's order and its alert stay."""
        head["samples"] = 0
        head["fingerprint"] = self.fingerprint_bytes
        head["risk"] = head["surprise"] = np.nan
        head["forecast_mean"] = np.nan
        head["forecast_log_scale"] = 0.0
        head["preprocess"] = self._preprocessor.initial_state(1)[0]

    def unpack(self, data: bytes) -> Heads:
        """A head from its bytes; (1,), writable.

        Raises:
            ValueError: another length, another layout, or damaged.
        """
        if len(data) != self.dtype.itemsize:
            raise ValueError(f"head has {len(data)} bytes, this layout has {self.dtype.itemsize}")
        head = np.frombuffer(data, self.dtype).copy()
        if int(head["layout"][0]) != LAYOUT:
            raise ValueError(f"head has layout {int(head['layout'][0])}, this version writes {LAYOUT}")
        if not intact(head)[0]:
            raise ValueError("head is damaged: its checksum does not match")
        return head

    def is_current(self, head: np.void) -> bool:
        """Whether the head's state belongs to the model in service."""
        return bool((head["fingerprint"] == self.fingerprint_bytes).all())

    def salvage(self, data: bytes) -> Heads:
        """A cold start that keeps the session of a head whose model is gone; (1,).

        If even the layout is another one, only the version is known, and every seq up to the last counts as accepted.
        A record too short for a version was never ours: it begins at epoch 1.
        """
        try:
            head = self.unpack(data)
        except ValueError:
            version = read_version(data)
            if version is None:
                return self.new_session(1)
            head = self.new_session(version.epoch)
            head["seq"], head["nonce"], head["last_ts_ms"] = version.seq, version.nonce, version.last_ts_ms
            if version.seq != NO_SEQ:
                head["intervals"][0, 0] = (0, version.seq)
                head["n_intervals"] = 1
        self.clear_model(head)
        return head
