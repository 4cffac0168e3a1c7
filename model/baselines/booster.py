"""Gradient boosting of a risk (LightGBM) on rows that somebody else made; early stopping by the AUROC of judged rows."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import lightgbm
import numpy as np

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
        "objective": "binary", "metric": "auc", "verbosity": -1, "bagging_fraction": 0.7, "bagging_freq": 1,
        "learning_rate": 0.03, "feature_fraction": 0.1, "max_bin": 127, "seed": seed, "deterministic": True, "force_row_wise": True,
        "num_threads": threads,
    }  # fmt: skip
    names = list(np.array(rows.names)[columns])
    train = lightgbm.Dataset(rows.x[:, columns], rows.label, weight=rows.weight, feature_name=names, params=fixed)
    held_out = train.create_valid(judged.x[:, columns], judged.label, weight=judged.weight)
    booster = lightgbm.train(
        {**fixed, **parameters},
        train,
        num_boost_round=trees,
        valid_sets=[held_out],
        callbacks=[lightgbm.early_stopping(patience, verbose=False)],
    )
    score = np.asarray(booster.predict(judged.x[:, columns], raw_score=True))
    return booster, weighted_auroc(score, judged.label, judged.weight)
