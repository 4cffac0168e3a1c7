"""Forecasts judged on days after those they were made from, on vans they know and on vans they never saw.

Days: learned from | calibrated on | judged on, in this order, and no target reaches from one part into the next. Vans: a
fifth, by a hash of the id, is new to the forecast: never learned from nor calibrated on. Figures are sums per van, so that
their intervals resample vans (model/evaluation/bootstrap.py).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.evaluation.exact import weighted_auroc
from model.studies.capacity.forecasts import BoostedQuantiles, BoostingPlan, Naive, Spread, interval_loss
from model.studies.capacity.panel import NAIVE, WEEK, Panel, Rows, rows_of
from model.training.own_data import hash_share

Floats = NDArray[np.float64]

BOOSTED = "lightgbm"
CONTENDERS = (BOOSTED, *NAIVE)
SEASONAL = "last_week"  # what skill is measured against
TARGETS = ("used_kwh", "depot_kwh", "pack_min_35", "motor_min_70")
HORIZONS = (1, WEEK)
NEW_SHARE = 0.2  # of the vans
FIGURES = ("mae", "pinball", "coverage", "width")
HOT_MINUTES = 30.0  # of a day above the band: a hot van
LEAST_TRAINING_DAYS = 14


@dataclass(frozen=True, slots=True)
class Split:
    """Days of a panel by number: evenings up to `learned` are learned from, those up to `calibrated` set intervals."""

    learned: int
    calibrated: int
    n_days: int

    def parts(self, rows: Rows, horizon: int) -> tuple[Rows, Rows, Rows]:
        """What is learned from, calibrated on and judged on; only rows whose target and naive forecasts are known."""
        known, ends = rows.judgeable, rows.origin + horizon
        return (
            rows.take(known & (ends <= self.learned)),
            rows.take(known & (rows.origin >= self.learned) & (ends <= self.calibrated)),
            rows.take(known & (rows.origin >= self.calibrated)),
        )


def split_days(n_days: int, test_days: int, calibration_days: int) -> Split:
    """The last days are judged on, those before them calibrated on.

    Raises:
        ValueError: too few days; the message says how many it takes.
    """
    least = max(HORIZONS) + 1
    if min(test_days, calibration_days) < least:
        raise ValueError(f"{least} days to judge on and as many to calibrate on are the least")
    needed = WEEK + LEAST_TRAINING_DAYS + calibration_days + test_days
    if n_days < needed:
        raise ValueError(
            f"there are {n_days} days; forecasts take {needed}: {WEEK} to look back on, {LEAST_TRAINING_DAYS} to learn "
            f"from, {calibration_days} to calibrate on and {test_days} to judge on"
        )
    calibrated = n_days - 1 - test_days
    return Split(calibrated - calibration_days, calibrated, n_days)


def new_vans(panel: Panel) -> NDArray[np.bool_]:
    """(n_vans,) which are never learned from; a van stays where it is when others join."""
    return np.array([hash_share(van) < NEW_SHARE for van in panel.vehicle_ids])


@dataclass(frozen=True, slots=True)
class Judged:
    """One target at one horizon, all contenders on the same rows."""

    target: str
    horizon: int
    sizes: Mapping[str, int]  # rows by part: learned, calibrated, judged
    calibration: Rows
    test: Rows  # of known and of new vans
    is_new: NDArray[np.bool_]  # (rows of `test`,)
    spreads: Mapping[str, tuple[Spread, Spread]]  # by contender: for `calibration`, for `test`
    trees: Mapping[str, int]


def judge(panel: Panel, target: str, horizon: int, split: Split, plan: BoostingPlan) -> Judged | None:
    """Fit every contender and let it forecast the days to judge on; None where too little is known."""
    new = new_vans(panel)
    rows = rows_of(panel, target, horizon)
    train, calibration, _ = split.parts(rows.take(~new[rows.van]), horizon)
    test = split.parts(rows, horizon)[2]
    if len(np.unique(train.van)) < 2 or not len(calibration) or not len(test):
        return None
    boosted = BoostedQuantiles(plan)
    contenders: dict[str, BoostedQuantiles | Naive] = {BOOSTED: boosted}
    contenders |= {name: Naive(name, plan.coverage) for name in NAIVE}
    spreads = {}
    for name, contender in contenders.items():
        contender.fit(train, calibration)
        spreads[name] = contender.predict(calibration), contender.predict(test)
    sizes = {"learned": len(train), "calibrated": len(calibration), "judged": len(test)}
    return Judged(target, horizon, sizes, calibration, test, new[test.van], spreads, boosted.trees)


def figures(judged: Judged, weights: Floats, coverage: float, *, new: bool) -> dict[str, dict[str, Floats]]:
    """(1 + n_resamples,) values by figure and contender, of the new or of the known vans.

    Args:
        judged: one target at one horizon.
        weights: (1 + n_resamples, n_vans) how often each van counts.
        coverage: that the intervals are meant to have.
        new: which vans.
    """
    some = judged.is_new if new else ~judged.is_new
    y, van = judged.test.y[some], judged.test.van[some]
    count = weights @ np.bincount(van, minlength=weights.shape[1])
    found: dict[str, dict[str, Floats]] = {name: {} for name in FIGURES}
    for contender, (_, spread) in judged.spreads.items():
        s = Spread(*(part[some] for part in (spread.low, spread.middle, spread.high, spread.mean)))
        values = {
            "mae": np.abs(y - s.middle),
            "pinball": interval_loss(y, s, coverage),
            "coverage": ((y >= s.low) & (y <= s.high)).astype(np.float64),
            "width": s.high - s.low,
        }
        for name, value in values.items():
            total = weights @ np.bincount(van, value, minlength=weights.shape[1])
            found[name][contender] = np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)
    return found


def hot_auroc(judged: Judged, weights: Floats) -> dict[str, Floats]:
    """(1 + n_resamples,) by contender: how well its mean tells vans that will be hot from others, on known vans."""
    some = ~judged.is_new
    hot, counted = judged.test.y[some] >= HOT_MINUTES * judged.horizon, weights[:, judged.test.van[some]]
    return {
        name: np.array([weighted_auroc(spread.mean[some], hot, weight) for weight in counted])
        for name, (_, spread) in judged.spreads.items()
    }
