"""Drives as the study sees them: what was read each day, and what became of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]
Singles = NDArray[np.float32]
Floats = NDArray[np.float64]

NO_FAILURE = -1
Kind = TypeVar("Kind", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Seen:
    """What the files hold, whatever was kept of it."""

    files: int
    rows: int
    drives: int
    failures: int
    after_failure: int  # rows of kept drives after their failure, left out


@dataclass(frozen=True, slots=True)
class Drives:
    """The kept drives' days, drive after drive, each in order of time."""

    serials: NDArray[np.str_]  # (n_drives,)
    models: NDArray[np.str_]  # (n_drives,)
    failure_day: Ints  # (n_drives,) last day before it failed, from the first day of the data on; NO_FAILURE
    starts: Ints  # (n_drives + 1,) where each drive's rows begin
    day: Ints  # (n_rows,) from the first day of the data on
    values: Singles  # (n_rows, n_attributes) log(1 + raw value), NaN where absent
    attributes: tuple[int, ...]  # SMART numbers that any file has
    first_date: date
    n_days: int
    seen: Seen

    def __len__(self) -> int:
        return len(self.serials)

    @property
    def drive(self) -> Ints:
        """(n_rows,) whose row it is."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    @property
    def days_left(self) -> Floats:
        """(n_rows,) days until the last day before the failure; NaN of drives that did not fail."""
        end = self.failure_day[self.drive]
        return np.where(end == NO_FAILURE, np.nan, end - self.day)

    def label(self, horizon_days: int) -> Bools:
        """(n_rows,) the drive fails within so many days, this one included."""
        return np.nan_to_num(self.days_left, nan=np.inf) < horizon_days

    def counted(self, horizon_days: int, start: int, end: int) -> Bools:
        """(n_rows,) days from `start` on whose label is known before day `end`, positive or not.

        A drive that disappears without a failure says nothing about its last days.
        """
        ends = self.day + horizon_days - 1
        last_seen = self.day[self.starts[1:] - 1][self.drive]
        lost = (self.failure_day[self.drive] == NO_FAILURE) & (ends > last_seen)
        counted: Bools = (self.day >= start) & (ends < end) & ~lost
        return counted

    def take(self, picked: Sequence[int] | Ints) -> "Drives":
        """These drives only, in this order."""
        rows = np.concatenate([np.arange(self.starts[i], self.starts[i + 1]) for i in picked])
        lengths = np.diff(self.starts)[picked]
        return Drives(
            serials=self.serials[picked],
            models=self.models[picked],
            failure_day=self.failure_day[picked],
            starts=np.concatenate(([0], np.cumsum(lengths))),
            day=self.day[rows],
            values=self.values[rows],
            attributes=self.attributes,
            first_date=self.first_date,
            n_days=self.n_days,
            seen=self.seen,
        )

    def padded(self, rows: NDArray[Kind], fill: float | bool = 0) -> NDArray[Kind]:
        """(n_drives, longest, ...) something of every row, filled up behind each drive's last."""
        lengths = np.diff(self.starts)
        place = np.arange(len(self.day)) - np.repeat(self.starts[:-1], lengths)
        out = np.full((len(self), int(lengths.max()), *rows.shape[1:]), fill, rows.dtype)
        out[self.drive, place] = rows
        return out
