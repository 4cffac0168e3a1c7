"""Samples and answers as columns: what travels between the routes, the batcher and the engine.

A request of 1 sample and one of 1,000 take the same path. Rows keep the order of the request; rows of one vehicle are
in the order in which they are to be applied.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

NO_SEQ = -1
CURRENT_EPOCH = 0  # of a sample that names none: sessions count from 1

Millis = NDArray[np.int64]


class Status(IntEnum):
    """The verdict on one sample; `word` is what goes over the wire."""

    APPLIED = 0
    DUPLICATE = 1
    LATE = 2
    INVALID = 3
    CONFLICT = 4
    DEFERRED = 5  # not tried, or tried in vain: send it again
    OVERLOADED = 6  # no room to queue it: send it again later

    @property
    def word(self) -> str:
        """As in DESIGN and in metrics."""
        return self.name.lower()


ACCEPTED = (Status.APPLIED, Status.DUPLICATE)
RETRYABLE = (Status.DEFERRED, Status.OVERLOADED)


@dataclass(frozen=True, slots=True)
class FieldError:
    """Why one field was refused."""

    field: str
    reason: str


@dataclass(frozen=True, slots=True)
class Samples:
    """Readable samples, one per row.

    Attributes:
        vehicle_ids: (n,).
        ts_ms: (n,) epoch milliseconds.
        seq: (n,) int64, NO_SEQ where the sender gave none.
        epoch: (n,) int64, CURRENT_EPOCH where the sender gave none.
        signals: (n, n_signals) float64 in the schema's order, NaN where absent; C order.
        digest: (n,) uint64 over time and content, to tell a retry from another sample of the same number.
    """

    vehicle_ids: list[str]
    ts_ms: Millis
    seq: NDArray[np.int64]
    epoch: NDArray[np.int64]
    signals: NDArray[np.float64]
    digest: NDArray[np.uint64]

    @staticmethod
    def of(
        vehicle_ids: list[str],
        ts_ms: Millis,
        seq: NDArray[np.int64],
        epoch: NDArray[np.int64],
        signals: NDArray[np.float64],
    ) -> "Samples":
        """Columns with their digests."""
        return Samples(vehicle_ids, ts_ms, seq, epoch, signals, digests(ts_ms, signals))

    def __len__(self) -> int:
        return len(self.vehicle_ids)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "Samples":
        """These rows, in this order."""
        at = np.asarray(rows, np.int64)
        ids = self.vehicle_ids
        return Samples(
            [ids[row] for row in at.tolist()],
            self.ts_ms[at],
            self.seq[at],
            self.epoch[at],
            self.signals[at],
            self.digest[at],
        )


def join_samples(parts: Sequence[Samples]) -> Samples:
    """One after the other; at least one part."""
    if len(parts) == 1:
        return parts[0]
    return Samples(
        [vehicle_id for part in parts for vehicle_id in part.vehicle_ids],
        np.concatenate([part.ts_ms for part in parts]),
        np.concatenate([part.seq for part in parts]),
        np.concatenate([part.epoch for part in parts]),
        np.concatenate([part.signals for part in parts]),
        np.concatenate([part.digest for part in parts]),
    )


def digests(ts_ms: Millis, signals: NDArray[np.float64]) -> NDArray[np.uint64]:
    """64 bits over time and content of each row (XXH64 of both as little-endian bytes)."""
    rows = np.empty((len(signals), signals.shape[1] + 1))
    rows[:, 0], rows[:, 1:] = ts_ms.view(np.float64), signals
    width, data = rows.itemsize * rows.shape[1], rows.tobytes()
    hashed = [xxhash.xxh64_intdigest(data[at : at + width]) for at in range(0, len(data), width)]
    return np.array(hashed, np.uint64)


@dataclass(slots=True)
class Answers:
    """What the sender is told about each sample, by row.

    Attributes:
        status: (n,) uint8, a Status.
        seq: (n,) int64, NO_SEQ where there is none to tell.
        risk: (n,) float64, NaN where there is none.
        surprise: (n,) float64, nats per channel, NaN where there is none.
        phase: (n,) int8, a Phase of service/records/head.py, -1 where there is none.
        warming_up: (n,) int8, 0 or 1, -1 where it is not known.
        reasons: by row, why a sample was not applied.
        errors: by row, the fields that were refused.
    """

    status: NDArray[np.uint8]
    seq: NDArray[np.int64]
    risk: NDArray[np.float64]
    surprise: NDArray[np.float64]
    phase: NDArray[np.int8]
    warming_up: NDArray[np.int8]
    reasons: dict[int, str] = field(default_factory=dict)
    errors: dict[int, tuple[FieldError, ...]] = field(default_factory=dict)

    @staticmethod
    def blank(n: int, status: Status) -> "Answers":
        """N answers of one status with nothing else to tell."""
        return Answers(
            _filled(n, status, np.uint8),
            _filled(n, NO_SEQ, np.int64),
            _filled(n, np.nan, np.float64),
            _filled(n, np.nan, np.float64),
            _filled(n, -1, np.int8),
            _filled(n, -1, np.int8),
        )

    def __len__(self) -> int:
        return len(self.status)

    def put(self, rows: Sequence[int] | NDArray[np.int64], other: "Answers") -> None:
        """Write another's answers, in its order, to these rows."""
        at = np.asarray(rows, np.int64)
        for name in ("status", "seq", "risk", "surprise", "phase", "warming_up"):
            getattr(self, name)[at] = getattr(other, name)
        for place, row in enumerate(at.tolist()):
            if place in other.reasons:
                self.reasons[row] = other.reasons[place]
            if place in other.errors:
                self.errors[row] = other.errors[place]

    def part(self, first: int, end: int) -> "Answers":
        """The answers to rows [first, end) as views of these."""
        if end - first == len(self):
            return self
        at = slice(first, end)
        return Answers(
            self.status[at],
            self.seq[at],
            self.risk[at],
            self.surprise[at],
            self.phase[at],
            self.warming_up[at],
            {row - first: self.reasons[row] for row in range(first, end) if row in self.reasons}
            if self.reasons
            else {},
            {row - first: self.errors[row] for row in range(first, end) if row in self.errors} if self.errors else {},
        )

    def refuse(self, rows: Iterable[int], status: Status, reason: str) -> None:
        """One verdict and one reason for several rows."""
        for row in rows:
            self.status[row] = status
            self.reasons[row] = reason

    def all_accepted(self) -> bool:
        """Whether every sample is part of its vehicle's state."""
        return bool(np.isin(self.status, ACCEPTED).all())

    def wait(self) -> bool:
        """Whether some sample may be sent again."""
        return bool(np.isin(self.status, RETRYABLE).any())


def _filled(n: int, value: float, dtype: type[np.generic]) -> NDArray[Any]:
    """(n,) of one value; np.full takes ten times as long for a single row, which is most of the requests."""
    column = np.empty(n, dtype)
    column.fill(value)
    return column
