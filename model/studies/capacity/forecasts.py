"""Forecasts with intervals: boosted quantiles made conformal, and naive forecasts with conformal intervals around them.

Boosted quantiles: LightGBM learns how far the target will lie from the mean of the same weekdays, at three quantiles and in
the mean. Conformalised quantile regression (Romano, Patterson, Candes 2019) then widens or narrows the outer two by one
number, chosen on later days than those that were learned from, so that the stated share of targets would have lain inside.
Naive forecasts get a symmetric interval in the same way (split conformal, Lei et al. 2018).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from model.baselines.booster import Labelled, grow, mean_prediction
from model.studies.capacity.panel import Rows

Floats = NDArray[np.float64]

LEVEL = "weekday_mean"  # what the trees begin from
EVERY = 4  # one van in so many chooses the number of trees; later days would not do, weeks overlap
TREES: Mapping[str, Any] = {
    "num_leaves": 4, "min_data_in_leaf": 20, "learning_rate": 0.03, "feature_fraction": 0.5, "bagging_fraction": 0.7,
    "bagging_freq": 1, "lambda_l2": 5.0,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Spread:
    """A forecast with its interval, (n,) each."""

    low: Floats
    middle: Floats  # the median
    high: Floats
    mean: Floats  # adds up over vans

    @property
    def half_width(self) -> Floats:
        """(n,)."""
        return 0.5 * (self.high - self.low)


@dataclass(frozen=True, slots=True)
class BoostingPlan:
    """How trees are grown."""

    coverage: float = 0.9  # of the intervals
    most_trees: int = 600
    patience: int = 60
    bag: int = 1  # boosters of different seeds whose predictions are averaged
    threads: int = 1  # a thousand rows: more threads only wait for one another
    seed: int = 0


class BoostedQuantiles:
    """One target at one horizon."""

    def __init__(self, plan: BoostingPlan) -> None:
        self.plan = plan
        tail = 0.5 * (1.0 - plan.coverage)
        self._objectives: dict[str, dict[str, Any]] = {
            "low": {"objective": "quantile", "metric": "quantile", "alpha": tail},
            "middle": {"objective": "quantile", "metric": "quantile", "alpha": 0.5},
            "high": {"objective": "quantile", "metric": "quantile", "alpha": 1.0 - tail},
            "mean": {"objective": "l2", "metric": "l2"},
        }
        self._boosters: dict[str, list[lightgbm.Booster]] = {}
        self._margin = 0.0
        self._least = -np.inf
        self.trees: dict[str, int] = {}

    def fit(self, train: Rows, calibration: Rows) -> None:
        """Grow the trees on some days of two vans or more and set the margin on later ones; targets are known in both."""
        self._least = 0.0 if train.y.min() >= 0.0 else -np.inf
        judge = train.van % EVERY == 0
        if judge.all() or not judge.any():
            judge = train.van == train.van.min()
        for name, objective in self._objectives.items():
            fixed = {**objective, **TREES, "seed": self.plan.seed, "num_threads": self.plan.threads}
            first = grow(
                labelled(train.take(~judge)), fixed, {}, trees=self.plan.most_trees,
                held_out=labelled(train.take(judge)), patience=self.plan.patience, names=list(train.names),
            )  # fmt: skip
            self.trees[name] = max(1, first.best_iteration)
            self._boosters[name] = [
                grow(
                    labelled(train),
                    {**fixed, "seed": self.plan.seed + i},
                    {},
                    trees=self.trees[name],
                    names=list(train.names),
                )
                for i in range(self.plan.bag)
            ]
        self._margin = 0.0
        before = self.predict(calibration)
        outside = np.maximum(before.low - calibration.y, calibration.y - before.high)
        self._margin = conformal_quantile(outside, self.plan.coverage)

    def predict(self, rows: Rows) -> Spread:
        """A forecast for each row."""
        raw = {
            name: rows.naive[LEVEL] + mean_prediction(boosters, rows.x, self.plan.threads)
            for name, boosters in self._boosters.items()
        }
        low, middle, high = np.sort([raw["low"], raw["middle"], raw["high"]], axis=0)  # quantiles must not cross
        low, high = np.minimum(low - self._margin, middle), np.maximum(high + self._margin, middle)
        return Spread(*(np.maximum(part, self._least) for part in (low, middle, high, raw["mean"])))


class Naive:
    """One of the forecasts without learning, its interval as wide as its errors were on the calibration's days."""

    def __init__(self, name: str, coverage: float) -> None:
        self._name, self._coverage = name, coverage
        self._margin, self._least = 0.0, -np.inf

    def fit(self, train: Rows, calibration: Rows) -> None:
        """Set the interval's margin."""
        self._least = 0.0 if train.y.min() >= 0.0 else -np.inf
        self._margin = conformal_quantile(np.abs(calibration.y - calibration.naive[self._name]), self._coverage)

    def predict(self, rows: Rows) -> Spread:
        """A forecast for each row."""
        middle = rows.naive[self._name]
        low, high = np.maximum(middle - self._margin, self._least), middle + self._margin
        return Spread(low, middle, high, middle)


def labelled(rows: Rows) -> Labelled:
    """Rows with how far the target lies from its level."""
    return Labelled(rows.x, rows.y - rows.naive[LEVEL])


def conformal_quantile(scores: Floats, coverage: float) -> float:
    """The score (of n) that the next one exceeds with a probability of at most 1 - coverage, if all are exchangeable.

    The largest one when n is too small for that.
    """
    n = len(scores)
    place = int(np.ceil((n + 1) * coverage)) - 1
    return float(np.sort(scores)[min(place, n - 1)])


def pinball(y: Floats, forecast: Floats, quantile: float) -> Floats:
    """(n,) the loss that the quantile of this share minimises, in the unit of y."""
    return np.maximum(quantile * (y - forecast), (quantile - 1.0) * (y - forecast))


def interval_loss(y: Floats, spread: Spread, coverage: float) -> Floats:
    """(n,) pinball loss, averaged over the interval's ends and the median."""
    tail = 0.5 * (1.0 - coverage)
    parts: Sequence[Floats] = (
        pinball(y, spread.low, tail), pinball(y, spread.middle, 0.5), pinball(y, spread.high, 1.0 - tail),
    )  # fmt: skip
    mean: Floats = np.mean(parts, axis=0)
    return mean
