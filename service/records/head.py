"""The head: the small fixed-layout record that is everything the service knows of a vehicle beside its state.

One NumPy structured dtype, `(epoch, layout, revision, seq, nonce, last_ts_ms)` first: those 32 bytes are the version that
every commit compares, and they stay where they are whatever else a later layout changes. A batch of heads is a structured
array, packed and unpacked without touching fields one by one. What was answered to the last samples is in the journal.
"""

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.alert_machine import MACHINE_DTYPE, Phase, new_machines
from model.preprocess import Preprocessor
from service.records.accepted_seqs import N_INTERVALS
from service.records.checksum import intact, record_dtype, seal
from service.samples import NO_SEQ

NEVER_MS = -1
LAYOUT = 3  # 2: answers went to the journal; checksum. 3: machines of two alert rules, when it was heard, open bin of the trend
N_RULES = 2

Heads = NDArray[np.void]


class Version(NamedTuple):
    """How every head begins, in every layout."""

    epoch: int
    layout: int
    revision: int
    seq: int
    nonce: int
    last_ts_ms: int


VERSION = struct.Struct("<IHHqQq")


def read_version(data: bytes) -> Version | None:
    """The version of a head; None if the record is too short to have one."""
    return Version(*VERSION.unpack_from(data)) if len(data) >= VERSION.size else None


LAYOUT_2_ALERT = np.dtype([("phase", "<i8"), ("first_crossed_ms", "<i8"), ("fired_ms", "<i8"), ("below_ms", "<i8")])


def layout_2(preprocessor: Preprocessor) -> np.dtype[np.void]:
    """The dtype of heads of layout 2."""
    n = len(preprocessor.schema.channels)
    return record_dtype(
        [
            ("epoch", "<u4"),
            ("layout", "<u4"),
            ("seq", "<i8"),
            ("nonce", "<u8"),
            ("last_ts_ms", "<i8"),
            ("accepted", "<u4"),
            ("samples", "<u4"),
            ("risk", "<f4"),
            ("surprise", "<f4"),
            ("check", "<u4"),
            ("n_intervals", "<u4"),
            ("intervals", "<i8", (N_INTERVALS, 2)),
            ("alert", LAYOUT_2_ALERT),
            ("fingerprint", "u1", (16,)),
            ("forecast_mean", "<f4", (n,)),
            ("forecast_log_scale", "<f4", (n,)),
            ("preprocess", preprocessor.dtype),
        ]
    )


OPEN_DTYPE = np.dtype(  # the bin of the trend that is under way (service/engine/trend.py)
    [
        ("number", "<i8"),  # its start, in bins since 1970
        ("samples", "<u4"),  # 0: nothing yet
        ("surprises", "<u4"),  # of them, those that had a surprise
        ("risk_max", "<f4"),
        ("surprise_max", "<f4"),
        ("surprise_sum", "<f4"),
        ("written", "<u4"),  # 1: the ring has it, and nothing came since
    ]
)


class HeadLayout:
    """The head's dtype for one checkpoint."""

    def __init__(self, preprocessor: Preprocessor, fingerprint: str) -> None:
        n = len(preprocessor.schema.channels)
        self.fingerprint = fingerprint  # 32 hex digits
        self.fingerprint_bytes = np.frombuffer(bytes.fromhex(fingerprint), "u1")
        self._preprocessor = preprocessor
        # Aligned, so that compiled code reads the fields where they are; the scripts read the first 56 bytes.
        self.dtype = record_dtype(
            [
                ("epoch", "<u4"),
                ("layout", "<u2"),
                ("revision", "<u2"),  # counts what time alone changed
                ("seq", "<i8"),  # last accepted, or NO_SEQ
                ("nonce", "<u8"),  # of the commit that wrote this head; 0 before the first
                ("last_ts_ms", "<i8"),  # last accepted, or NEVER_MS; the session's order, whatever becomes of the model
                ("accepted", "<u4"),  # in this session: the number of the next journal entry
                ("samples", "<u4"),  # of those, what this model has seen
                ("risk", "<f4"),
                ("surprise", "<f4"),
                ("heard_ms", "<i8"),  # when the last sample came, by the worker's clock; or NEVER_MS
                ("check", "<u4"),  # over the whole record
                ("n_intervals", "<u4"),
                ("intervals", "<i8", (N_INTERVALS, 2)),  # accepted seqs, first and last of each run
                ("alert", MACHINE_DTYPE, (N_RULES,)),
                ("trend", OPEN_DTYPE),
                ("fingerprint", "u1", (16,)),  # of the model whose state this is
                ("forecast_mean", "<f4", (n,)),
                ("forecast_log_scale", "<f4", (n,)),
                ("preprocess", preprocessor.dtype),
            ]
        )
        self._layout_2 = layout_2(preprocessor)

    def new_session(self, epoch: int) -> Heads:
        """Head of a session that has seen nothing; (1,), sealed."""
        head = np.zeros(1, self.dtype)
        head["epoch"], head["layout"], head["seq"], head["last_ts_ms"] = epoch, LAYOUT, NO_SEQ, NEVER_MS
        head["heard_ms"] = NEVER_MS
        head["alert"] = new_machines((1, N_RULES))
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
        """A head from its bytes; (1,), writable. One of layout 2 is taken over as layout 3.

        Raises:
            ValueError: another length, another layout, or damaged.
        """
        version = read_version(data)
        if version is not None and version.layout == 2 and len(data) == self._layout_2.itemsize:
            return self._take_over(data)
        if len(data) != self.dtype.itemsize:
            raise ValueError(f"head has {len(data)} bytes, this layout has {self.dtype.itemsize}")
        head = np.frombuffer(data, self.dtype).copy()
        if int(head["layout"][0]) != LAYOUT:
            raise ValueError(f"head has layout {int(head['layout'][0])}, this version writes {LAYOUT}")
        if not intact(head)[0]:
            raise ValueError("head is damaged: its checksum does not match")
        return head

    def _take_over(self, data: bytes) -> Heads:
        """A head of layout 2 as one of this layout: everything is kept, its alert as that of `thermal_risk`.

        Raises:
            ValueError: damaged.
        """
        old = np.frombuffer(data, self._layout_2)
        if not intact(old)[0]:
            raise ValueError("head is damaged: its checksum does not match")
        head = self.new_session(int(old["epoch"][0]))
        for name in self._layout_2.names or ():
            if name not in {"layout", "alert", "check", "reserved"}:
                head[name] = old[name]
        head["heard_ms"] = old["last_ts_ms"]  # the best guess
        alert, machine = old["alert"][0], head["alert"][0, 0]
        if alert["phase"]:
            below_ms = int(alert["below_ms"])
            machine["phase"] = Phase.RECOVERING if below_ms >= 0 else int(alert["phase"])
            machine["first_crossed_ms"], machine["fired_ms"] = alert["first_crossed_ms"], alert["fired_ms"]
            machine["since_ms"], machine["changes"] = below_ms, int(machine["phase"])
            machine["peak"] = np.nan_to_num(old["risk"][0])
        seal(head)
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
