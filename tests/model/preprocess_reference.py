"""Preprocessing of one vehicle in textbook equations, float64 and slow: what the compiled code must agree with.

Kalman filters with matrices, statistics from all values kept. Constants come from the product's modules, maths does not.
"""

import numpy as np
from numpy.typing import NDArray

from model import kalman
from model.channels import MOTION, ChannelSchema
from model.normaliser import Z_LIMIT, FleetPrior
from model.preprocess import HOLD_MS, MAX_RATIO

Floats = NDArray[np.float64]

DAY_S = 86_400.0
H = np.array([[1.0, 0.0]])


class AxisFilter:
    """One axis: value and rate."""

    def __init__(self, density: float, rate_variance: float) -> None:
        self.density, self.rate_variance = density, rate_variance
        self.x, self.P = np.zeros((2, 1)), np.zeros((2, 2))
        self.ready, self.rejects = False, 0

    def predict(self, dt: float) -> None:
        """White-noise acceleration over dt seconds."""
        A = np.array([[1.0, dt], [0.0, 1.0]])
        Q = self.density * np.array([[dt**3 / 3.0, dt**2 / 2.0], [dt**2 / 2.0, dt]])
        self.x, self.P = A @ self.x, A @ self.P @ A.T + Q

    def inside(self, y: float, R: float) -> bool:
        """Within the gate."""
        S = float((H @ self.P @ H.T)[0, 0]) + R
        return float(y - (H @ self.x)[0, 0]) ** 2 <= kalman.GATE * S

    def update(self, y: float, R: float, inside: bool) -> bool:
        """Take in, refuse or restart; False when refused."""
        if not self.ready or (not inside and self.rejects + 1 >= kalman.MAX_REJECTS):
            self.x, self.P = np.array([[y], [0.0]]), np.diag([R, self.rate_variance])
        elif inside:
            K = self.P @ H.T @ np.linalg.inv(H @ self.P @ H.T + R)
            self.x, self.P = self.x + K * (y - float((H @ self.x)[0, 0])), (np.eye(2) - K @ H) @ self.P
        else:
            self.rejects += 1
            return False
        self.ready, self.rejects = True, 0
        return True


class ReferenceVehicle:
    """One vehicle's preprocessing, sample by sample."""

    def __init__(self, schema: ChannelSchema, prior: FleetPrior, nominal_interval_s: float) -> None:
        self.schema, self.prior, self.nominal_s = schema, prior, nominal_interval_s
        densities, rates = kalman.PROCESS_DENSITY, kalman.INITIAL_RATE_VARIANCE
        self.axes = [AxisFilter(float(q), float(p)) for q, p in zip(densities, rates, strict=True)]
        self.anchor: tuple[float, float] | None = None
        self.last_ms: int | None = None
        self.learned: list[list[float]] = [[] for _ in schema.channels]
        self.held: list[tuple[int, float] | None] = [None for _ in schema.channels]

    def advance(self, ts_ms: int, row: Floats) -> tuple[Floats, float, Floats]:
        """Inputs (d_input,), elapsed-time ratio and the channels' values (n_channels,), NaN where absent."""
        elapsed_s = self.nominal_s if self.last_ms is None else (ts_ms - self.last_ms) / 1000.0
        self.last_ms = ts_ms
        ratio = min(elapsed_s / self.nominal_s, MAX_RATIO)
        signals = dict(zip(self.schema.signal_names, row.tolist(), strict=True))
        known = signals | dict(zip(MOTION, self.motion(elapsed_s, signals), strict=True))
        values = np.array([known[channel.source] for channel in self.schema.channels])
        rates = np.array([channel.per_interval for channel in self.schema.channels])
        values[rates] /= max(ratio, 1.0)
        z = np.array([self.score(i, ts_ms, float(value)) for i, value in enumerate(values)])
        longitude = 0.0 if self.anchor is None else self.anchor[1]
        turn = 2.0 * np.pi * ((ts_ms / 1000.0 % DAY_S) / DAY_S + longitude / 360.0)
        hour = [np.sin(turn), np.cos(turn), np.sin(2.0 * turn), np.cos(2.0 * turn)]
        return np.concatenate((z, ~np.isnan(values), hour)), ratio, values

    def motion(self, elapsed_s: float, signals: dict[str, float]) -> tuple[float, float, float]:
        """Speed, acceleration and climb rate, NaN where this sample tells none."""
        east, north, up, ground = self.axes
        for axis in self.axes:
            axis.ready = axis.ready and elapsed_s <= kalman.MAX_GAP_S
            axis.predict(min(elapsed_s, kalman.MAX_GAP_S))
        fixed = self.fix(signals["latitude"], signals["longitude"])
        R = kalman.MEASUREMENT_VARIANCE
        climbs = self.measure(up, signals["altitude"], R[kalman.UP])
        speed, variance = signals["speed"], R[kalman.SPEED]
        if np.isnan(speed) and fixed and east.P[1, 1] < east.rate_variance:
            speed, variance = float(np.hypot(east.x[1, 0], north.x[1, 0])), kalman.GPS_SPEED_VARIANCE
        had_speed = ground.ready
        moves = self.measure(ground, speed, variance)
        return (
            max(float(ground.x[0, 0]), 0.0) if moves else np.nan,
            float(ground.x[1, 0]) if moves and had_speed else np.nan,
            float(up.x[1, 0]) if climbs else np.nan,
        )

    def measure(self, axis: AxisFilter, y: float, R: float) -> bool:
        """An axis that is judged by itself."""
        return not np.isnan(y) and axis.update(y, R, axis.inside(y, R))

    def fix(self, latitude: float, longitude: float) -> bool:
        """A horizontal fix; both axes or neither."""
        if np.isnan(latitude):
            return False
        east, north = self.axes[kalman.EAST], self.axes[kalman.NORTH]
        lat, lon = self.anchor or (latitude, longitude)
        metres_per_degree_east = kalman.METRES_PER_DEGREE * max(float(np.cos(np.radians(lat))), 1e-3)
        y = ((longitude - lon + 180.0) % 360.0 - 180.0) * metres_per_degree_east
        x = (latitude - lat) * kalman.METRES_PER_DEGREE
        R_east, R_north = kalman.MEASUREMENT_VARIANCE[[kalman.EAST, kalman.NORTH]]
        inside = east.inside(y, R_east) and north.inside(x, R_north)
        accepted = east.update(y, R_east, inside) & north.update(x, R_north, inside)  # same history, same verdict
        if accepted:
            new_lat = float(np.clip(lat + north.x[0, 0] / kalman.METRES_PER_DEGREE, -90.0, 90.0))
            self.anchor = new_lat, float((lon + east.x[0, 0] / metres_per_degree_east + 180.0) % 360.0 - 180.0)
            east.x[0, 0] = north.x[0, 0] = 0.0
        return accepted

    def score(self, i: int, ts_ms: int, value: float) -> float:
        """Z-score of channel i: of the value, else held, else of the mean."""
        if np.isnan(value):
            held = self.held[i]
            keep = self.schema.channels[i].hold and held is not None and ts_ms - held[0] <= HOLD_MS
            return held[1] if keep and held is not None else 0.0
        mean, std = self.statistics(i)
        z = float(np.clip((value - mean) / std, -Z_LIMIT, Z_LIMIT))
        if len(self.learned[i]) < self.prior.settled_samples:
            self.learned[i].append(float(np.clip(value, mean - Z_LIMIT * std, mean + Z_LIMIT * std)))
        self.held[i] = ts_ms, z
        return z

    def statistics(self, i: int) -> tuple[float, float]:
        """Mean and deviation of what was learned, under a normal-inverse-gamma prior worth k samples."""
        k, mu, sigma = self.prior.prior_weight, self.prior.mean[i], self.prior.std[i]
        values = np.array(self.learned[i])
        n = len(values)
        own = float(values.mean()) if n else mu
        mean = (k * mu + n * own) / (k + n)
        variance = (k * sigma**2 + float(np.sum((values - own) ** 2)) + (own - mu) ** 2 * k * n / (k + n)) / (k + n)
        return mean, max(float(np.sqrt(variance)), 0.1 * sigma)
