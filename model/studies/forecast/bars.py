"""Minute bars: what has to hold of them, and generated ones with a price that nobody can forecast."""

from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from model.training.table_file import Findings

Floats = NDArray[np.float64]
COLUMNS = ("open", "high", "low", "close", "volume")
KINDS = {"open": "log", "high": "log", "low": "log", "close": "log", "volume": "log1p"}
START_MS = round(datetime(2025, 1, 6, tzinfo=UTC).timestamp() * 1000)
MINUTES_A_DAY = 1_440


def check_bars(values: Floats, names: tuple[str, ...], findings: Findings) -> None:
    """Every bar (n, 5) spans its own open and close; one that does not is a finding of its row."""
    open_, high, low, close, _ = values.T
    for name, wrong, other in (
        (names[1], high < np.fmax(np.fmax(open_, close), low), np.fmax(np.fmax(open_, close), low)),
        (names[2], low > np.fmin(open_, close), np.fmin(open_, close)),
    ):
        rows = np.flatnonzero(wrong)
        side = "below" if name == names[1] else "above"
        own = values[:, names.index(name)]
        findings.add(
            name, "span", rows,
            lambda i, rows=rows, own=own, other=other, side=side:  # type: ignore[misc]
                f"{own[rows[i]]:g} is {side} {other[rows[i]]:g}, another price of the same bar",
        )  # fmt: skip


def generated(n: int, seed: int) -> Floats:
    """(n, 5) bars of a made-up market that never closes.

    The logarithm of the price is a random walk: its best forecast is the last price. Volatility and volume are
    persistent and have a daily rhythm, so there is something to learn of the volume and of the bars' spans.
    """
    rng = np.random.default_rng(seed)
    day = 2.0 * np.pi * np.arange(n) / MINUTES_A_DAY
    slow = np.empty(n)
    level = 0.0
    for i, shock in enumerate(rng.standard_normal(n)):
        level = 0.995 * level + 0.05 * shock
        slow[i] = level
    deviation = 4e-4 * np.exp(slow + 0.4 * np.sin(day))
    within = 12  # trades of a bar that make its high and low
    walk = rng.standard_normal((n, within)) * (deviation / np.sqrt(within))[:, None]
    ends = np.cumsum(walk.sum(axis=1))
    start = np.concatenate(([0.0], ends[:-1]))
    path = start[:, None] + np.cumsum(walk, axis=1)
    price = 100.0 * np.exp(
        np.column_stack((start, np.maximum(path.max(axis=1), start), np.minimum(path.min(axis=1), start), ends))
    )
    volume = np.exp(3.0 + 0.8 * np.sin(day - 1.0) + slow + 0.6 * rng.standard_normal(n))
    return np.column_stack((price, np.round(volume, 2)))
