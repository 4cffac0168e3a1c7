"""The head: the small fixed-layout record that is everything the service knows of a vehicle beside its state.

One NumPy structured dtype, `(epoch, layout, seq, nonce, last_ts_ms)` first: those 32 bytes are the version that every
commit compares, and they stay where they are whatever else a later layout changes. A batch of heads is a structured array, packed and unpacked without touching fields one by one.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.preprocess import Preprocessor
from service.wire import Sample

NO_SEQ = -1
N_INTERVALS = 32  # runs of accepted seqs that are told apart; beyond, the two oldest are joined
N_RECENT = 64  # answers kept for retries
NEVER_MS = -1
LAYOUT = 1

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


RECENT_DTYPE = np.dtype(
    [("seq", "<i8"), ("ts_ms", "<i8"), ("digest", "<u8"), ("risk", "<f4"), ("surprise", "<f4"), ("phase", "u1")]
)
ALERT_DTYPE = np.dtype(
    [
        ("phase", "u1"),
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
        self.dtype = np.dtype(
            [
                ("epoch", "<u4"),
                ("layout", "<u4"),
                ("seq", "<i8"),  # last accepted, or NO_SEQ
                ("nonce", "<u8"),  # of the commit that wrote this head; 0 before the first
                ("last_ts_ms", "<i8"),  # last accepted, or NEVER_MS; the session's order, whatever becomes of the model
                ("accepted", "<u4"),  # in this session: where the ring of answers goes on
                ("samples", "<u4"),  # of those, what this model has seen
                ("fingerprint", "u1", (16,)),  # of the model whose state this is
                ("risk", "<f4"),
                ("surprise", "<f4"),
                ("forecast_mean", "<f4", (n,)),
                ("forecast_log_scale", "<f4", (n,)),
                ("alert", ALERT_DTYPE),
                ("n_intervals", "u1"),
                ("intervals", "<i8", (N_INTERVALS, 2)),  # accepted seqs, first and last of each run
                ("recent", RECENT_DTYPE, (N_RECENT,)),  # ring by sample number
                ("preprocess", preprocessor.dtype),
            ]
        )

    def new_session(self, epoch: int) -> Heads:
        """Head of a session that has seen nothing; (1,)."""
        head = np.zeros(1, self.dtype)
        head["epoch"], head["layout"], head["seq"], head["last_ts_ms"] = epoch, LAYOUT, NO_SEQ, NEVER_MS
        head["alert"]["below_ms"] = -1
        self.clear_model(head)
        head["recent"]["seq"] = NO_SEQ
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
            ValueError: the record has another length, so another layout wrote it.
        """
        if len(data) != self.dtype.itemsize:
            raise ValueError(f"head has {len(data)} bytes, this layout has {self.dtype.itemsize}")
        head = np.frombuffer(data, self.dtype).copy()
        if int(head["layout"][0]) != LAYOUT:
            raise ValueError(f"head has layout {int(head['layout'][0])}, this version writes {LAYOUT}")
        return head

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


@dataclass(frozen=True, slots=True)
class Recent:
    """The stored answer to a sample that was accepted before."""

    seq: int
    digest: int
    risk: float
    surprise: float
    phase: Phase


def recall(head: np.void, sample: Sample) -> Recent | None:
    """The stored answer to this sample's seq, or to its ts when it has no seq; None once it is out of the ring."""
    ring = head["recent"]
    found = np.flatnonzero(
        (ring["seq"] != NO_SEQ) & ((ring["ts_ms"] == sample.ts_ms) if sample.seq is None else ring["seq"] == sample.seq)
    )
    if not len(found):
        return None
    entry = ring[found[0]]
    return Recent(
        seq=int(entry["seq"]),
        digest=int(entry["digest"]),
        risk=float(entry["risk"]),
        surprise=float(entry["surprise"]),
        phase=Phase(int(entry["phase"])),
    )


def was_accepted(head: np.void, seq: int) -> bool:
    """Whether `seq` was accepted in this session, at whatever age."""
    runs = head["intervals"][: int(head["n_intervals"])]
    return bool(((runs[:, 0] <= seq) & (seq <= runs[:, 1])).any())


def record_accepted(heads: Heads, samples: list[Sample], seqs: NDArray[np.int64]) -> None:
    """Write accepted samples into their heads (batch,), in place: numbers, intervals and the ring of answers.

    Risk, surprise and alert phase must be in the heads already. A number that the service gave itself is not entered in
    the intervals: they answer for numbers that senders gave.
    """
    for i, (sample, seq) in enumerate(zip(samples, seqs.tolist(), strict=True)):
        if sample.seq is not None:
            append_seq(heads[i], seq)
        place = int(heads["accepted"][i]) % N_RECENT
        entry = heads["recent"][i, place : place + 1]
        entry["seq"], entry["ts_ms"], entry["digest"] = seq, sample.ts_ms, sample.digest
        entry["risk"], entry["surprise"] = heads["risk"][i], heads["surprise"][i]
        entry["phase"] = heads["alert"]["phase"][i]
    heads["seq"] = seqs
    heads["last_ts_ms"] = [sample.ts_ms for sample in samples]
    heads["accepted"] += 1
    heads["samples"] += 1


def append_seq(head: np.void, seq: int) -> None:
    """Add a seq above all others to the runs of accepted seqs, in place.

    When there are N_INTERVALS runs, the two oldest are joined: everything accepted stays known for ever, at the price
    that a seq skipped that long ago reads as accepted too.
    """
    runs, n = head["intervals"], int(head["n_intervals"])
    if n and runs[n - 1, 1] == seq - 1:
        runs[n - 1, 1] = seq
        return
    if n == N_INTERVALS:
        runs[0, 1] = runs[1, 1]
        runs[1:-1] = runs[2:].copy()
        n -= 1
    runs[n] = seq
    head["n_intervals"] = n + 1
