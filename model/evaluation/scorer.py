"""What is evaluated: anything that turns traces into one score per sample."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model.fleet import VehicleTrace


class Scorer(Protocol):
    """A model as evaluation sees it."""

    @property
    def name(self) -> str:
        """`model` in the report's rows: mamba, temperature_rule, gaussian, lightgbm, lstm, transformer, oracle."""

    def score(self, traces: Sequence[VehicleTrace]) -> list[NDArray[np.float32]]:
        """One finite score per sample of each trace, causal and monotone in risk, as a logit.

        The scale is free: evaluation fits slope and intercept on the validation split.
        """
