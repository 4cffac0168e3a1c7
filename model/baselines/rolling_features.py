"""Causal rolling features of one van, once a minute, for gradient boosting.

Windows, averages and references of every signal; how much warmer the van is than its load explains (expectation.py);
how it differs from this time yesterday and from its own past. Position, the age of the trace and what is constant of a
van are left out: they tell the few training vans with an event from the others, and are no symptom.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from model.baselines.expectation import TARGETS, Expectation, load_bank
from model.baselines.minute_chunks import EVERY, OPTIONAL_SERIES, SERIES, Chunks, chunk_series, chunked
from model.baselines.protocol import COLUMN, Bools, Floats, Singles
from model.baselines.windows import (
    exponential,
    minutes_since,
    relaxation,
    running_max,
    running_mean,
    value_at_start,
    value_before,
    window_extreme,
    window_mean,
    window_slope,
)
from model.dataset import Trace
from model.fleet import TRUE_TEMPERATURES, VehicleTrace
from model.fleet.limits import HOT_CELL_LIMIT_C, INVERTER_LIMIT_C, MOTOR_WINDING_LIMIT_C

HOUR, DAY = 60.0, 1_440.0
WINDOWS_MIN = (10.0, 60.0, 360.0, 1_440.0)
SHORT_WINDOWS_MIN = (3.0, 30.0, 180.0)  # means only
TEMPERATURES = ("motor", "pack", "ambient", "motor_over_ambient", "pack_over_ambient", "motor_over_pack")
LOADS = (
    "speed", "hard_acceleration", "climb", "brakes", "current", "current_sq", "power", "force_sq", "regen", "parked",
    "high_load", "speed_sq", "charge_current",
)  # fmt: skip
RELAXED = ("force_sq", "power", "speed_sq", "current_sq", "charge_current")
RELAXED_MIN = (4.0, 15.0, 45.0, 150.0, 480.0)
AVERAGED = ("motor", "pack", "speed", "ambient")
AVERAGED_MIN = (5.0, 20.0, 90.0, 720.0)
# Hidden temperatures and their limits, for the oracle.
LIMITS_C = {"hot_cell": HOT_CELL_LIMIT_C, "motor_winding": MOTOR_WINDING_LIMIT_C, "inverter": INVERTER_LIMIT_C}
REST_MIN = 10.0  # a drive begins after at least so long a stop
FAST_CHARGE_PERCENT_PER_HOUR = 25.0


@dataclass
class Table:
    """Columns under names; `optional` are those that need a signal that not every van has."""

    end_min: Floats
    columns: dict[str, Floats] = field(default_factory=dict)
    optional: set[str] = field(default_factory=set)

    def add(self, name: str, values: Floats, *, optional: bool = False) -> None:
        """Add one column (n_chunks,)."""
        if name in self.columns:
            raise ValueError(f"feature {name} made twice")
        self.columns[name] = values
        if optional:
            self.optional.add(name)

    def matrix(self) -> Singles:
        """(n_chunks, n_features)."""
        return np.stack(list(self.columns.values()), axis=1, dtype=np.float32)


def rolling_features(trace: Trace, expectations: Mapping[str, Expectation]) -> Table:
    """Everything that the samples tell, one row per chunk; see minute_chunks for when a row is known."""
    chunks = chunk_series(trace)
    table = Table(chunks.end_min)
    driving = add_clock(table, trace, chunks)
    for name in TEMPERATURES:
        add_windows(table, chunks, name, ("mean", "max", "min", "std", "slope"))
    add_windows(table, chunks, "state_of_charge", ("mean", "max", "min", "slope"))
    for name in LOADS:
        add_windows(table, chunks, name, ("mean", "max") if name in {"current", "power", "speed"} else ("mean",))
    add_memories(table, chunks)
    for name in TEMPERATURES[:2]:
        add_own_past(table, name, chunks.mean[:, SERIES.index(name)], driving, optional=name in OPTIONAL_SERIES)
    add_residuals(table, chunks, expectations, driving)
    return table


def add_windows(table: Table, chunks: Chunks, name: str, kinds: tuple[str, ...]) -> None:
    """Last chunk and windows of one series."""
    j = SERIES.index(name)
    mean, count, end = chunks.mean[:, j], chunks.readings[:, j], chunks.end_min
    optional = name in OPTIONAL_SERIES
    table.add(f"{name}_1m", mean, optional=optional)
    for width in SHORT_WINDOWS_MIN:
        table.add(f"{name}_mean_{width:g}m", window_mean(end, mean, count, width), optional=optional)
    for width in WINDOWS_MIN:
        average = window_mean(end, mean, count, width)
        made = {"mean": average}
        if "max" in kinds:
            made["max"] = window_extreme(end, chunks.high[:, j], width, 1.0)
        if "min" in kinds:
            made["min"] = window_extreme(end, chunks.low[:, j], width, -1.0)
        if "std" in kinds:
            square = window_mean(end, chunks.square[:, j], count, width)
            made["std"] = np.sqrt(np.maximum(square - average**2, 0.0))
        if "slope" in kinds:
            made["slope"] = window_slope(end, mean, width)
        for kind, values in made.items():
            table.add(f"{name}_{kind}_{width:g}m", values, optional=optional)


def add_clock(table: Table, trace: Trace, chunks: Chunks) -> Bools:
    """Hour of day, drives, stops and charges; returns which chunks are driven."""
    end = chunks.end_min
    longitude = held_readings(trace.signals[::EVERY, COLUMN["longitude"]])
    hour = (end / HOUR + np.nan_to_num(longitude) / 15.0) % 24.0
    table.add("hour", hour)
    speed = chunks.mean[:, SERIES.index("speed")]
    driving = np.nan_to_num(speed) > 1.0
    moved = minutes_since(end, driving)
    table.add("minutes_since_driven", moved)
    rested = np.concatenate(([True], ~(moved[:-1] < REST_MIN)))
    starts = driving & rested
    table.add("minutes_since_drive_start", minutes_since(end, starts))
    charge = chunks.mean[:, SERIES.index("state_of_charge")]
    table.add("charge_at_drive_start", value_at_start(charge, starts))
    table.add("charge_used_since_start", value_at_start(charge, starts) - charge)
    rise = window_slope(end, charge, 12.0)
    fast = np.nan_to_num(rise) > FAST_CHARGE_PERCENT_PER_HOUR
    table.add("charging_slope_12m", rise)
    table.add("minutes_since_fast_charge", minutes_since(end, fast))
    table.add("minutes_since_charge", minutes_since(end, np.nan_to_num(rise) > 4.0))
    table.add("fast_charge_share_of_a_day", window_mean(end, fast.astype(np.float64), np.ones(len(end)), DAY))
    for name in ("motor", "state_of_charge", "pack", "current", "ambient"):
        count = chunks.readings[:, SERIES.index(name)]
        table.add(f"{name}_present", (count > 0).astype(np.float64), optional=name in OPTIONAL_SERIES)
    gap = np.diff(end, prepend=end[0])
    table.add("longest_gap_60m", window_extreme(end, gap, HOUR, 1.0))
    return driving


def held_readings(values: Singles) -> Floats:
    """(n,) last reading so far; NaN before the first."""
    last = np.maximum.accumulate(np.where(~np.isnan(values), np.arange(len(values)), -1))
    return np.where(last >= 0, values[np.maximum(last, 0)], np.nan).astype(np.float64)


def add_memories(table: Table, chunks: Chunks) -> None:
    """Loads relaxed and readings averaged with several time constants; work done so far."""
    for name in RELAXED:
        series = chunks.mean[:, SERIES.index(name)]
        for minutes in RELAXED_MIN:
            relaxed = relaxation(chunks.end_min, series, minutes)
            table.add(f"{name}_relaxed_{minutes:g}m", relaxed, optional=name in OPTIONAL_SERIES)
    for name in AVERAGED:
        series = chunks.mean[:, SERIES.index(name)]
        for minutes in AVERAGED_MIN:
            average = exponential(chunks.end_min, series, minutes)
            table.add(f"{name}_average_{minutes:g}m", average, optional=name in OPTIONAL_SERIES)


def add_own_past(table: Table, name: str, values: Floats, driving: Bools, *, optional: bool) -> None:
    """A series against the same van at this time yesterday, on the days before, and over its whole past."""
    end = table.end_min
    recent = window_mean(end, values, (~np.isnan(values)).astype(np.float64), 30.0)
    yesterday = value_before(end, recent, DAY)
    today_high = window_extreme(end, values, DAY, 1.0)
    usual = running_mean(values, driving)
    settled = value_before(end, usual, DAY)
    made = {
        "over_yesterday": recent - yesterday,
        "day_high_over_day_before": today_high - value_before(end, today_high, DAY),
        "over_highest_before": recent - value_before(end, running_max(values), 180.0),
        "over_usual_drive": recent - settled,
        "day_drive_over_usual": window_mean(end, values, (driving & ~np.isnan(values)).astype(np.float64), DAY)
        - settled,
    }
    for kind, column in made.items():
        table.add(f"{name}_{kind}", column, optional=optional)


def add_residuals(table: Table, chunks: Chunks, expectations: Mapping[str, Expectation], driving: Bools) -> None:
    """How much warmer than its load explains, now, over windows, and against what is usual for this van."""
    for target, series in TARGETS.items():
        if target not in expectations:
            continue
        optional = target.endswith("_full")
        loads = load_bank(chunks, full=optional)
        temperature = chunks.mean[:, SERIES.index(series)]
        residual = temperature - expectations[target].predict(loads)
        known = (~np.isnan(residual)).astype(np.float64)
        table.add(f"{target}_residual", residual, optional=optional)
        for width in WINDOWS_MIN:
            mean = window_mean(table.end_min, residual, known, width)
            table.add(f"{target}_residual_mean_{width:g}m", mean, optional=optional)
            high = window_extreme(table.end_min, residual, width, 1.0)
            table.add(f"{target}_residual_max_{width:g}m", high, optional=optional)
        slope = window_slope(table.end_min, residual, 180.0)
        table.add(f"{target}_residual_slope_180m", slope, optional=optional)
        add_own_past(table, f"{target}_residual", residual, driving, optional=optional)


def add_hidden(table: Table, trace: VehicleTrace) -> None:
    """What only the simulator knows: true temperatures, distances to the limits, time since the fault began."""
    chunks = chunked(trace.ts_ms, trace.true_temperature.astype(np.float64))
    end = chunks.end_min
    for j, name in enumerate(TRUE_TEMPERATURES):
        mean, count = chunks.mean[:, j], chunks.readings[:, j]
        table.add(f"true_{name}", trace.true_temperature[::EVERY, j].astype(np.float64))
        for width in (10.0, 60.0, 360.0):
            table.add(f"true_{name}_mean_{width:g}m", window_mean(end, mean, count, width))
            table.add(f"true_{name}_max_{width:g}m", window_extreme(end, chunks.high[:, j], width, 1.0))
            table.add(f"true_{name}_slope_{width:g}m", window_slope(end, mean, width))
        table.add(f"true_{name}_max_1440m", window_extreme(end, chunks.high[:, j], DAY, 1.0))
        if name in LIMITS_C:
            table.add(f"true_{name}_over_limit_yesterday", value_before(end, chunks.high[:, j], DAY) - LIMITS_C[name])
    warmest = np.stack([chunks.mean[:, TRUE_TEMPERATURES.index(n)] - limit for n, limit in LIMITS_C.items()])
    table.add("true_nearest_limit", warmest.max(axis=0))
    table.add("true_nearest_limit_max_1440m", window_extreme(end, warmest.max(axis=0), DAY, 1.0))
    started_min, ended_min = trace.fault_start_ms / 60_000.0, trace.fault_end_ms / 60_000.0
    going = (trace.fault_start_ms >= 0) & (end >= started_min) & ~((trace.fault_end_ms >= 0) & (end >= ended_min))
    table.add("hours_since_fault_start", np.where(going, (end - started_min) / HOUR, np.nan))
