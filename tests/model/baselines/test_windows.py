"""Windows against their definitions, written out."""

import numpy as np

from model.baselines.minute_chunks import EVERY, chunked, held
from model.baselines.protocol import Floats
from model.baselines.windows import (
    exponential,
    minutes_since,
    relaxation,
    value_before,
    window_extreme,
    window_mean,
    window_slope,
)

WIDTH = 11.0


def irregular(seed: int, n: int = 300) -> tuple[Floats, Floats, Floats]:
    """Times in minutes with gaps, values with holes, readings per value."""
    rng = np.random.default_rng(seed)
    end = np.cumsum(np.where(rng.random(n) < 0.05, 30.0, rng.uniform(0.9, 1.2, n))) + 2.9e7
    values = rng.normal(50.0, 3.0, n)
    values[rng.random(n) < 0.3] = np.nan
    values[100:140] = np.nan
    return end, values, np.where(np.isnan(values), 0.0, rng.integers(1, 13, n))


def test_windows_equal_their_definitions() -> None:
    """Mean, extremes and slope over (end - width, end], readings weighted in the mean, NaN where there are too few."""
    end, values, count = irregular(0)
    mean, slope = window_mean(end, values, count, WIDTH), window_slope(end, values, WIDTH)
    high, low = window_extreme(end, values, WIDTH, 1.0), window_extreme(end, values, WIDTH, -1.0)
    for i in range(len(end)):
        inside = (end > end[i] - WIDTH) & (end <= end[i]) & ~np.isnan(values)
        y, t, w = values[inside], end[inside] / 60.0, count[inside]
        expected = (np.average(y, weights=w), y.max(), y.min()) if len(y) else (np.nan,) * 3
        np.testing.assert_allclose((mean[i], high[i], low[i]), expected, rtol=1e-9)
        if len(y) >= 3:
            np.testing.assert_allclose(slope[i], np.polyfit(t - t.mean(), y, 1)[0], rtol=1e-5, atol=1e-6)
        else:
            assert np.isnan(slope[i])


def test_chunks_end_with_every_twelfth_sample() -> None:
    """Chunk k holds samples 12 k - 11 to 12 k; its value holds from sample 12 k on."""
    series = np.arange(40.0)[:, None]
    series[5] = np.nan
    chunks = chunked(5_000 * np.arange(40), series)
    assert chunks.mean[0, 0] == 0.0
    np.testing.assert_allclose(chunks.mean[1, 0], np.mean([i for i in range(1, 13) if i != 5]))
    assert chunks.readings[1, 0] == 11
    assert (chunks.high[2, 0], chunks.low[2, 0]) == (24.0, 13.0)
    assert len(chunks.end_min) == 4
    assert chunks.end_min[3] == 36 * 5 / 60
    scores = held(np.arange(4.0), 40)
    assert scores[:EVERY].tolist() == [0.0] * 12
    assert scores[[12, 35, 36, 39]].tolist() == [1.0, 2.0, 3.0, 3.0]


def test_averages_forget_at_their_time_constant() -> None:
    """A step response reaches 63 % after one time constant, and a body cools by 63 % after another."""
    end = np.arange(200.0)
    step = np.where(end >= 1, 1.0, 0.0)
    np.testing.assert_allclose(exponential(end, step, 20.0)[20], 1 - np.exp(-1), rtol=1e-6)
    heat = np.where((end >= 1) & (end <= 20), 1.0, 0.0)
    warm = relaxation(end, heat, 20.0)
    np.testing.assert_allclose(warm[20], 1 - np.exp(-1), rtol=1e-6)
    np.testing.assert_allclose(warm[40], warm[20] * np.exp(-1), rtol=1e-6)


def test_values_from_before_and_times_since() -> None:
    """Both are NaN while there is nothing to refer to."""
    end = np.array([0.0, 1.0, 2.0, 10.0])
    np.testing.assert_array_equal(value_before(end, np.array([1.0, 2.0, 3.0, 4.0]), 5.0), [np.nan, np.nan, np.nan, 3.0])
    np.testing.assert_array_equal(minutes_since(end, np.array([False, True, False, False])), [np.nan, 0.0, 1.0, 9.0])
