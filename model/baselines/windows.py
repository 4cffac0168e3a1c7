"""Causal windows over irregular times: one pass each, however long the window."""

import numpy as np

from model.baselines.protocol import Bools, Floats
from model.jit import entry_point


@entry_point
def window_mean(end_min: Floats, values: Floats, count: Floats, width_min: float) -> Floats:
    """(n,) mean of the readings in (end - width, end]; NaN without any.

    Args:
        end_min: (n,) increasing.
        values: (n,) mean of each chunk, NaN without readings.
        count: (n,) readings in each chunk.
        width_min: of the window.
    """
    n = values.size
    out = np.full(n, np.nan)
    total, readings, first = 0.0, 0.0, 0
    for i in range(n):
        if count[i] > 0:
            total += values[i] * count[i]
            readings += count[i]
        while end_min[first] <= end_min[i] - width_min:
            if count[first] > 0:
                total -= values[first] * count[first]
                readings -= count[first]
            first += 1
        if readings > 0.5:
            out[i] = total / readings
        else:
            total = 0.0  # rounding must not outlive the readings
    return out


@entry_point
def window_extreme(end_min: Floats, values: Floats, width_min: float, sign: float) -> Floats:
    """(n,) largest (sign 1) or smallest (sign -1) value in (end - width, end], by a monotone queue; NaN without any."""
    n = values.size
    out = np.full(n, np.nan)
    queue = np.empty(n, np.int64)
    head, tail = 0, 0
    for i in range(n):
        if not np.isnan(values[i]):
            while tail > head and sign * values[queue[tail - 1]] <= sign * values[i]:
                tail -= 1
            queue[tail] = i
            tail += 1
        while tail > head and end_min[queue[head]] <= end_min[i] - width_min:
            head += 1
        if tail > head:
            out[i] = values[queue[head]]
    return out


@entry_point
def window_slope(end_min: Floats, values: Floats, width_min: float) -> Floats:
    """(n,) least-squares slope per hour over (end - width, end]; NaN with fewer than three readings."""
    n = values.size
    out = np.full(n, np.nan)
    first = 0
    origin_t, origin_y = end_min[0], 0.0
    s0, st, sy, stt, sty = 0.0, 0.0, 0.0, 0.0, 0.0
    for i in range(n):
        if s0 < 0.5:  # empty: restart near the data, where sums lose no digits
            origin_t, origin_y = end_min[i], 0.0 if np.isnan(values[i]) else values[i]
            s0, st, sy, stt, sty = 0.0, 0.0, 0.0, 0.0, 0.0
        if not np.isnan(values[i]):
            t, y = (end_min[i] - origin_t) / 60.0, values[i] - origin_y
            s0, st, sy, stt, sty = s0 + 1.0, st + t, sy + y, stt + t * t, sty + t * y
        while end_min[first] <= end_min[i] - width_min:
            if not np.isnan(values[first]):
                t, y = (end_min[first] - origin_t) / 60.0, values[first] - origin_y
                s0, st, sy, stt, sty = s0 - 1.0, st - t, sy - y, stt - t * t, sty - t * y
            first += 1
        spread = stt - st * st / max(s0, 1.0)
        if s0 >= 2.5 and spread > 1e-6:
            out[i] = (sty - st * sy / s0) / spread
    return out


@entry_point
def exponential(end_min: Floats, values: Floats, time_constant_min: float) -> Floats:
    """(n,) exponential average in true time, gaps held; NaN before the first value."""
    n = values.size
    out = np.full(n, np.nan)
    state = np.nan
    for i in range(n):
        if not np.isnan(values[i]):
            elapsed = end_min[i] - end_min[i - 1] if i > 0 else 1.0
            share = 1.0 - np.exp(-min(elapsed, 5.0) / time_constant_min)
            state = values[i] if np.isnan(state) else state + share * (values[i] - state)
        out[i] = state
    return out


@entry_point
def relaxation(end_min: Floats, heat: Floats, time_constant_min: float) -> Floats:
    """(n,) a body warmed by `heat` (absent is none) that cools with this time constant, also over gaps.

    It is cold at the first reading; NaN before.
    """
    n = heat.size
    out = np.full(n, np.nan)
    state, known = 0.0, False
    for i in range(n):
        elapsed = end_min[i] - end_min[i - 1] if i > 0 else 1.0
        state *= np.exp(-elapsed / time_constant_min)
        if not np.isnan(heat[i]):
            state += heat[i] * (1.0 - np.exp(-min(elapsed, 2.0) / time_constant_min))
            known = True
        if known:
            out[i] = state
    return out


def running_mean(values: Floats, where: Bools) -> Floats:
    """(n,) mean of all readings so far among those marked; NaN before the first."""
    usable = where & ~np.isnan(values)
    count = np.cumsum(usable)
    total = np.cumsum(np.where(usable, values, 0.0))
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def running_max(values: Floats) -> Floats:
    """(n,) largest so far; NaN before the first reading."""
    return np.fmax.accumulate(values)


def minutes_since(end_min: Floats, happened: Bools) -> Floats:
    """(n,) minutes since the last marked chunk; NaN before the first."""
    last = np.maximum.accumulate(np.where(happened, np.arange(len(end_min)), -1))
    return np.where(last >= 0, end_min - end_min[np.maximum(last, 0)], np.nan)


def value_before(end_min: Floats, values: Floats, minutes: float) -> Floats:
    """(n,) the value known `minutes` ago; NaN when the trace is younger."""
    index = np.searchsorted(end_min, end_min - minutes, side="right") - 1
    return np.where(index >= 0, values[np.maximum(index, 0)], np.nan)


def value_at_start(values: Floats, starts: Bools) -> Floats:
    """(n,) the value at the last marked chunk; NaN before the first."""
    last = np.maximum.accumulate(np.where(starts, np.arange(len(values)), -1))
    return np.where(last >= 0, values[np.maximum(last, 0)], np.nan)
