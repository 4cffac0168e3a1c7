"""What the networks see instead of raw values: logarithms where asked for, then z-scores, and the way back."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
KINDS = ("log", "log1p", "none")
LEAST = {"log": "above 0", "log1p": "at least 0"}  # what a value has to be


def outside(values: Floats, kind: str) -> NDArray[np.bool_]:
    """Where a measured value has no logarithm of this kind; NaN is not measured."""
    known = ~np.isnan(values)
    return known & (values <= 0.0 if kind == "log" else values < 0.0) if kind in LEAST else np.zeros_like(known)


@dataclass(frozen=True, slots=True)
class Scales:
    """One transform, mean and deviation per feature, fitted on the training part alone."""

    kinds: tuple[str, ...]
    mean: Floats  # (n_features,)
    std: Floats  # (n_features,)

    def z(self, values: Floats) -> Floats:
        """(..., n_features) as z-scores; NaN stays NaN."""
        return (transformed(values, self.kinds) - self.mean) / self.std

    def values(self, z: Floats) -> Floats:
        """Inverse of `z`."""
        out = z * self.std + self.mean
        for i, kind in enumerate(self.kinds):
            if kind != "none":
                out[..., i] = np.exp(out[..., i]) if kind == "log" else np.expm1(out[..., i])
        return out


def transformed(values: Floats, kinds: Sequence[str]) -> Floats:
    """(..., n_features) after log or log1p, each feature's own."""
    functions = {"log": np.log, "log1p": np.log1p}
    out = values.copy()
    for i, kind in enumerate(kinds):
        if kind in functions:
            out[..., i] = functions[kind](values[..., i])
    return out


def fit_scales(parts: Sequence[Floats], names: Sequence[str], kinds: Mapping[str, str]) -> Scales:
    """From parts (length, n_features) of the training split.

    Raises:
        ValueError: a feature never changes there, so there is nothing to learn of it.
    """
    of = tuple(kinds.get(name, "none") for name in names)
    rows = np.concatenate([transformed(part, of) for part in parts])
    known = ~np.isnan(rows).all(axis=0)
    mean = np.array([np.nanmean(rows[:, i]) if known[i] else np.nan for i in range(len(of))])
    std = np.array([np.nanstd(rows[:, i]) if known[i] else 0.0 for i in range(len(of))])
    still = [
        name for name, deviation in zip(names, std, strict=True) if not deviation > 1e-12 * (1.0 + np.abs(mean).max())
    ]
    if still:
        raise ValueError(f"{', '.join(still)} never changes in the training part; choose other --columns")
    return Scales(of, mean, std)
