"""The AUROC by its definition, for choices on a few million instants; the report bins (`figures`)."""

import math

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]


def weighted_auroc(score: NDArray[np.floating], label: Bools, weight: NDArray[np.floating] | None = None) -> float:
    """Area under the receiver operating characteristic, ties counted half; NaN without both classes.

    Args:
        score: (n,) monotone in risk, finite.
        label: (n,).
        weight: (n,) how many instants each stands for; one each when None.
    """
    weight = np.ones(len(score)) if weight is None else weight.astype(np.float64)
    _, rank = np.unique(score, return_inverse=True)
    positive = np.bincount(rank, weight * label)
    negative = np.bincount(rank, weight * ~label)
    if positive.sum() == 0 or negative.sum() == 0:
        return math.nan
    below = np.cumsum(negative) - 0.5 * negative
    return float((positive * below).sum() / positive.sum() / negative.sum())
