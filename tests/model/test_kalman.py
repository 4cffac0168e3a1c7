"""The motion filter on drives whose truth is known."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from model.kalman import METRES_PER_DEGREE, Motion, advance_kalman, initial_kalman

NAN = math.nan


def drive(
    positions: NDArray[np.float64],
    *,
    altitude: NDArray[np.float64] | None = None,
    speed: NDArray[np.float64] | None = None,
    elapsed_s: float = 5.0,
) -> tuple[list[Motion], np.void]:
    """Filter (length, 2) positions in degrees, one vehicle."""
    state = initial_kalman(1)[0]
    motions = [
        advance_kalman(
            state,
            elapsed_s,
            float(position[0]),
            float(position[1]),
            NAN if altitude is None else float(altitude[t]),
            NAN if speed is None else float(speed[t]),
        )
        for t, position in enumerate(positions)
    ]
    return motions, state


def northward(n: int, metres_per_s: float, start: tuple[float, float] = (48.0, 11.0)) -> NDArray[np.float64]:
    """Positions of a van going north at constant speed, every 5 s."""
    metres = 5.0 * metres_per_s * np.arange(n)
    return np.stack((start[0] + metres / METRES_PER_DEGREE, np.full(n, start[1])), axis=1)


def test_gps_alone_gives_speed_and_climb() -> None:
    """With noisy fixes and altitudes the filter finds 20 m/s and 1 m/s of climb."""
    rng = np.random.default_rng(7)
    positions = northward(120, 20.0) + rng.normal(size=(120, 2)) * 4.0 / METRES_PER_DEGREE
    altitude = 500.0 + 5.0 * np.arange(120) + rng.normal(size=120) * 4.0
    motions, _ = drive(positions, altitude=altitude)
    tail = np.array(motions[40:])
    assert np.mean(tail[:, 0]) == pytest.approx(20.0, abs=0.3)
    assert np.std(tail[:, 0]) < 2.0
    assert np.mean(tail[:, 2]) == pytest.approx(1.0, abs=0.15)
    assert not np.isnan(motions[2:]).any()


def test_a_glitch_is_gated_out_and_a_real_jump_is_believed() -> None:
    """One fix 50 km off changes nothing; three in a row mean that the van is there (a ferry, a tow)."""
    positions = northward(60, 10.0)
    positions[30] += 0.5
    motions, state = drive(positions)
    assert math.isnan(motions[30].speed)
    assert motions[40].speed == pytest.approx(10.0, abs=0.5)
    assert abs(state["latitude"] - positions[-1, 0]) * METRES_PER_DEGREE < 20.0

    positions = northward(60, 10.0)
    positions[30:] += 0.5
    motions, state = drive(positions)
    assert math.isnan(motions[30].speed)
    assert math.isnan(motions[31].speed)
    assert motions[-1].speed == pytest.approx(10.0, abs=0.5)
    assert abs(state["latitude"] - positions[-1, 0]) * METRES_PER_DEGREE < 20.0


def test_wire_speed_is_preferred_and_its_rate_is_acceleration() -> None:
    """A speed signal that rises by 1 m/s every second reads as 1 m/s^2, with or without a fix."""
    speed = np.linspace(2.0, 97.0, 20)
    motions, _ = drive(np.full((20, 2), np.nan), speed=speed)
    assert motions[-1].speed == pytest.approx(speed[-1], abs=1.0)
    assert motions[-1].acceleration == pytest.approx(1.0, abs=0.1)
    assert math.isnan(motions[0].acceleration)
    assert math.isnan(motions[-1].climb_rate)


def test_the_antimeridian_is_no_jump() -> None:
    """Crossing 180 degrees of longitude keeps speed and position."""
    metres = 5.0 * 15.0 * np.arange(60)
    longitude = 179.99 + metres / METRES_PER_DEGREE
    longitude = (longitude + 180.0) % 360.0 - 180.0
    motions, state = drive(np.stack((np.zeros(60), longitude), axis=1))
    assert not any(math.isnan(motion.speed) for motion in motions[1:])  # the first fix alone tells no speed
    assert motions[-1].speed == pytest.approx(15.0, abs=0.3)
    assert state["longitude"] == pytest.approx(longitude[-1], abs=1e-3)


def test_a_long_gap_restarts_the_filters() -> None:
    """After an hour of silence the first fix is believed wherever it is, with no speed or acceleration claimed."""
    positions = northward(10, 10.0)
    _, state = drive(positions)
    motion = advance_kalman(state, 3_600.0, positions[-1, 0] + 1.0, positions[-1, 1] + 1.0, NAN, NAN)
    assert np.isnan(motion).all()
    assert abs(state["latitude"] - positions[-1, 0] - 1.0) < 1e-9
