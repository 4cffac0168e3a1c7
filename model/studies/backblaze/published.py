"""The comparison that is repeated: its figures on other data (Backblaze, Q4 2023), and whether ours say the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from model.evaluation.figure_row import Floats, row

# By contender of ours; the published boosting is XGBoost.
AUROC = {"lightgbm": 0.920, "transformer": 0.916, "lstm": 0.907, "mamba": 0.901}
F2 = {"lightgbm": 0.095, "transformer": 0.006, "lstm": 0.006, "mamba": 0.017}
F2_OF_LOSS = {"focal": 0.089, "bce": 0.034}
MAE = {"mamba": 8.74, "transformer": 9.52, "lstm": 10.12}
R2 = {"mamba": 0.478, "transformer": 0.392, "lstm": 0.327}


@dataclass(frozen=True, slots=True)
class Claim:
    """Something the publication says, as a difference that it says is positive; (1 + resamples,) of ours."""

    text: str
    published: float
    ours: Floats

    @property
    def verdict(self) -> str:
        """Whether our data say the same."""
        one = row("", {}, self.ours)
        if one["lo"] is None:
            return "not measured"
        if one["lo"] > 0:
            return "borne out"
        return "contradicted" if one["hi"] < 0 else "cannot be told"


def claims(
    auroc: Mapping[str, Floats], f2: Mapping[str, Floats], f2_of_loss: Mapping[str, Floats], mae: Mapping[str, Floats]
) -> list[Claim]:
    """Every order that the published figures give, beside ours."""
    found = [
        *_orders("AUROC", AUROC, auroc, 1.0),
        *_orders("F2", F2, f2, 1.0),
        *_orders("days to failure, MAE", MAE, mae, -1.0),
    ]
    losses = np.asarray(f2_of_loss["focal"]) - f2_of_loss["bce"]
    return [*found, Claim("F2: focal above bce", F2_OF_LOSS["focal"] - F2_OF_LOSS["bce"], losses)]


def _orders(figure: str, published: Mapping[str, float], ours: Mapping[str, Floats], sign: float) -> list[Claim]:
    """The published best against each other one, and its neighbours."""
    order = sorted(published, key=lambda name: -sign * published[name])
    pairs = [(order[0], other) for other in order[1:]] + list(pairwise(order[1:]))
    word = "above" if sign > 0 else "below"
    return [
        Claim(f"{figure}: {a} {word} {b}", sign * (published[a] - published[b]), sign * (ours[a] - ours[b]))
        for a, b in pairs
        if published[a] != published[b]
    ]
