"""From wire signals to network inputs: one causal implementation for training and for serving.

`advance` takes one sample of each vehicle of a batch; `preprocess_sequence` is the same function over time. What it
does not know: verdicts (samples reach it validated and in order), the network, the store.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.channels import MOTION, ChannelSchema
from model.kalman import KALMAN_DTYPE, advance_kalman, initial_kalman
from model.normaliser import FleetPrior, advance_normaliser, normaliser_dtype

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Bools = NDArray[np.bool_]
Millis = NDArray[np.int64]

NEVER_MS = -1  # `last_ts_ms` before the first sample
VERSION = 1  # raised whenever the same samples would give other features; part of the fingerprint
HOLD_MS = 60_000  # a missing value is held for a minute, then its z-score is the mean
MAX_RATIO = 10_000.0  # elapsed time is capped at 10,000 nominal intervals (14 h): every state has decayed by then
DAY_MS = 86_400_000


@dataclass(frozen=True, slots=True)
class Features:
    """One preprocessed sample of each vehicle of a batch; with a length after the batch for a sequence."""

    inputs: Singles  # (batch, d_input): z-scores, present bits, hour of day
    ratio: Singles  # (batch,): elapsed time over the nominal interval
    z: Singles  # (batch, n_channels): held z-scores, as in `inputs`
    present: Bools  # (batch, n_channels): measured in this very sample


class Preprocessor:
    """The causal preprocessing that a checkpoint defines; holds no per-vehicle state itself."""

    def __init__(self, schema: ChannelSchema, prior: FleetPrior, nominal_interval_s: float) -> None:
        if len(prior.mean) != len(schema.channels):
            raise ValueError(f"prior has {len(prior.mean)} channels, schema has {len(schema.channels)}")
        self.schema = schema
        self.prior = prior
        self.nominal_interval_s = nominal_interval_s
        self._column = {name: i for i, name in enumerate(schema.signal_names)}
        self._per_interval = np.array([channel.per_interval for channel in schema.channels])
        self._holds = np.array([channel.hold for channel in schema.channels])
        n = len(schema.channels)
        self.dtype = np.dtype(
            [
                ("last_ts_ms", "<i8"),
                ("kalman", KALMAN_DTYPE),
                ("normaliser", normaliser_dtype(n)),
                ("held_z", "<f8", (n,)),
                ("held_ts_ms", "<i8", (n,)),
            ]
        )

    def initial_state(self, n_vehicles: int) -> NDArray[np.void]:
        """State before the first sample; (n_vehicles,) of `dtype`."""
        state = np.zeros(n_vehicles, self.dtype)
        state["last_ts_ms"] = state["held_ts_ms"] = NEVER_MS
        state["kalman"] = initial_kalman(n_vehicles)
        return state

    def advance(self, state: NDArray[np.void], ts_ms: Millis, signals: Floats) -> Features:
        """Preprocess one sample of each vehicle of a batch; `state` is updated in place.

        Args:
            state: (batch,) of `dtype`.
            ts_ms: (batch,) epoch milliseconds, later than each vehicle's last sample.
            signals: (batch, n_signals) in wire order, NaN when absent; latitude and longitude both or neither.
        """
        ratio, values, present = self.observe(state, ts_ms, signals)
        fresh_z = advance_normaliser(state["normaliser"], self.prior, values, present)
        recent = self._holds & (state["held_ts_ms"] >= 0) & (ts_ms[:, None] - state["held_ts_ms"] <= HOLD_MS)
        z = np.where(present, fresh_z, np.where(recent, state["held_z"], 0.0))
        state["held_z"] = np.where(present, fresh_z, state["held_z"])
        state["held_ts_ms"] = np.where(present, ts_ms[:, None], state["held_ts_ms"])

        hour = solar_hour_features(ts_ms, state["kalman"]["longitude"])
        inputs = np.concatenate((z, present, hour), axis=1, dtype=np.float32)
        return Features(inputs, ratio.astype(np.float32), z.astype(np.float32), present)

    def observe(self, state: NDArray[np.void], ts_ms: Millis, signals: Floats) -> tuple[Floats, Floats, Bools]:
        """The part of `advance` before z-scores, also in place.

        Returns:
            Elapsed-time ratios (batch,), channel values in their units (batch, n_channels) with 0 where absent, and
            which are present.
        """
        first = state["last_ts_ms"] == NEVER_MS
        nominal_ms = 1000.0 * self.nominal_interval_s
        elapsed_ms = np.where(first, nominal_ms, ts_ms - state["last_ts_ms"])
        ratio = np.minimum(elapsed_ms / nominal_ms, MAX_RATIO)
        state["last_ts_ms"] = ts_ms
        values, present = self._channel_values(state["kalman"], elapsed_ms / 1000.0, signals)
        return ratio, np.where(self._per_interval, values / np.maximum(ratio, 1.0)[:, None], values), present

    def _channel_values(self, kalman: NDArray[np.void], elapsed_s: Floats, signals: Floats) -> tuple[Floats, Bools]:
        """Channel values before they become rates."""
        motion = advance_kalman(
            kalman,
            elapsed_s,
            np.stack((self._signal(signals, "latitude"), self._signal(signals, "longitude")), axis=1),
            self._signal(signals, "altitude"),
            self._signal(signals, "speed"),
        )
        values = np.empty((len(signals), len(self.schema.channels)))
        present = np.empty(values.shape, np.bool_)
        for i, channel in enumerate(self.schema.channels):
            if channel.source in MOTION:
                j = MOTION.index(channel.source)
                values[:, i], present[:, i] = motion.values[:, j], motion.present[:, j]
            else:
                values[:, i] = self._signal(signals, channel.source)
                present[:, i] = ~np.isnan(values[:, i])
        return np.where(present, values, 0.0), present

    def _signal(self, signals: Floats, name: str) -> Floats:
        """One column, or all absent when the schema has no such signal."""
        column = self._column.get(name)
        return np.full(len(signals), np.nan) if column is None else signals[:, column]


def preprocess_sequence(
    preprocessor: Preprocessor, ts_ms: Millis, signals: NDArray[np.floating], lengths: NDArray[np.int64]
) -> Features:
    """Preprocess whole sequences, starting from nothing: `advance` over time, all vehicles side by side.

    Args:
        preprocessor: the checkpoint's.
        ts_ms: (n_vehicles, length) epoch milliseconds.
        signals: (n_vehicles, length, n_signals), NaN when absent.
        lengths: (n_vehicles,) valid samples of each vehicle; what lies beyond is zero in the result (ratio 1).
    """
    n_vehicles, length = ts_ms.shape
    n_channels = len(preprocessor.schema.channels)
    features = Features(
        inputs=np.zeros((n_vehicles, length, preprocessor.schema.d_input), np.float32),
        ratio=np.ones((n_vehicles, length), np.float32),
        z=np.zeros((n_vehicles, length, n_channels), np.float32),
        present=np.zeros((n_vehicles, length, n_channels), np.bool_),
    )
    state = preprocessor.initial_state(n_vehicles)
    for t in range(length):
        rows = np.flatnonzero(t < lengths)
        active = state[rows]
        step = preprocessor.advance(active, ts_ms[rows, t], signals[rows, t].astype(np.float64))
        state[rows] = active
        features.inputs[rows, t], features.ratio[rows, t] = step.inputs, step.ratio
        features.z[rows, t], features.present[rows, t] = step.z, step.present
    return features


def solar_hour_features(ts_ms: Millis, longitude: Floats) -> Floats:
    """First two harmonics of the hour of day by local mean solar time; UTC where longitude (degrees) is NaN.

    Returns:
        (batch, 4): sin, cos of the day, sin, cos of the half day. The equation of time (at most 17 min) is ignored.
    """
    offset_days = np.where(np.isnan(longitude), 0.0, longitude) / 360.0
    angle = 2.0 * np.pi * ((ts_ms % DAY_MS) / DAY_MS + offset_days)
    return np.stack((np.sin(angle), np.cos(angle), np.sin(2.0 * angle), np.cos(2.0 * angle)), axis=1)
