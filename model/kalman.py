"""Constant-velocity Kalman filters over many vehicles at once, with innovation gating.

Four two-state filters (value, rate) per vehicle: east, north, up from GPS, and ground speed. The predict and update
steps are simdkalman's. Position is kept relative to the last estimate, which moves along as an anchor, so a van may
drive around the world. Source: Bar-Shalom, Li & Kirubarajan 2001, section 6.2 (white-noise acceleration).
"""

from dataclasses import dataclass

import numpy as np
import simdkalman
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

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

KALMAN_DTYPE = np.dtype(
    [
        ("latitude", "<f8"),  # anchor, deg; NaN before the first fix
        ("longitude", "<f8"),
        ("mean", "<f8", (N_AXES, 2)),
        ("covariance", "<f8", (N_AXES, 2, 2)),
        ("ready", "?", (N_AXES,)),  # has been initialised since the last restart
        ("rejects", "u1", (N_AXES,)),  # consecutive measurements gated out
    ]
)


@dataclass(frozen=True, slots=True)
class Motion:
    """Filtered motion of a batch; `present` says whether this sample's own measurements support a value."""

    values: Floats  # (batch, 3): speed m/s, acceleration m/s^2, climb rate m/s
    present: Bools  # (batch, 3)


def initial_kalman(n_vehicles: int) -> NDArray[np.void]:
    """Filters that have seen nothing; (n_vehicles,) KALMAN_DTYPE."""
    state = np.zeros(n_vehicles, KALMAN_DTYPE)
    state["latitude"] = state["longitude"] = np.nan
    return state


def advance_kalman(
    state: NDArray[np.void], elapsed_s: Floats, position: Floats, altitude: Floats, speed: Floats
) -> Motion:
    """Advance the filters of a batch by one sample each, in place.

    Args:
        state: (batch,) KALMAN_DTYPE.
        elapsed_s: (batch,) seconds since the last sample; ignored before the first.
        position: (batch, 2) latitude and longitude in degrees, NaN without a fix.
        altitude: (batch,) metres, NaN when absent.
        speed: (batch,) metres per second, NaN when absent.
    """
    state["ready"] &= (elapsed_s <= MAX_GAP_S)[:, None]
    predict(state, elapsed_s)

    place = slice(EAST, UP + 1)
    measured = np.concatenate((displacement(state, position), altitude[:, None]), axis=1)
    variance = np.broadcast_to(MEASUREMENT_VARIANCE[place], measured.shape)
    had_fix = state["ready"][:, EAST].copy()
    accepted = update(state, place, measured, variance, joint=2)
    move_anchor(state, position, accepted[:, EAST])

    # A filter that starts at this very fix knows where the van is, not how fast.
    moving = accepted[:, EAST] & had_fix & (state["covariance"][:, EAST, 1, 1] < INITIAL_RATE_VARIANCE[EAST])
    gps_speed = np.where(moving, np.hypot(state["mean"][:, EAST, 1], state["mean"][:, NORTH, 1]), np.nan)
    from_gps = np.isnan(speed)
    measured_speed = np.where(from_gps, gps_speed, speed)[:, None]
    speed_variance = np.where(from_gps, GPS_SPEED_VARIANCE, MEASUREMENT_VARIANCE[SPEED])[:, None]
    had_speed = state["ready"][:, SPEED].copy()
    speed_accepted = update(state, slice(SPEED, SPEED + 1), measured_speed, speed_variance, joint=1)[:, 0]

    values = np.stack(
        (np.maximum(state["mean"][:, SPEED, 0], 0.0), state["mean"][:, SPEED, 1], state["mean"][:, UP, 1]), axis=1
    )
    present = np.stack((speed_accepted, speed_accepted & had_speed, accepted[:, UP]), axis=1)
    return Motion(values=values, present=present)


def predict(state: NDArray[np.void], elapsed_s: Floats) -> None:
    """Carry every filter forward by (batch,) elapsed seconds, in place."""
    n = len(state)
    dt = np.repeat(np.minimum(elapsed_s, MAX_GAP_S), N_AXES)
    density = np.tile(PROCESS_DENSITY, n)
    transition = np.tile(np.eye(2), (n * N_AXES, 1, 1))
    transition[:, 0, 1] = dt
    noise = np.empty((n * N_AXES, 2, 2))
    noise[:, 0, 0] = density * dt**3 / 3.0
    noise[:, 0, 1] = noise[:, 1, 0] = density * dt**2 / 2.0
    noise[:, 1, 1] = density * dt
    mean, covariance = simdkalman.primitives.predict(
        state["mean"].reshape(-1, 2, 1), state["covariance"].reshape(-1, 2, 2), transition, noise
    )
    state["mean"] = mean.reshape(n, N_AXES, 2)
    state["covariance"] = covariance.reshape(n, N_AXES, 2, 2)


def update(state: NDArray[np.void], axes: slice, measured: Floats, variance: Floats, *, joint: int) -> Bools:
    """Take in one measurement per vehicle and axis, in place; glitches are gated out.

    Args:
        state: (batch,) KALMAN_DTYPE, predicted.
        axes: which filters.
        measured: (batch, n_axes) values, NaN when absent.
        variance: (batch, n_axes) of the measurements.
        joint: so many of the leading axes are accepted or refused together (2 for a horizontal fix).

    Returns:
        (batch, n_axes): the measurement was present and is now part of the estimate.
    """
    mean, covariance = state["mean"][:, axes], state["covariance"][:, axes]
    ready, rejects = state["ready"][:, axes], state["rejects"][:, axes]
    present = ~np.isnan(measured)
    value = np.where(present, measured, mean[..., 0])
    innovation = value - mean[..., 0]
    inside = innovation**2 <= GATE * (covariance[..., 0, 0] + variance)
    inside[:, :joint] = inside[:, :joint].all(axis=1, keepdims=True)
    restart = present & (~ready | (~inside & (rejects + 1 >= MAX_REJECTS)))
    restart[:, :joint] = restart[:, :joint].any(axis=1, keepdims=True)
    use = present & ready & inside & ~restart

    posterior_mean, posterior_covariance = simdkalman.primitives.update(
        mean.reshape(-1, 2, 1),
        covariance.reshape(-1, 2, 2),
        np.array([[[1.0, 0.0]]]),
        variance.reshape(-1, 1, 1),
        value.reshape(-1, 1, 1),
    )
    posterior_covariance = posterior_covariance.reshape(covariance.shape)
    fresh_mean = np.stack((value, np.zeros_like(value)), axis=-1)
    fresh_covariance = np.zeros_like(covariance)
    fresh_covariance[..., 0, 0] = variance
    fresh_covariance[..., 1, 1] = INITIAL_RATE_VARIANCE[axes]

    use_, restart_ = use[..., None], restart[..., None]
    state["mean"][:, axes] = np.where(restart_, fresh_mean, np.where(use_, posterior_mean.reshape(mean.shape), mean))
    state["covariance"][:, axes] = np.where(
        restart_[..., None], fresh_covariance, np.where(use_[..., None], posterior_covariance, covariance)
    )
    state["ready"][:, axes] = ready | restart
    state["rejects"][:, axes] = np.where(present, np.where(use | restart, 0, rejects + 1), rejects)
    accepted: Bools = use | restart
    return accepted


def displacement(state: NDArray[np.void], position: Floats) -> Floats:
    """Metres east and north (batch, 2) of `position` from the anchor; zero for a first fix, NaN without one."""
    latitude = np.where(np.isnan(state["latitude"]), position[:, 0], state["latitude"])
    longitude = np.where(np.isnan(state["longitude"]), position[:, 1], state["longitude"])
    north = (position[:, 0] - latitude) * METRES_PER_DEGREE
    degrees_east = (position[:, 1] - longitude + 180.0) % 360.0 - 180.0
    east = degrees_east * METRES_PER_DEGREE * longitude_scale(latitude)
    return np.stack((east, north), axis=1)


def move_anchor(state: NDArray[np.void], position: Floats, accepted: Bools) -> None:
    """Fold the estimated displacement into the anchor, in place, wherever a fix was accepted."""
    first = accepted & np.isnan(state["latitude"])
    state["latitude"] = np.where(first, position[:, 0], state["latitude"])
    state["longitude"] = np.where(first, position[:, 1], state["longitude"])
    east, north = state["mean"][:, EAST, 0], state["mean"][:, NORTH, 0]
    latitude = state["latitude"] + north / METRES_PER_DEGREE
    longitude = state["longitude"] + east / (METRES_PER_DEGREE * longitude_scale(state["latitude"]))
    state["latitude"] = np.where(accepted, np.clip(latitude, -90.0, 90.0), state["latitude"])
    state["longitude"] = np.where(accepted, (longitude + 180.0) % 360.0 - 180.0, state["longitude"])
    state["mean"][:, EAST : NORTH + 1, 0] *= ~accepted[:, None]


def longitude_scale(latitude: Floats) -> Floats:
    """Length of a degree of longitude over one of latitude; bounded away from zero at the poles."""
    return np.maximum(np.cos(np.radians(latitude)), 1e-3)
