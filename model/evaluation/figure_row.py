"""A row of the project's report format: one figure with its interval."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.evaluation.bootstrap import interval

Floats = NDArray[np.float64]
Row = dict[str, Any]

DIGITS = 5


def row(name: str, params: dict[str, Any], values: Floats, unit: str = "1") -> Row:
    """One figure: its value is the first of `values`, its interval that of the rest, which are of resamples."""
    low, high = interval(values[1:])
    return {
        "name": name,
        "params": params,
        "value": number(float(values[0])),
        "unit": unit,
        "lo": number(low),
        "hi": number(high),
    }


def count_row(name: str, params: dict[str, Any], value: float, unit: str = "1") -> Row:
    """A number that has no interval."""
    return {"name": name, "params": params, "value": number(value), "unit": unit}


def number(value: float) -> float | None:
    """As reports hold it: rounded, None for NaN."""
    return None if math.isnan(value) else round(value, DIGITS)
