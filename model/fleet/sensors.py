"""What the van's sensors make of the truth: noise, lag, rounding, and the troubles that are not thermal events."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from model.channels import SIGNALS
from model.fleet.depots import Depot, to_wgs84
from model.fleet.limits import SAMPLE_PERIOD_S
from model.jit import entry_point

if TYPE_CHECKING:
    from model.fleet.config import FleetConfig

LATITUDE, LONGITUDE, ALTITUDE, SPEED, CHARGE, MOTOR, BRAKES, CURRENT, PACK, AMBIENT = (
    SIGNALS.index(name)
    for name in (
        "latitude", "longitude", "altitude", "speed", "state_of_charge", "motor_temperature", "brake_events",
        "pack_current", "pack_temperature", "ambient_temperature",
    )
)  # fmt: skip
OPTIONAL = (CURRENT, PACK, AMBIENT)
DAY = 86_400 // SAMPLE_PERIOD_S

# Troubles per van and day.
STUCK_PER_DAY = 0.02
DRIFT_PER_DAY = 0.015
GLITCHES_PER_DAY = 2.0
NO_FIX_PER_DAY = 3.0
ABSENT_PER_DAY = 0.3
GAPS_PER_DAY = 1.5
LONG_GAPS_PER_DAY = 0.03
LOST_ROW_SHARE = 0.001

# Steps in which a van's electronics report, drawn per van: fleets mix makes, and no make agrees with another.
RESOLUTIONS = {
    "speed": (0.01, 0.1 / 3.6, 1.0 / 3.6, 0.44704),  # m/s: fine, 0.1 km/h, 1 km/h, 1 mph
    "charge": (0.001, 0.1, 0.5),  # %
    "temperature": (0.1, 0.5, 1.0),  # K, motor and pack
    "ambient": (0.1, 0.5, 1.0),
    "current": (0.01, 0.1, 0.5, 1.0),  # A
}

Windows = list[tuple[int, int]]


@entry_point
def low_pass(values: NDArray[np.float64], keep: float) -> NDArray[np.float64]:
    """(n,) first-order lag; each step keeps the share `keep` of the last output."""
    out = np.empty_like(values)
    state = values[0]
    for i in range(values.size):
        state = keep * state + (1.0 - keep) * values[i]
        out[i] = state
    return out


def lag(values: NDArray[np.float64], time_constant_s: float) -> NDArray[np.float64]:
    """(n,) `values` seen through a sensor with this time constant."""
    return low_pass(values, float(np.exp(-SAMPLE_PERIOD_S / time_constant_s)))


def rounded(values: NDArray[np.float64], step: float) -> NDArray[np.float64]:
    """(n,) `values` to the nearest multiple of `step`."""
    return np.round(values / step) * step


def windows(n: int, per_day: float, shortest: int, longest: int, rng: np.random.Generator) -> Windows:
    """Random [start, stop) spans of samples, `per_day` of them on average, log-uniform in length."""
    count = int(rng.poisson(per_day * n / DAY))
    starts = rng.integers(0, n, count)
    lengths = np.exp(rng.uniform(np.log(shortest), np.log(longest + 1), count)).astype(np.int64)
    return [(int(a), int(min(a + b, n))) for a, b in zip(starts, lengths, strict=True)]


def receiver_error_m(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """(3, n) m, errors of a GPS receiver east, north and up: 3 m with a minute's memory plus 0.7 m of white noise; up 1.6 times that."""
    noise = rng.standard_normal((6, n))
    scale = (1.0, 1.0, 1.6)
    return np.stack([scale[axis] * (3.0 * 4.9 * lag(noise[axis], 60.0) + 0.7 * noise[axis + 3]) for axis in range(3)])


def measure(
    plant: NDArray[np.void], sun: NDArray[np.float64], depot: Depot, grid_rad: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """(n, 10) signals in wire units and order from `plant` (n,) PLANT_TRACE, healthy sensors, nothing absent.

    `grid_rad` turns the street grid against north.
    """
    n = plant.shape[0]
    true = plant["temperatures_c"]
    out = np.empty((n, len(SIGNALS)), np.float32)
    wander = receiver_error_m(n, rng)
    x_m, y_m = plant["east_m"], plant["north_m"]
    east_m = np.cos(grid_rad) * x_m - np.sin(grid_rad) * y_m + wander[0]
    north_m = np.sin(grid_rad) * x_m + np.cos(grid_rad) * y_m + wander[1]
    latitude, longitude = to_wgs84(depot, east_m, north_m)
    out[:, LATITUDE], out[:, LONGITUDE] = latitude, longitude
    out[:, ALTITUDE] = rounded(depot.altitude_m + plant["altitude_m"] + wander[2], 0.1)
    steps = {name: float(rng.choice(choices)) for name, choices in RESOLUTIONS.items()}
    out[:, SPEED] = rounded(plant["speed_mps"] * rng.normal(1.0, 0.006), steps["speed"])
    out[:, CHARGE] = np.clip(rounded(100.0 * plant["soc"] + rng.normal(0.0, 0.5), steps["charge"]), 0.0, 100.0)
    winding = lag(np.ascontiguousarray(true[:, 4]), 20.0) + rng.normal(0.0, 1.0)
    out[:, MOTOR] = rounded(winding + rng.uniform(0.02, 0.4) * rng.standard_normal(n), steps["temperature"])
    out[:, BRAKES] = plant["brakes"]
    current = plant["current_a"] * rng.normal(1.0, 0.004) + rng.normal(0.0, 0.05)
    restless = np.exp(rng.uniform(np.log(0.03), np.log(1.0)))
    out[:, CURRENT] = rounded(current + restless * rng.standard_normal(n), steps["current"])
    # The hottest thermistor is reported, and it sits between cells: the weakest module shows through in part.
    pack = lag(0.35 * true[:, 2] + 0.65 * true[:, 1], 60.0) + rng.normal(0.0, 0.5)
    out[:, PACK] = rounded(pack + rng.uniform(0.01, 0.15) * rng.standard_normal(n), steps["temperature"])
    still = np.exp(-plant["speed_mps"] / 3.0)
    soak = still * (2.5 * sun + 0.05 * np.maximum(true[:, 7] - true[:, 9], 0.0))
    out[:, AMBIENT] = rounded(lag(true[:, 9] + soak, 300.0) + rng.normal(0.0, 0.4), steps["ambient"])
    return out


def disturb(signals: NDArray[np.float32], config: FleetConfig, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Spoil `signals` (n, 10) in place with sensor troubles; return (n,) the rows that reach the wire at all."""
    n = signals.shape[0]
    rate = config.sensor_trouble
    for column in (MOTOR, PACK, AMBIENT):
        for a, b in windows(n, rate * STUCK_PER_DAY, DAY // 24, DAY // 2, rng):
            signals[a:b, column] = signals[a, column]
        for a, b in windows(n, rate * DRIFT_PER_DAY, DAY // 12, DAY, rng):
            slope_k = rng.uniform(0.2, 1.5) * (1 if rng.random() < 0.6 else -1) / 720
            signals[a:b, column] += np.round(np.clip(slope_k * np.arange(b - a), -15, 15) * 2) / 2
    glitch_gps(signals, rate * GLITCHES_PER_DAY, rng)
    for a, b in windows(n, rate * NO_FIX_PER_DAY, 4, 180, rng):
        signals[a:b, [LATITUDE, LONGITUDE, ALTITUDE]] = np.nan
    for absent in (CHARGE, MOTOR, BRAKES, *OPTIONAL):
        for a, b in windows(n, rate * ABSENT_PER_DAY, 1, 240, rng):
            signals[a:b, absent] = np.nan
    arrives = np.asarray(rng.random((n,)) >= min(1.0, rate * LOST_ROW_SHARE))
    for a, b in windows(n, rate * GAPS_PER_DAY, 6, 360, rng) + windows(n, rate * LONG_GAPS_PER_DAY, 720, 4_320, rng):
        arrives[a:b] = False
    arrives[0] = True
    return arrives


def glitch_gps(signals: NDArray[np.float32], per_day: float, rng: np.random.Generator) -> None:
    """Move the position in `signals` (n, 10) by 60 m to 4 km for up to half a minute, `per_day` times, in place."""
    for a, b in windows(signals.shape[0], per_day, 1, 6, rng):
        metres, bearing = np.exp(rng.uniform(np.log(60), np.log(4_000))), rng.uniform(0, 2 * np.pi)
        signals[a:b, LATITUDE] += metres * np.cos(bearing) / 111_200
        signals[a:b, LONGITUDE] += metres * np.sin(bearing) / 111_200 / np.cos(np.deg2rad(signals[a, LATITUDE]))
        signals[a:b, ALTITUDE] += rng.normal(0, 40)


def absent_channels(config: FleetConfig, rng: np.random.Generator) -> list[int]:
    """Columns of the optional signals that this van does not have."""
    return [
        column for column, share in zip(OPTIONAL, config.missing_channel_share, strict=True) if rng.random() < share
    ]
