"""Under what a model is tried: fewer channels, worse telemetry, a van that is new.

Every change is drawn per van and seeded by its id, so that all models meet the same troubles.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from model.channels import SIGNALS
from model.fleet import VehicleTrace
from model.fleet.sensors import GLITCHES_PER_DAY, glitch_gps

DAY_MS = 86_400_000
GLITCH_FACTOR = 10.0
DROPPED_SHARE = 0.2
OPTIONAL_SIGNALS = ("pack_current", "pack_temperature", "ambient_temperature")

Transform = Callable[[VehicleTrace], VehicleTrace]


def without_signals(trace: VehicleTrace, names: Sequence[str]) -> VehicleTrace:
    """The trace of a van that lacks these signals."""
    signals = trace.signals.copy()
    signals[:, [SIGNALS.index(name) for name in names]] = np.nan
    return replace(trace, signals=signals)


def with_channels(traces: Sequence[VehicleTrace], n_channels: int) -> list[VehicleTrace]:
    """The traces with all nine channels, or with the six core ones alone.

    Raises:
        ValueError: another number of channels.
    """
    if n_channels == 9:
        return list(traces)
    if n_channels == 6:
        return [without_signals(trace, OPTIONAL_SIGNALS) for trace in traces]
    raise ValueError(f"channels must be 6 or 9, got {n_channels}")


def with_gps_glitches(trace: VehicleTrace, factor: float = GLITCH_FACTOR) -> VehicleTrace:
    """Glitches added to those of the simulator, until there are `factor` times as many."""
    signals = trace.signals.copy()
    glitch_gps(signals, (factor - 1.0) * GLITCHES_PER_DAY, _stream(trace, "gps_glitches"))
    return replace(trace, signals=signals)


def with_dropped_samples(trace: VehicleTrace, share: float = DROPPED_SHARE) -> VehicleTrace:
    """A random share of the samples never arrives; the first one always does."""
    kept = _stream(trace, "dropped").random(len(trace.ts_ms)) >= share
    kept[0] = True
    return replace(
        trace,
        ts_ms=trace.ts_ms[kept],
        signals=trace.signals[kept],
        label=trace.label[kept],
        valid=trace.valid[kept],
        true_temperature=trace.true_temperature[kept],
    )


def _stream(trace: VehicleTrace, purpose: str) -> np.random.Generator:
    """Random numbers that depend on the van, its first instant and the purpose alone."""
    name = f"{trace.vehicle_id}|{int(trace.ts_ms[0])}|{purpose}"
    return np.random.default_rng(zlib.crc32(name.encode()))


def _unchanged(trace: VehicleTrace) -> VehicleTrace:
    return trace


@dataclass(frozen=True, slots=True)
class Condition:
    """One way to try a model. Conditions with the same `transform` share their scores."""

    name: str  # `condition` in the report's rows
    channels: int  # 6 or 9, `channels` in the report's rows
    transform: Transform
    first_ms: int | None = None  # judge only so much of each trace


NINE = Condition("nominal", 9, _unchanged)
SIX = Condition("nominal", 6, partial(without_signals, names=OPTIONAL_SIGNALS))
MAIN_CONDITIONS = (NINE, SIX)
CONDITIONS = (
    NINE,
    Condition("first_day", 9, _unchanged, first_ms=DAY_MS),
    SIX,
    Condition("gps_glitches", 9, with_gps_glitches),
    Condition("dropped_20", 9, with_dropped_samples),
    *(
        Condition(f"missing_{name}", 9, partial(without_signals, names=(name,)))
        for name in ("motor_temperature", "pack_temperature")
    ),
)
