"""Gradient boosting on rolling features (LightGBM), and the same learner with the hidden temperatures: the oracle.

Two bags of boosters: one on all features, one on those of the six core channels, which scores a van as long as none of
the optional signals has been seen and is averaged in afterwards. Needs the `train` extra.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

from model.baselines.booster import Rows, boost, joined, mean_prediction
from model.baselines.expectation import TARGETS, Expectation, fit_expectation, load_bank
from model.baselines.minute_chunks import EVERY, SERIES, chunk_series, held
from model.baselines.protocol import COLUMN, OPTIONAL_SIGNALS, BaselineError, Bools, Floats, Singles
from model.baselines.rolling_features import Table, add_hidden, rolling_features
from model.baselines.selection import over_fleet, spread
from model.dataset import Trace, TraceSource
from model.evaluation.exact import weighted_auroc
from model.fleet import VehicleTrace

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BoostingConfig:
    """How rows are drawn and trees are searched."""

    expectation_vehicles: int = 60  # vans without events that tell what load explains
    negative_minutes: int = 250_000  # of the training fleet, beside all positive ones; weights undo the drawing
    event_van_factor: float = 4.0  # negatives of vans with an event are so much likelier to be drawn
    hide_probability: float = 0.3  # of each optional signal of a van, as for the networks
    searches: int = 8  # points of SEARCH tried on the validation fleet
    most_trees: int = 1_500
    patience: int = 250  # trees without a better validation AUROC
    bag: int = 3  # boosters of different seeds whose margins are averaged
    threads: int = 2


# Tried in this order. Rows of one event say nearly the same, so leaves must be large and cautious: with less
# regularisation than this the validation AUROC peaked after a few dozen trees and lower.
SEARCH: tuple[dict[str, Any], ...] = (
    {"num_leaves": 15, "min_data_in_leaf": 1_500, "feature_fraction": 0.1, "lambda_l2": 100.0},
    {"num_leaves": 15, "min_data_in_leaf": 400, "min_sum_hessian_in_leaf": 30.0, "lambda_l2": 30.0},
    {"num_leaves": 63, "min_data_in_leaf": 400, "feature_fraction": 0.1, "lambda_l2": 100.0},
    {"num_leaves": 6, "min_data_in_leaf": 1_500, "feature_fraction": 0.1, "lambda_l2": 100.0},
    {"num_leaves": 31, "min_data_in_leaf": 1_500, "min_sum_hessian_in_leaf": 30.0, "feature_fraction": 0.2},
    {"num_leaves": 15, "min_data_in_leaf": 3_000, "feature_fraction": 0.3, "lambda_l2": 300.0},
    {"num_leaves": 31, "min_data_in_leaf": 200, "feature_fraction": 0.05, "lambda_l2": 30.0},
    {"num_leaves": 15, "min_data_in_leaf": 1_500, "feature_fraction": 0.1, "lambda_l2": 100.0, "extra_trees": True},
)


FULL_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def without(trace: Any, signals: Sequence[str]) -> Any:
    """The trace (a dataclass) with these signals absent."""
    hidden = trace.signals.copy()
    hidden[:, [COLUMN[name] for name in signals]] = np.nan
    return replace(trace, signals=hidden)


def features_of(trace: Trace, expectations: Mapping[str, Expectation], *, oracle: bool) -> Table:
    """The learner's table of one van.

    Raises:
        BaselineError: the oracle is given a trace without hidden temperatures.
    """
    table = rolling_features(trace, expectations)
    if oracle:
        if not isinstance(trace, VehicleTrace):
            raise BaselineError("the oracle needs simulated traces: this one has no hidden temperatures")
        add_hidden(table, trace)
    return table


@dataclass(frozen=True, slots=True)
class RowDraw:
    """Draws the rows of one van; picklable."""

    expectations: Mapping[str, Expectation]
    negative_share: float
    config: BoostingConfig
    oracle: bool
    seed: int
    hide: bool

    def __call__(self, trace: Trace, vehicle: int) -> Rows:
        """All its positive minutes and a share of the others."""
        rng = np.random.default_rng((self.seed, vehicle))
        hidden = [name for name in OPTIONAL_SIGNALS if rng.random() < self.config.hide_probability]
        table = features_of(without(trace, hidden if self.hide else []), self.expectations, oracle=self.oracle)
        label, valid = trace.label[::EVERY], trace.valid[::EVERY]
        eventful = bool((label & valid).any())
        share = min(1.0, self.negative_share * (self.config.event_van_factor if eventful else 1.0))
        keep = valid & (label | (rng.random(len(label)) < share))
        names = tuple(table.columns)
        return Rows(
            x=table.matrix()[keep],
            label=label[keep],
            weight=np.where(label[keep], 1.0, 1.0 / share),
            names=names,
            core=np.array([name not in table.optional for name in names]),
        )


def expectation_rows(trace: Trace, _vehicle: int) -> dict[str, tuple[Floats, Floats]] | None:
    """Loads and temperature of every tenth minute, for each of TARGETS; None when the van has an event."""
    if len(trace.events_ms):
        return None
    chunks = chunk_series(trace)
    rows = {}
    for target, series in TARGETS.items():
        loads = load_bank(chunks, full=target.endswith("_full"))
        rows[target] = (loads[::10], chunks.mean[::10, SERIES.index(series)])
    return rows


def fit_expectations(source: TraceSource, most: int, workers: int) -> dict[str, Expectation]:
    """What load explains, from vans without events.

    Raises:
        BaselineError: every van that was looked at has an event.
    """
    vehicles = spread(len(source), 2 * most)
    quiet = [part for part in over_fleet(source, vehicles, expectation_rows, workers) if part is not None][:most]
    if not quiet:
        raise BaselineError("every van of the training fleet has an event: nothing tells what is normal")
    return {
        target: fit_expectation(*(np.concatenate([part[target][i] for part in quiet]) for i in range(2)))
        for target in TARGETS
    }


class Boosting:
    """The learner with and without hidden temperatures."""

    def __init__(self, config: BoostingConfig | None = None, *, oracle: bool = False) -> None:
        self.name = "oracle" if oracle else "lightgbm"
        self.oracle = oracle
        self.config = config or BoostingConfig()
        self.expectations: dict[str, Expectation] = {}
        self.names: tuple[str, ...] = ()
        self.core_names: tuple[str, ...] = ()
        self.full: list[lightgbm.Booster] = []
        self.core: list[lightgbm.Booster] = []
        self.full_share = 1.0  # of the margin, once an optional signal has been seen
        self.search: list[dict[str, Any]] = []  # what was tried, with validation AUROC

    def fit(self, train: TraceSource, validation: TraceSource, *, seed: int = 0, workers: int = 1) -> None:
        """Fit expectations, draw rows, search on the validation fleet, keep the best trees.

        Raises:
            BaselineError: a fleet without both positive and negative minutes.
        """
        self.expectations = fit_expectations(train, self.config.expectation_vehicles, workers)
        rows = self._rows(train, seed, workers, hide=True)
        # Not hidden on validation: the choice is made for vans as they come.
        judged = self._rows(validation, seed + 1, workers, hide=False)
        self.names, core = rows.names, rows.core
        self.core_names = tuple(np.array(rows.names)[core].tolist())
        logger.info("%s: %d rows, %d features, %d of them core", self.name, *rows.x.shape, int(core.sum()))
        everything = np.ones(len(core), np.bool_)
        best: tuple[float, dict[str, Any]] = (-np.inf, SEARCH[0])
        for parameters in SEARCH[: self.config.searches]:
            booster, auroc = self._boost(rows, judged, everything, parameters, seed)
            self.search.append({**parameters, "trees": booster.best_iteration, "validation_auroc": round(auroc, 5)})
            logger.info("%s: %s", self.name, self.search[-1])
            if auroc > best[0]:
                best, self.full = (auroc, parameters), [booster]
        for more in range(1, self.config.bag):
            self.full.append(self._boost(rows, judged, everything, best[1], seed + more)[0])
        self.core = [self._boost(rows, judged, core, best[1], seed + i)[0] for i in range(self.config.bag)]
        self._choose_share(judged, core)

    def _choose_share(self, judged: Rows, core: Bools) -> None:
        """Weigh the two bags by the validation AUROC of their sum; with few events all features may be too many."""
        full, sparse = self._margins(self.full, judged.x), self._margins(self.core, judged.x[:, core])
        figures = {
            share: weighted_auroc(share * full + (1.0 - share) * sparse, judged.label, judged.weight)
            for share in FULL_SHARES
        }
        self.full_share = max(figures, key=figures.__getitem__)
        self.search += [{"full_share": share, "validation_auroc": round(auroc, 5)} for share, auroc in figures.items()]
        logger.info("%s: validation AUROC by share of the full bag %s", self.name, figures)

    def _rows(self, source: TraceSource, seed: int, workers: int, *, hide: bool) -> Rows:
        """Positive minutes and about `negative_minutes` others of a whole fleet."""
        minutes = len(source) * len(source.trace(0).ts_ms) / EVERY
        draw = RowDraw(
            self.expectations, min(1.0, self.config.negative_minutes / minutes), self.config, self.oracle, seed, hide
        )
        rows = joined(over_fleet(source, range(len(source)), draw, workers))
        if not rows.label.any() or rows.label.all():
            raise BaselineError(f"{self.name} needs minutes with and without an event ahead, in both fleets")
        return rows

    def _boost(
        self, rows: Rows, judged: Rows, columns: Bools, parameters: dict[str, Any], seed: int
    ) -> tuple[lightgbm.Booster, float]:
        """One booster on some of the columns with its validation AUROC."""
        config = self.config
        return boost(
            rows, judged, columns, parameters, seed=seed, trees=config.most_trees, patience=config.patience,
            threads=config.threads,
        )  # fmt: skip

    def _margins(self, boosters: Sequence[lightgbm.Booster], x: Singles) -> Floats:
        """(n,) log-odds, averaged over the boosters."""
        return mean_prediction(boosters, x, self.config.threads, raw_score=True)

    def score(self, traces: Sequence[Trace]) -> list[Singles]:
        """One raw margin per sample of each trace, renewed once a minute."""
        return [self._score_one(trace) for trace in traces]

    def _score_one(self, trace: Trace) -> Singles:
        if not self.full:
            raise BaselineError(f"{self.name} is not fitted")
        table = features_of(trace, self.expectations, oracle=self.oracle)
        x = table.matrix()
        names = list(table.columns)
        full = self._margins(self.full, x)
        columns = [names.index(name) for name in self.core_names]
        core = self._margins(self.core, x[:, columns])
        optional = ~np.isnan(trace.signals[:, [COLUMN[name] for name in OPTIONAL_SIGNALS]])
        seen = np.maximum.accumulate(optional.any(axis=1))[::EVERY]
        margin = np.where(seen, self.full_share * full + (1.0 - self.full_share) * core, core)
        return held(margin, len(trace.ts_ms))

    def save(self, folder: Path) -> None:
        """Write `baseline.json` and the boosters as LightGBM's own text."""
        if not self.full:
            raise BaselineError(f"{self.name} is not fitted")
        folder.mkdir(parents=True, exist_ok=True)
        for name, boosters in (("full", self.full), ("core", self.core)):
            for i, booster in enumerate(boosters):
                booster.save_model(folder / f"{name}-{i}.txt", num_iteration=booster.best_iteration)
        text = {
            "name": self.name,
            "config": asdict(self.config),
            "names": self.names,
            "core_names": self.core_names,
            "full_share": self.full_share,
            "expectations": {target: asdict(expectation) for target, expectation in self.expectations.items()},
            "search": self.search,
        }
        (folder / "baseline.json").write_text(json.dumps(text, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "Boosting":
        """Inverse of `save`."""
        text = json.loads((folder / "baseline.json").read_text())
        loaded = cls(BoostingConfig(**text["config"]), oracle=text["name"] == "oracle")
        loaded.names, loaded.core_names = tuple(text["names"]), tuple(text["core_names"])
        loaded.expectations = {target: Expectation(**fields) for target, fields in text["expectations"].items()}
        loaded.search, loaded.full_share = text["search"], text["full_share"]
        files = [[folder / f"{name}-{i}.txt" for i in range(loaded.config.bag)] for name in ("full", "core")]
        missing = [file.name for of in files for file in of if not file.is_file()]
        if missing:
            raise BaselineError(f"{folder} lacks {', '.join(missing)}")
        loaded.full, loaded.core = ([lightgbm.Booster(model_file=file) for file in of] for of in files)
        return loaded
