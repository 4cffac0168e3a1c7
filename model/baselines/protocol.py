"""What a baseline needs of a vehicle and a fleet, and what it offers. `model.fleet.VehicleTrace` is a `Trace`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.channels import SIGNALS

Singles = NDArray[np.float32]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Millis = NDArray[np.int64]

COLUMN = {name: i for i, name in enumerate(SIGNALS)}
OPTIONAL_SIGNALS = ("pack_current", "pack_temperature", "ambient_temperature")


class BaselineError(ValueError):
    """A baseline cannot be made, fitted, loaded or used; the message says why."""


class Trace(Protocol):
    """One vehicle's samples with labels."""

    @property
    def ts_ms(self) -> Millis:
        """(L,) epoch milliseconds, strictly increasing."""

    @property
    def signals(self) -> Singles:
        """(L, n_signals) wire units in the order of SIGNALS, NaN when absent."""

    @property
    def label(self) -> Bools:
        """(L,) an event starts within two hours."""

    @property
    def valid(self) -> Bools:
        """(L,) the label means something."""

    @property
    def events_ms(self) -> Millis:
        """(n_events,) starts."""


class TraceSource(Protocol):
    """A fleet whose traces are made on demand; picklable, so that any process can make them."""

    def __len__(self) -> int: ...

    def trace(self, index: int) -> Trace:
        """Vehicle number `index`."""


class Baseline(Protocol):
    """A scorer that can be fitted, saved and loaded."""

    @property
    def name(self) -> str:
        """The row's name in reports."""

    def fit(self, train: TraceSource, validation: TraceSource, *, seed: int = 0, workers: int = 1) -> None:
        """Learn from the training fleet; choices that need unseen vans are made on the validation fleet."""

    def score(self, traces: Sequence[Trace]) -> list[Singles]:
        """One score per sample of each trace: causal, finite, monotone in risk, on the scale of a logit."""

    def save(self, folder: Path) -> None:
        """Write everything that `model.baselines.load` needs."""
