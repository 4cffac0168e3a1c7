"""What a baseline offers: it can be fitted, saved and loaded, and it scores as the product's network does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.channels import SIGNALS, VAN_SCHEMA
from model.dataset import Trace, TraceSource

Singles = NDArray[np.float32]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Millis = NDArray[np.int64]

COLUMN = {name: i for i, name in enumerate(SIGNALS)}
OPTIONAL_SIGNALS = tuple(channel.source for channel in VAN_SCHEMA.channels if not channel.core)


class BaselineError(ValueError):
    """A baseline cannot be made, fitted, loaded or used; the message says why."""


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
