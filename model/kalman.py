"""Constant-velocity Kalman filters of one vehicle's motion, with innovation gating; compiled, in place.

Four two-state filters (value, rate): east, north, up from GPS, and ground speed. Position is kept relative to the last
estimate, which moves along as an anchor, so a van may drive around the world. Source: Bar-Shalom, Li & Kirubarajan
2001, sections 5.2 (filter) and 6.2 (white-noise acceleration). `tests/model/preprocess_reference.py` has the matrices.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.jit import compiled

EAST, NORTH, UP, SPEED = range(4)
N_AXES = 4
METRES_PER_DEGREE = 111_195.0  # of latitude, on the mean sphere of radius 6,371 km

# Spectral density of the white acceleration, per axis (m^2/s^3; for speed m^2/s^5 on its rate).
PROCESS_DENSITY = np.array([2.0, 2.0, 0.05, 1.0])
# Variance of one measurement: GPS position 5 m, altitude 8 m, speed 0.5 m/s.
MEASUREMENT_VARIANCE = np.array([25.0, 25.0, 64.0, 0.25])
GPS_SPEED_VARIANCE = 1.0  # (m/s)^2: when speed has to come from the position filter
INITIAL_RATE_VARIANCE = np.array([400.0, 400.0, 4.0, 4.0])
GATE = 25.0  # a measurement beyond five standard deviations of its innovation is a glitch,
MAX_REJECTS = 3  # unless it insists: then the filter restarts where the measurements are
MAX_GAP_S = 60.0  # after a longer gap the filters start afresh

IGNORE, USE, RESTART = range(3)  # what becomes of a measurement

KALMAN_DTYPE = np.dtype(
    [
        ("latitude", "<f8"),  # anchor, deg; NaN before the first fix
        ("longitude", "<f8"),
        ("mean", "<f8", (N_AXES, 2)),
        ("covariance", "<f8", (N_AXES, 2, 2)),
        ("ready", "u1", (N_AXES,)),  # 1: has been initialised since the last restart
        ("rejects", "u1", (N_AXES,)),  # consecutive measurements gated out
    ]
)


class Motion(NamedTuple):
    """Filtered motion, in the order of `channels.MOTION`; NaN where this sample's own measurements support no value."""

    speed: float  # m/s
    acceleration: float  # m/s^2
    climb_rate: float  # m/s


def initial_kalman(n_vehicles: int) -> NDArray[np.void]:
    """Filters that have seen nothing; (n_vehicles,) KALMAN_DTYPE."""
    state = np.zeros(n_vehicles, KALMAN_DTYPE)
    state["latitude"] = state["longitude"] = np.nan
    return state


@compiled
def advance_kalman(
    state: Any, elapsed_s: float, latitude: float, longitude: float, altitude: float, speed: float
) -> Motion:
    """Advance one vehicle's filters by one sample, in place.

    Args:
        state: one record of KALMAN_DTYPE.
        elapsed_s: seconds since the last sample; ignored before the first.
        latitude: degrees, with longitude; both NaN without a fix.
        longitude: degrees.
        altitude: metres, NaN when absent.
        speed: metres per second, NaN when absent.
    """
    if elapsed_s > MAX_GAP_S:
        state["ready"][:] = 0
    predict(state, min(elapsed_s, MAX_GAP_S))

    fixed = take_fix(state, latitude, longitude)
    climb_known = take(state, UP, altitude, MEASUREMENT_VARIANCE[UP]) != IGNORE

    variance = MEASUREMENT_VARIANCE[SPEED]
    # A filter that starts at this very fix knows where the van is, not how fast.
    if math.isnan(speed) and fixed and state["covariance"][EAST, 1, 1] < INITIAL_RATE_VARIANCE[EAST]:
        speed = math.hypot(state["mean"][EAST, 1], state["mean"][NORTH, 1])
        variance = GPS_SPEED_VARIANCE
    had_speed = state["ready"][SPEED]
    speed_known = take(state, SPEED, speed, variance) != IGNORE
    return Motion(
        max(state["mean"][SPEED, 0], 0.0) if speed_known else np.nan,
        state["mean"][SPEED, 1] if speed_known and had_speed else np.nan,
        state["mean"][UP, 1] if climb_known else np.nan,
    )


@compiled
def predict(state: Any, dt: float) -> None:
    """Carry every filter forward by `dt` seconds, in place: x = A x, P = A P A' + Q."""
    for axis in range(N_AXES):
        mean, p, density = state["mean"][axis], state["covariance"][axis], PROCESS_DENSITY[axis]
        mean[0] += dt * mean[1]
        p[0, 0] += dt * (p[0, 1] + (p[0, 1] + dt * p[1, 1])) + density * dt**3 / 3.0
        p[0, 1] += dt * p[1, 1] + density * dt**2 / 2.0
        p[1, 0] = p[0, 1]
        p[1, 1] += density * dt


@compiled
def take_fix(state: Any, latitude: float, longitude: float) -> bool:
    """Take in a horizontal fix, in place; both axes are accepted or refused together. False if absent or refused."""
    if math.isnan(latitude) or math.isnan(longitude):
        return False
    if math.isnan(state["latitude"]):
        state["latitude"], state["longitude"] = latitude, longitude
        east = north = 0.0
    else:
        north = (latitude - state["latitude"]) * METRES_PER_DEGREE
        degrees_east = (longitude - state["longitude"] + 180.0) % 360.0 - 180.0
        east = degrees_east * METRES_PER_DEGREE * longitude_scale(state["latitude"])
    inside = is_inside(state, EAST, east, MEASUREMENT_VARIANCE[EAST]) and is_inside(
        state, NORTH, north, MEASUREMENT_VARIANCE[NORTH]
    )
    verdict = judge(state, EAST, inside)  # NORTH has the same history
    apply(state, EAST, east, MEASUREMENT_VARIANCE[EAST], verdict)
    apply(state, NORTH, north, MEASUREMENT_VARIANCE[NORTH], verdict)
    if verdict != IGNORE:
        move_anchor(state)
    return verdict != IGNORE


@compiled
def take(state: Any, axis: int, measured: float, variance: float) -> int:
    """Take in one axis' measurement, NaN when absent, in place; what became of it."""
    if math.isnan(measured):
        return IGNORE
    verdict = judge(state, axis, is_inside(state, axis, measured, variance))
    apply(state, axis, measured, variance, verdict)
    return verdict


@compiled
def is_inside(state: Any, axis: int, measured: float, variance: float) -> bool:
    """Whether the innovation is within the gate."""
    innovation = measured - state["mean"][axis, 0]
    return bool(innovation**2 <= GATE * (state["covariance"][axis, 0, 0] + variance))


@compiled
def judge(state: Any, axis: int, inside: bool) -> int:
    """What to do with a measurement: a filter starts at its first one and where glitches insist."""
    if not state["ready"][axis]:
        return RESTART
    if inside:
        return USE
    return RESTART if state["rejects"][axis] + 1 >= MAX_REJECTS else IGNORE


@compiled
def apply(state: Any, axis: int, measured: float, variance: float, verdict: int) -> None:
    """Carry out a verdict, in place: x += K (y - H x), P -= K H P with H = (1, 0)."""
    if verdict == IGNORE:
        state["rejects"][axis] += 1
        return
    mean, p = state["mean"][axis], state["covariance"][axis]
    if verdict == USE:
        innovation = measured - mean[0]
        total = p[0, 0] + variance
        gain, rate_gain = p[0, 0] / total, p[0, 1] / total
        mean[0] += gain * innovation
        mean[1] += rate_gain * innovation
        p[1, 1] -= rate_gain * p[0, 1]
        p[0, 1] -= gain * p[0, 1]
        p[0, 0] -= gain * p[0, 0]
    else:
        mean[0], mean[1] = measured, 0.0
        p[0, 0], p[0, 1], p[1, 1] = variance, 0.0, INITIAL_RATE_VARIANCE[axis]
    p[1, 0] = p[0, 1]
    state["ready"][axis] = 1
    state["rejects"][axis] = 0


@compiled
def move_anchor(state: Any) -> None:
    """Fold the estimated displacement into the anchor, in place."""
    latitude = state["latitude"] + state["mean"][NORTH, 0] / METRES_PER_DEGREE
    metres_per_degree_east = METRES_PER_DEGREE * longitude_scale(state["latitude"])
    longitude = state["longitude"] + state["mean"][EAST, 0] / metres_per_degree_east
    state["latitude"] = min(max(latitude, -90.0), 90.0)
    state["longitude"] = (longitude + 180.0) % 360.0 - 180.0
    state["mean"][EAST, 0] = state["mean"][NORTH, 0] = 0.0


@compiled
def longitude_scale(latitude: float) -> float:
    """Length of a degree of longitude over one of latitude; bounded away from zero at the poles."""
    return max(math.cos(math.radians(latitude)), 1e-3)
