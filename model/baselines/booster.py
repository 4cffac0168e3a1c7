"""Gradient boosting (LightGBM) on rows that somebody else made: of any objective, and of a risk, judged by its AUROC."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import lightgbm
import numpy as np
from numpy.typing import NDArray

from model.baselines.protocol import Bools, Floats, Singles
from model.evaluation.exact import weighted_auroc


class Rows(NamedTuple):
    """Training or validation rows of one or more vans."""

    x: Singles  # (n, n_features)
    label: Bools  # (n,)
    weight: Floats  # (n,) minutes that each row stands for
    names: tuple[str, ...]
    core: Bools  # (n_features,) needs no optional signal


def joined(parts: Sequence[Rows]) -> Rows:
    """Rows of several vans."""
    x, label, weight = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return Rows(x, label, weight, parts[0].names, parts[0].core)


def boost(
    rows: Rows,
    judged: Rows,
    columns: Bools,
    parameters: dict[str, Any],
    *,
    seed: int,
    trees: int,
    patience: int,
    threads: int,
) -> tuple[lightgbm.Booster, float]:
    """One booster on some of the columns with its AUROC on `judged`.

    Args:
        rows: what it learns from.
        judged: rows of the same columns that decide how many trees are kept.
        columns: (n_features,) which features it sees.
        parameters: LightGBM's, over those set here.
        seed: of bagging and of the draws of features.
        trees: at most.
        patience: trees without a better AUROC.
        threads: of the processor.
    """
    fixed = {
        "objective": "binary", "metric": "auc", "bagging_fraction": 0.7, "bagging_freq": 1, "learning_rate": 0.03,
        "feature_fraction": 0.1, "max_bin": 127, "seed": seed, "num_threads": threads,
    }  # fmt: skip
    booster = grow(
        Labelled(rows.x[:, columns], rows.label, rows.weight),
        fixed,
        parameters,
        trees=trees,
        held_out=Labelled(judged.x[:, columns], judged.label, judged.weight),
        patience=patience,
        names=list(np.array(rows.names)[columns]),
    )
    score = np.asarray(booster.predict(judged.x[:, columns], raw_score=True))
    return booster, weighted_auroc(score, judged.label, judged.weight)


class Labelled(NamedTuple):
    """Rows to learn from or to judge by, of any objective."""

    x: NDArray[np.floating]  # (n, n_features), NaN where a feature is not known
    y: NDArray[Any]  # (n,) classes or values
    weight: Floats | None = None  # (n,); one each when None


def grow(
    train: Labelled,
    fixed: Mapping[str, Any],
    parameters: Mapping[str, Any],
    *,
    trees: int,
    held_out: Labelled | None = None,
    patience: int = 0,
    names: list[str] | None = None,
) -> lightgbm.Booster:
    """One booster; the same arguments give the same trees.

    Args:
        train: what it learns from.
        fixed: LightGBM's parameters, objective, metric, seed and threads among them; features are binned by these.
        parameters: more of them, of the trees only.
        trees: at most.
        held_out: rows that say when to stop; None: all trees are grown.
        patience: trees without a better metric on `held_out` after which growing ends.
        names: of the features; None: by their numbers.
    """
    fixed = {"verbosity": -1, "deterministic": True, "force_row_wise": True, **fixed}
    data = lightgbm.Dataset(train.x, train.y, weight=train.weight, feature_name=names or "auto", params=dict(fixed))
    if held_out is None:
        return lightgbm.train({**fixed, **parameters}, data, num_boost_round=trees)
    return lightgbm.train(
        {**fixed, **parameters},
        data,
        num_boost_round=trees,
        valid_sets=[data.create_valid(held_out.x, held_out.y, weight=held_out.weight)],
        callbacks=[lightgbm.early_stopping(patience, verbose=False)],
    )


def mean_prediction(
    boosters: Sequence[lightgbm.Booster], x: NDArray[np.floating], threads: int, *, raw_score: bool = False
) -> Floats:
    """(n,) what the boosters say of x (n, n_features), averaged; `raw_score`: before the objective's link."""
    mean: Floats = np.mean(
        [booster.predict(x, raw_score=raw_score, num_threads=threads) for booster in boosters], axis=0
    )
    return mean
