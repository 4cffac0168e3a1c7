"""Whether a sample may change its vehicle's state, and the answer it gets.

Identity is (vehicle, epoch, seq); without seq it is the timestamp. Pure functions of head and sample: no clock, no store.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from service.head import Phase, Recent, recall, was_accepted
from service.wire import FieldError, Sample


class Status(StrEnum):
    """The verdict on one sample."""

    APPLIED = "applied"
    DUPLICATE = "duplicate"
    LATE = "late"
    INVALID = "invalid"
    CONFLICT = "conflict"
    DEFERRED = "deferred"  # not tried, or tried in vain: send it again
    OVERLOADED = "overloaded"  # no room to queue it: send it again later


ACCEPTED = frozenset({Status.APPLIED, Status.DUPLICATE})
RETRYABLE = frozenset({Status.DEFERRED, Status.OVERLOADED})


@dataclass(frozen=True, slots=True)
class Answer:
    """What the sender is told about one sample."""

    status: Status
    seq: int | None = None
    risk: float | None = None
    surprise: float | None = None
    phase: Phase | None = None
    warming_up: bool | None = None
    reason: str | None = None
    errors: tuple[FieldError, ...] = ()


def number_or_none(value: float) -> float | None:
    """NaN as null."""
    return None if math.isnan(value) else value


def judge(head: np.void, sample: Sample, latest_ms: float) -> Answer | None:
    """The refusal or the stored answer; None if the sample is to be applied.

    Args:
        head: the vehicle's.
        sample: readable, of that vehicle.
        latest_ms: timestamps above this are in the future, epoch milliseconds.
    """
    epoch = int(head["epoch"])
    if sample.epoch is not None and sample.epoch != epoch:
        over = "is over" if sample.epoch < epoch else "has not begun"
        return Answer(
            Status.CONFLICT, seq=sample.seq, reason=f"epoch {sample.epoch} {over}; the current session is epoch {epoch}"
        )
    if sample.ts_ms > latest_ms:
        ahead = f"ts is {(sample.ts_ms - latest_ms) / 1000:.1f} s further ahead of the server's clock than allowed"
        return Answer(Status.INVALID, seq=sample.seq, reason=ahead, errors=(FieldError("ts", ahead),))
    known = sample.seq is not None and was_accepted(head, sample.seq)
    recent = recall(head, sample)
    if recent is not None or known:
        if recent is not None and recent.digest != sample.digest:
            name = f"seq {sample.seq}" if sample.seq is not None else f"ts {sample.ts_ms}"
            return Answer(Status.CONFLICT, seq=recent.seq, reason=f"{name} was accepted before with other content")
        return duplicate(sample, recent)
    if sample.seq is not None and sample.seq <= int(head["seq"]):
        return Answer(
            Status.LATE, seq=sample.seq, reason=f"seq {sample.seq} comes after seq {int(head['seq'])} was accepted"
        )
    last_ts_ms = int(head["last_ts_ms"])
    if sample.ts_ms <= last_ts_ms:
        behind = (last_ts_ms - sample.ts_ms) / 1000
        return Answer(Status.LATE, seq=sample.seq, reason=f"ts is {behind:.3f} s before the last accepted sample's")
    return None


def duplicate(sample: Sample, recent: Recent | None) -> Answer:
    """The stored answer to a retry; without numbers once it is out of the ring of recent answers."""
    if recent is None:
        return Answer(Status.DUPLICATE, seq=sample.seq)
    return Answer(
        Status.DUPLICATE,
        seq=recent.seq,
        risk=number_or_none(recent.risk),
        surprise=number_or_none(recent.surprise),
        phase=recent.phase,
    )
