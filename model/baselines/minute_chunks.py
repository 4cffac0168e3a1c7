"""Samples gathered into chunks of a minute, the clock of the slow baselines.

A chunk ends with every twelfth sample (the first sample is a chunk of its own), so what is computed from chunks up to
number k is known at sample 12 k and holds until the next chunk ends.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.baselines.protocol import COLUMN, Floats, Singles
from model.dataset import Trace
from model.jit import entry_point

EVERY = 12
LONGEST_STEP_S = 30.0  # no acceleration and no climb across a longer gap
GRAVITY = 9.81
# Per kilogram of a 2.55 t van (model.fleet.vehicle): rolling resistance in m/s^2, drag in 1/m.
ROLLING = 0.0095 * GRAVITY
DRAG = 0.6 * 1.45 / 2_550.0

SERIES = (
    "speed", "acceleration", "hard_acceleration", "climb", "state_of_charge", "motor", "brakes", "current",
    "current_sq", "pack", "ambient", "motor_over_ambient", "pack_over_ambient", "motor_over_pack",
    "power", "force_sq", "regen", "parked", "high_load", "speed_sq", "charge_current",
)  # fmt: skip
# Series that need a signal that not every van has.
OPTIONAL_SERIES = frozenset(
    ("current", "current_sq", "charge_current", "pack", "ambient", "motor_over_ambient", "pack_over_ambient",
     "motor_over_pack")
)  # fmt: skip


class Chunks(NamedTuple):
    """Per chunk (rows) and series (columns); NaN where a chunk has no reading."""

    end_min: Floats  # (n_chunks,) epoch minutes of the chunk's last sample
    mean: Floats  # (n_chunks, n_series)
    square: Floats  # (n_chunks, n_series) mean of squares
    high: Floats
    low: Floats
    readings: Floats  # how many there were


@entry_point
def gathered(series: Floats, every: int) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """mean, square, high, low, count (n_chunks, n_series) of samples (L, n_series); NaN is no reading."""
    length, width = series.shape
    n = (length + every - 1) // every
    mean, square = np.zeros((n, width)), np.zeros((n, width))
    high, low = np.full((n, width), np.nan), np.full((n, width), np.nan)
    count = np.zeros((n, width))
    for i in range((n - 1) * every + 1):
        k = (i + every - 1) // every
        for j in range(width):
            x = series[i, j]
            if np.isnan(x):
                continue
            if count[k, j] == 0 or x > high[k, j]:
                high[k, j] = x
            if count[k, j] == 0 or x < low[k, j]:
                low[k, j] = x
            count[k, j] += 1
            mean[k, j] += x
            square[k, j] += x * x
    for k in range(n):
        for j in range(width):
            mean[k, j] = mean[k, j] / count[k, j] if count[k, j] > 0 else np.nan
            square[k, j] = square[k, j] / count[k, j] if count[k, j] > 0 else np.nan
    return mean, square, high, low, count


def chunk_series(trace: Trace) -> Chunks:
    """Chunks of SERIES."""
    return chunked(trace.ts_ms, sample_series(trace.ts_ms, trace.signals))


def chunked(ts_ms: NDArray[np.int64], series: Floats) -> Chunks:
    """Chunks of any series (L, n_series)."""
    return Chunks(ts_ms[::EVERY] / 60_000.0, *gathered(np.ascontiguousarray(series), EVERY))


def sample_series(ts_ms: NDArray[np.int64], signals: Singles) -> Floats:
    """(L, len(SERIES)) what each sample says, with the driving forces per kilogram that speed and altitude imply."""
    x = signals.astype(np.float64)
    speed, charge, motor = x[:, COLUMN["speed"]], x[:, COLUMN["state_of_charge"]], x[:, COLUMN["motor_temperature"]]
    current, pack = x[:, COLUMN["pack_current"]], x[:, COLUMN["pack_temperature"]]
    ambient = x[:, COLUMN["ambient_temperature"]]
    acceleration = rate(ts_ms, speed, 1)
    climb = np.clip(rate(ts_ms, x[:, COLUMN["altitude"]], 6), -3.0, 3.0)
    slope = np.nan_to_num(climb) / np.maximum(speed, 3.0)
    moving = speed > 0.3
    force = np.where(moving, acceleration + ROLLING + DRAG * speed**2 + GRAVITY * slope, 0.0 * speed)
    power = force * speed
    columns = {
        "speed": speed,
        "acceleration": acceleration,
        "hard_acceleration": np.abs(acceleration),
        "climb": climb,
        "state_of_charge": charge,
        "motor": motor,
        "brakes": x[:, COLUMN["brake_events"]],
        "current": current,
        "current_sq": current**2,
        "pack": pack,
        "ambient": ambient,
        "motor_over_ambient": motor - ambient,
        "pack_over_ambient": pack - ambient,
        "motor_over_pack": motor - pack,
        "power": np.maximum(power, 0.0),
        "force_sq": force**2,
        "regen": np.maximum(-power, 0.0),
        "parked": np.where(np.isnan(speed), np.nan, ~moving),
        "high_load": np.where(np.isnan(power), np.nan, power > 12.0),
        "speed_sq": speed**2,
        "charge_current": np.where(np.isnan(current), np.nan, np.where(~moving, np.maximum(-current, 0.0), 0.0)),
    }
    return np.stack([columns[name] for name in SERIES], axis=1)


def rate(ts_ms: NDArray[np.int64], values: Floats, back: int) -> Floats:
    """(L,) change per second since `back` samples ago; NaN across gaps and at the start."""
    out = np.full(len(values), np.nan)
    step_s = (ts_ms[back:] - ts_ms[:-back]) / 1_000.0
    near = step_s <= LONGEST_STEP_S * back
    out[back:][near] = (values[back:] - values[:-back])[near] / step_s[near]
    return out


def held(values: NDArray[np.floating], n_samples: int) -> Singles:
    """(n_samples,) each chunk's value from its last sample until the next chunk ends."""
    return np.repeat(values.astype(np.float32), EVERY)[:n_samples]
