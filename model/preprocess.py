"""From wire signals to network inputs: one causal implementation for training and for serving.

The compiled loop `_advance_rows` takes one sample after the other, vehicle after vehicle: one of each in a batch
(`Preprocessor.advance`), several in a batch of runs (`advance_runs`), all of one in a sequence (`preprocess_sequence`).
What it does not know: verdicts (samples reach it validated and in order), the network, the store.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numba
import numpy as np
from numpy.typing import NDArray

from model.channels import MOTION, ChannelSchema
from model.jit import compiled, entry_point_for
from model.kalman import KALMAN_DTYPE, Motion, advance_kalman, initial_kalman
from model.normaliser import FleetPrior, advance_normaliser, normaliser_dtype

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Bools = NDArray[np.bool_]
Millis = NDArray[np.int64]

NEVER_MS = -1  # `last_ts_ms` before the first sample
VERSION = 2  # raised whenever the same samples would give other features; part of the fingerprint
HOLD_MS = 60_000  # a missing value is held for a minute, then its z-score is the mean
MAX_RATIO = 10_000.0  # elapsed time is capped at 10,000 nominal intervals (14 h): every state has decayed by then
DAY_MS = 86_400_000
ABSENT = -1  # column of a signal that the schema does not have

# What the compiled code needs to know of one channel, and of the schema as a whole.
CHANNEL_DTYPE = np.dtype(
    [
        ("column", "<i8"),  # of its signal; -1, -2, -3 for the members of MOTION
        ("mean", "<f8"),  # the fleet's
        ("std", "<f8"),
        ("per_interval", "?"),
        ("hold", "?"),
    ],
    align=True,
)
RULES_DTYPE = np.dtype(
    [
        ("latitude", "<i8"),  # columns of the signals that the motion filters read, or ABSENT
        ("longitude", "<i8"),
        ("altitude", "<i8"),
        ("speed", "<i8"),
        ("nominal_ms", "<f8"),
        ("prior_weight", "<f8"),
        ("settled_samples", "<i8"),
    ]
)


@dataclass(frozen=True, slots=True)
class Features:
    """One preprocessed sample of each vehicle of a batch; with a length after the batch for a sequence."""

    inputs: Singles  # (batch, d_input): z-scores, present bits, hour of day
    ratio: Singles  # (batch,): elapsed time over the nominal interval
    z: Singles  # (batch, n_channels): held z-scores, as in `inputs`
    present: Bools  # (batch, n_channels): measured in this very sample

    @staticmethod
    def of(inputs: Singles, ratio: Singles) -> "Features":
        """From the network's inputs, of which z-scores (a view) and present bits are a part."""
        n = (inputs.shape[-1] - 4) // 2
        return Features(inputs, ratio, inputs[..., :n], inputs[..., n : 2 * n] != 0)


class Preprocessor:
    """The causal preprocessing that a checkpoint defines; holds no per-vehicle state itself."""

    def __init__(self, schema: ChannelSchema, prior: FleetPrior, nominal_interval_s: float) -> None:
        n = len(schema.channels)
        if len(prior.mean) != n:
            raise ValueError(f"prior has {len(prior.mean)} channels, schema has {n}")
        self.schema = schema
        self.prior = prior
        self.nominal_interval_s = nominal_interval_s
        self.dtype = np.dtype(
            [
                ("last_ts_ms", "<i8"),
                ("kalman", KALMAN_DTYPE),
                ("normaliser", normaliser_dtype(n)),
                ("held_z", "<f8", (n,)),
                ("held_ts_ms", "<i8", (n,)),
            ]
        )
        column = {name: i for i, name in enumerate(schema.signal_names)}
        self._channels = np.zeros(n, CHANNEL_DTYPE)
        self._channels["column"] = [
            -1 - MOTION.index(channel.source) if channel.source in MOTION else column[channel.source]
            for channel in schema.channels
        ]
        self._channels["mean"], self._channels["std"] = prior.mean, prior.std
        self._channels["per_interval"] = [channel.per_interval for channel in schema.channels]
        self._channels["hold"] = [channel.hold for channel in schema.channels]
        self._rules = np.zeros(1, RULES_DTYPE)
        for name in ("latitude", "longitude", "altitude", "speed"):
            self._rules[name] = column.get(name, ABSENT)
        self._rules["nominal_ms"] = 1000.0 * nominal_interval_s
        self._rules["prior_weight"], self._rules["settled_samples"] = prior.prior_weight, prior.settled_samples

    def initial_state(self, n_vehicles: int) -> NDArray[np.void]:
        """State before the first sample; (n_vehicles,) of `dtype`."""
        state = np.zeros(n_vehicles, self.dtype)
        state["last_ts_ms"] = state["held_ts_ms"] = NEVER_MS
        state["kalman"] = initial_kalman(n_vehicles)
        return state

    def advance(self, state: NDArray[np.void], ts_ms: Millis, signals: NDArray[np.floating]) -> Features:
        """Preprocess one sample of each vehicle of a batch; `state` is updated in place.

        Args:
            state: (batch,) of `dtype`.
            ts_ms: (batch,) epoch milliseconds, later than each vehicle's last sample.
            signals: (batch, n_signals) in wire order, NaN when absent; latitude and longitude both or neither.

        Raises:
            ValueError: the shapes do not belong together.
        """
        return self.advance_runs(state, np.ones(len(ts_ms), np.int64), ts_ms, signals)

    def advance_runs(
        self, state: NDArray[np.void], lengths: NDArray[np.int64], ts_ms: Millis, signals: NDArray[np.floating]
    ) -> Features:
        """Preprocess several samples of each vehicle, vehicle after vehicle; `state` is updated in place.

        Args:
            state: (vehicles,) of `dtype`.
            lengths: (vehicles,) samples of each, not negative.
            ts_ms: (lengths.sum(),) epoch milliseconds, rising within a vehicle and later than its last sample.
            signals: (lengths.sum(), n_signals) in wire order, NaN when absent.

        Raises:
            ValueError: the shapes do not belong together.
        """
        inputs = np.empty((len(ts_ms), self.schema.d_input), np.float32)
        ratio = np.empty(len(ts_ms), np.float32)
        self._run(_advance_rows, state, lengths, ts_ms, signals, inputs, ratio)
        return Features.of(inputs, ratio)

    def advance_over_time(
        self, ts_ms: Millis, signals: NDArray[np.floating], inputs: Singles, ratio: Singles
    ) -> NDArray[np.void]:
        """Preprocess one vehicle's whole sequence from nothing, into arrays given.

        Args:
            ts_ms: (length,) epoch milliseconds, rising.
            signals: (length, n_signals), NaN when absent.
            inputs: (length, d_input), written.
            ratio: (length,), written.

        Returns:
            The state after it, (1,) of `dtype`.

        Raises:
            ValueError: the shapes do not belong together.
        """
        state = self.initial_state(1)
        self._run(_advance_rows, state, np.array([len(ts_ms)]), ts_ms, signals, inputs, ratio)
        return state

    def observe(
        self, state: NDArray[np.void], lengths: NDArray[np.int64], ts_ms: Millis, signals: NDArray[np.floating]
    ) -> tuple[Floats, Floats, Bools]:
        """The part of `advance_runs` before z-scores, also in place.

        Returns:
            Elapsed-time ratios (rows,), channel values in their units (rows, n_channels) with 0 where absent, and
            which are present.
        """
        values = np.empty((len(ts_ms), len(self.schema.channels)))
        ratio = np.empty(len(ts_ms))
        self._run(_observe_rows, state, lengths, ts_ms, signals, values, ratio)
        present = ~np.isnan(values)
        return ratio, np.where(present, values, 0.0), present

    def _run(
        self,
        rows: Callable[..., None],
        state: NDArray[np.void],
        lengths: NDArray[np.int64],
        ts_ms: Millis,
        signals: NDArray[np.floating],
        out: NDArray[np.floating],
        ratio: NDArray[np.floating],
    ) -> None:
        """Call the compiled loop; compiled code does not check shapes itself."""
        n, n_signals = len(ts_ms), len(self.schema.signals)
        width = self.schema.d_input if rows is _advance_rows else len(self.schema.channels)
        runs_fit = state.shape == lengths.shape and lengths.sum() == n and lengths.min(initial=0) >= 0
        if not runs_fit or signals.shape != (n, n_signals):
            raise ValueError(
                f"{n} timestamps in {len(lengths)} runs need as many states as runs and signals ({n}, {n_signals}), "
                f"got {state.shape} and {signals.shape}"
            )
        if out.shape != (n, width) or ratio.shape != (n,):
            raise ValueError(f"results of {n} samples are (n, {width}) and (n,), got {out.shape}, {ratio.shape}")
        run = compile_rows(rows, self.dtype, out.dtype)
        signals = np.ascontiguousarray(signals, np.float64)
        ts_ms = np.ascontiguousarray(ts_ms, np.int64)
        run(state, lengths.astype(np.int64), self._channels, self._rules, ts_ms, signals, out, ratio)


def preprocess_sequence(
    preprocessor: Preprocessor, ts_ms: Millis, signals: NDArray[np.floating], lengths: NDArray[np.int64]
) -> Features:
    """Preprocess whole sequences, starting from nothing.

    Args:
        preprocessor: the checkpoint's.
        ts_ms: (n_vehicles, length) epoch milliseconds.
        signals: (n_vehicles, length, n_signals), NaN when absent.
        lengths: (n_vehicles,) valid samples of each vehicle; what lies beyond is zero in the result (ratio 1).
    """
    inputs = np.zeros((*ts_ms.shape, preprocessor.schema.d_input), np.float32)
    ratio = np.ones(ts_ms.shape, np.float32)
    for i, n in enumerate(lengths):
        preprocessor.advance_over_time(ts_ms[i, :n], signals[i, :n], inputs[i, :n], ratio[i, :n])
    return Features.of(inputs, ratio)


@cache
def compile_rows(rows: Callable[..., None], state: np.dtype[np.void], out: np.dtype[Any]) -> Callable[..., None]:
    """One of the loops below for one state layout, at whatever stride: the states may be a field of larger records."""

    def array(dtype: np.dtype[Any], ndim: int, layout: Literal["C", "A"] = "C", *, readonly: bool = False) -> Any:
        return numba.types.Array(numba.from_dtype(dtype), ndim, layout, readonly=readonly)

    return entry_point_for(
        rows,
        array(state, 1, "A"),
        array(np.dtype(np.int64), 1),
        array(CHANNEL_DTYPE, 1),
        array(RULES_DTYPE, 1),
        array(np.dtype(np.int64), 1, readonly=True),
        array(np.dtype(np.float64), 2, readonly=True),
        array(out, 2),
        array(out, 1),
    )


def _advance_rows(
    state: Any,
    lengths: NDArray[np.int64],
    channels: Any,
    rules: Any,
    ts_ms: Millis,
    signals: Floats,
    inputs: Singles,
    ratio: Singles,
) -> None:
    """Row after row: (vehicles,) states in place, (n_channels,) CHANNEL_DTYPE, (1,) RULES_DTYPE, samples, results."""
    n, rule, row = len(channels), rules[0], 0
    for vehicle in range(len(lengths)):
        s = state[vehicle]
        for _ in range(lengths[vehicle]):
            now = ts_ms[row]
            elapsed, motion = take_motion(s, rule, now, signals[row])
            ratio[row] = elapsed
            for i in range(n):
                value = channel_value(channels[i], motion, signals[row], elapsed)
                inputs[row, i] = hold_or_score(s, channels[i], i, rule, now, value)
                inputs[row, n + i] = 0.0 if math.isnan(value) else 1.0
            hours = solar_hour_features(now, s["kalman"]["longitude"])
            for i in range(4):
                inputs[row, 2 * n + i] = hours[i]
            row += 1


def _observe_rows(
    state: Any,
    lengths: NDArray[np.int64],
    channels: Any,
    rules: Any,
    ts_ms: Millis,
    signals: Floats,
    values: Floats,
    ratio: Floats,
) -> None:
    """As `_advance_rows`, up to the channels' values (NaN where absent)."""
    row = 0
    for vehicle in range(len(lengths)):
        for _ in range(lengths[vehicle]):
            elapsed, motion = take_motion(state[vehicle], rules[0], ts_ms[row], signals[row])
            ratio[row] = elapsed
            for i in range(len(channels)):
                values[row, i] = channel_value(channels[i], motion, signals[row], elapsed)
            row += 1


@compiled
def take_motion(s: Any, rule: Any, ts_ms: int, signals: Floats) -> tuple[float, Motion]:
    """Advance clock and motion filters, in place; elapsed nominal intervals and the motion."""
    elapsed_ms = rule["nominal_ms"] if s["last_ts_ms"] == NEVER_MS else float(ts_ms - s["last_ts_ms"])
    s["last_ts_ms"] = ts_ms
    motion = advance_kalman(
        s["kalman"],
        elapsed_ms / 1000.0,
        signal_value(signals, rule["latitude"]),
        signal_value(signals, rule["longitude"]),
        signal_value(signals, rule["altitude"]),
        signal_value(signals, rule["speed"]),
    )
    return min(elapsed_ms / rule["nominal_ms"], MAX_RATIO), motion


@compiled
def signal_value(signals: Floats, column: int) -> float:
    """One signal; NaN when the schema has no such column."""
    return signals[column] if column != ABSENT else np.nan


@compiled
def channel_value(channel: Any, motion: Motion, signals: Floats, elapsed: float) -> float:
    """A channel's value in its unit, NaN when absent."""
    column = channel["column"]
    value = signals[column] if column >= 0 else motion[-1 - column]
    return value / max(elapsed, 1.0) if channel["per_interval"] else value


@compiled
def hold_or_score(s: Any, channel: Any, i: int, rule: Any, ts_ms: int, value: float) -> float:
    """The z-score of a value (learning from it, in place), or of the last one while it may be held, or of the mean."""
    if not math.isnan(value):
        s["held_z"][i] = advance_normaliser(
            s["normaliser"], i, value, channel["mean"], channel["std"], rule["prior_weight"], rule["settled_samples"]
        )
        s["held_ts_ms"][i] = ts_ms
    elif not channel["hold"] or s["held_ts_ms"][i] == NEVER_MS or ts_ms - s["held_ts_ms"][i] > HOLD_MS:
        return 0.0
    return float(s["held_z"][i])


@compiled
def solar_hour_features(ts_ms: int, longitude: float) -> tuple[float, float, float, float]:
    """First two harmonics of the hour of day by local mean solar time; UTC where longitude (degrees) is NaN.

    Returns:
        sin, cos of the day, sin, cos of the half day. The equation of time (at most 17 min) is ignored.
    """
    offset_days = 0.0 if math.isnan(longitude) else longitude / 360.0
    angle = 2.0 * math.pi * ((ts_ms % DAY_MS) / DAY_MS + offset_days)
    return math.sin(angle), math.cos(angle), math.sin(2.0 * angle), math.cos(2.0 * angle)
