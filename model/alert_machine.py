"""The alert state machine: one for each rule of each vehicle, advanced over its samples and over silence.

    inactive -> pending (value at the threshold) -> firing (there for `for`) -> recovering (below the lower threshold)
             -> resolved (there for `keep_firing`), which is inactive again

A pending alert whose value falls again lapses: it was never an alert. A recovering one whose value rises again relapses.
A firing alert whose value stays at a second threshold for `for` escalates from warning to critical, and stays there.
Silence resolves nothing: a pending alert fires after `for` of silence, because nobody can say that the danger is over; a firing
or recovering one becomes stale, and its way to resolution begins anew when the vehicle is heard again.

The service advances it sample by sample and evaluation over whole traces, both through `advance_machines`. What it does
not know: what the value means (a risk, a surprise, a score), the store, any clock but that of the samples.
"""

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from model.jit import compiled, entry_point, entry_point_for

Longs = NDArray[np.int64]
Floats = NDArray[np.float64]

SILENCE_MS = 60_000  # a vehicle is silent after a minute without a sample, as everywhere (a value is held so long)
NOWHEN = -1


class Phase(IntEnum):
    """Where an alert stands. That it is stale is said beside it: the phase is what it goes on from."""

    INACTIVE = 0
    PENDING = 1
    FIRING = 2
    RECOVERING = 3


class Severity(IntEnum):
    """How bad; an open alert never gets milder."""

    WARNING = 0
    CRITICAL = 1


# What can happen to an alert at one instant, as bits, in the order in which it happens.
CHANGES = ("fresh", "pending", "lapsed", "firing", "relapsed", "escalated", "recovering", "resolved", "stale")
FRESH, PENDING, LAPSED, FIRING, RELAPSED, ESCALATED, RECOVERING, RESOLVED, STALE = (1 << i for i in range(len(CHANGES)))

MACHINE_DTYPE = np.dtype(
    [
        ("first_crossed_ms", "<i8"),  # when the value first reached the threshold
        ("fired_ms", "<i8"),
        ("since_ms", "<i8"),  # recovering: since when low; else since when at the critical threshold; or NOWHEN
        ("peak", "<f4"),  # highest value of the episode
        ("level", "<f4"),  # the smoothed value, where the rule smooths
        ("changes", "<u4"),  # of this episode so far: numbers them
        ("phase", "u1"),
        ("severity", "u1"),
        ("stale", "u1"),
        ("spare", "u1"),
    ]
)
LIMITS_DTYPE = np.dtype(
    [
        ("threshold", "<f8"),
        ("resolve_threshold", "<f8"),
        ("critical_threshold", "<f8"),
        ("for_ms", "<i8"),
        ("keep_firing_ms", "<i8"),
        ("stale_after_ms", "<i8"),
        ("warmup_samples", "<i8"),
        ("smoothing_ms", "<f8"),  # time constant; 0: the value as it is
        ("highest", "<f8"),  # a single value counts as no more than this
    ]
)


@dataclass(frozen=True, slots=True)
class MachineLimits:
    """When an alert of one rule raises, escalates, resolves and goes stale.

    Raises:
        ValueError: the thresholds are out of order, or a time is negative.
    """

    threshold: float
    resolve_threshold: float  # at most threshold
    critical_threshold: float = math.inf  # at least threshold
    for_ms: int = 60_000
    keep_firing_ms: int = 300_000
    stale_after_ms: int = 300_000
    warmup_samples: int = 60
    smoothing_ms: float = 0.0
    highest: float = math.inf

    def __post_init__(self) -> None:
        if not self.resolve_threshold <= self.threshold <= self.critical_threshold:
            raise ValueError(
                f"thresholds must rise from resolve to alert to critical, got {self.resolve_threshold}, "
                f"{self.threshold}, {self.critical_threshold}"
            )
        if min(self.for_ms, self.keep_firing_ms, self.stale_after_ms, self.warmup_samples, self.smoothing_ms) < 0:
            raise ValueError(f"times and warm-up must not be negative, got {self}")

    def packed(self) -> NDArray[np.void]:
        """As the compiled code reads it, (1,) LIMITS_DTYPE."""
        found = np.zeros(1, LIMITS_DTYPE)
        for name in LIMITS_DTYPE.names or ():
            found[name] = getattr(self, name)
        return found


def new_machines(shape: int | tuple[int, ...]) -> NDArray[np.void]:
    """Machines that have seen nothing, MACHINE_DTYPE."""
    machines = np.zeros(shape, MACHINE_DTYPE)
    machines["since_ms"] = NOWHEN
    return machines


def _array(dtype: Any, ndim: int, layout: Any = "C", *, readonly: bool = False) -> Any:
    return numba.types.Array(numba.from_dtype(np.dtype(dtype)), ndim, layout, readonly=readonly)


@compiled
def fire(m: Any, now: int, for_ms: int) -> int:
    """Pending becomes firing, in place; the change."""
    lasted = m["since_ms"] >= 0 and now - m["since_ms"] >= for_ms
    m["phase"], m["fired_ms"] = Phase.FIRING, now
    m["severity"] = Severity.CRITICAL if lasted else Severity.WARNING
    return FIRING


@compiled
def pass_silence(m: Any, last_ms: int, silence_ms: int, limits: Any) -> int:
    """What so much silence after the sample at `last_ms` changes, in place: pending fires. The change, or 0."""
    patience = max(limits["for_ms"], SILENCE_MS)
    if m["phase"] == Phase.PENDING and silence_ms >= patience:
        return fire(m, last_ms + patience, limits["for_ms"])
    return 0


@compiled
def take_low(m: Any, now: int, limits: Any) -> int:
    """What a value below the lower threshold does to a firing or recovering alert, in place: the changes as bits."""
    change = 0
    if m["phase"] == Phase.FIRING:
        m["phase"], m["since_ms"] = Phase.RECOVERING, now
        change = RECOVERING
    if now - m["since_ms"] >= limits["keep_firing_ms"]:
        m["phase"], m["since_ms"] = Phase.INACTIVE, NOWHEN
        change |= RESOLVED
    return change


@compiled
def take_high(m: Any, now: int, value: float, limits: Any) -> int:
    """What a value that keeps an alert up does to it, in place: the changes as bits."""
    change = 0
    if m["phase"] == Phase.RECOVERING:
        m["phase"], m["since_ms"] = Phase.FIRING, NOWHEN
        change = RELAPSED
    if value < limits["critical_threshold"]:
        m["since_ms"] = NOWHEN
    elif m["since_ms"] < 0:
        m["since_ms"] = now
    if m["phase"] == Phase.PENDING:
        if now - m["first_crossed_ms"] >= limits["for_ms"]:
            change |= fire(m, now, limits["for_ms"])
    elif m["severity"] == Severity.WARNING and m["since_ms"] >= 0 and now - m["since_ms"] >= limits["for_ms"]:
        m["severity"] = Severity.CRITICAL
        change |= ESCALATED
    return change


@compiled
def take_value(m: Any, now: int, value: float, limits: Any) -> int:
    """What a value changes, in place: the changes as bits."""
    change = 0
    if m["phase"] == Phase.INACTIVE:
        if value < limits["threshold"]:
            return 0
        m["phase"], m["first_crossed_ms"], m["fired_ms"], m["since_ms"] = Phase.PENDING, now, NOWHEN, NOWHEN
        m["peak"], m["severity"], m["changes"] = value, Severity.WARNING, 0
        change = PENDING
    m["peak"] = max(m["peak"], value)
    if m["phase"] == Phase.PENDING and value < limits["threshold"]:
        m["phase"] = Phase.INACTIVE
        return LAPSED
    if m["phase"] != Phase.PENDING and value < limits["resolve_threshold"]:
        return take_low(m, now, limits)
    return change | take_high(m, now, value, limits)


@compiled
def smoothed(level: float, gap_ms: float, value: float, smoothing_ms: float, highest: float) -> float:
    """The level after a value that came `gap_ms` after the one before: exponential in true time, the value bounded."""
    return level + (1.0 - math.exp(-gap_ms / smoothing_ms)) * (min(value, highest) - level)


@entry_point
def levels(gap_ms: Longs, values: Floats, smoothing_ms: float, highest: float) -> Floats:
    """(n,) levels of a machine over a course of values (n,), of which those that are NaN change nothing."""
    out, level = np.empty(len(values)), 0.0
    for i in range(len(values)):
        if not math.isnan(values[i]):
            level = smoothed(level, gap_ms[i], values[i], smoothing_ms, highest)
        out[i] = level
    return out


@compiled
def take_sample(m: Any, now: int, gap_ms: int, value: float, warm: bool, limits: Any) -> int:
    """What a sample at `now`, `gap_ms` after the one before, changes, in place: the changes as bits."""
    change = 0
    if m["phase"] != Phase.INACTIVE:
        change = pass_silence(m, now - gap_ms, gap_ms, limits)
        if m["phase"] == Phase.RECOVERING and (m["stale"] or gap_ms >= limits["stale_after_ms"]):
            m["since_ms"] = now  # silence was no recovery
        if m["stale"]:
            m["stale"] = 0
            change |= FRESH
    if math.isnan(value):
        return change
    if limits["smoothing_ms"] > 0.0:
        m["level"] = value = smoothed(m["level"], gap_ms, value, limits["smoothing_ms"], limits["highest"])
    return change | take_value(m, now, value, limits) if warm else change


@compiled
def count_bits(bits: int) -> int:
    """How many changes."""
    n = 0
    while bits:
        n += bits & 1
        bits >>= 1
    return n


def _compiled(function: Any) -> Any:
    """Compile for the types that `advance_machines` passes, when this module is imported."""
    return entry_point_for(
        function,
        _array(MACHINE_DTYPE, 2, "A"),
        _array(np.int64, 1, "A", readonly=True),
        _array(np.int64, 1, readonly=True),
        _array(np.int64, 1, readonly=True),
        _array(np.int64, 1, readonly=True),
        _array(np.float64, 2, readonly=True),
        _array(LIMITS_DTYPE, 1, readonly=True),
        _array(np.uint8, 2),
        _array(np.int64, 1),
        _array(np.int64, 1),
        _array(np.int64, 1),
        _array(MACHINE_DTYPE, 1),
    )


@_compiled
def _advance(
    machines: Any,
    samples: Any,
    lengths: Any,
    ts_ms: Any,
    gap_ms: Any,
    values: Any,
    limits: Any,
    phase: Any,
    changed_row: Any,
    changed_rule: Any,
    changes: Any,
    after: Any,
) -> int:
    """Row after row, rule after rule; how many (row, rule) changed, which fill the last four."""
    row, n = 0, 0
    for vehicle in range(len(lengths)):
        for i in range(lengths[vehicle]):
            for rule in range(len(limits)):
                m, limit = machines[vehicle, rule], limits[rule]
                warm = samples[vehicle] + i >= limit["warmup_samples"]
                change = take_sample(m, ts_ms[row], gap_ms[row], values[row, rule], warm, limit)
                phase[row, rule] = m["phase"]
                if change:
                    m["changes"] += count_bits(change)
                    changed_row[n], changed_rule[n], changes[n] = row, rule, change
                    after[n] = m
                    n += 1
            row += 1
    return n


def _compiled_for_silence(function: Any) -> Any:
    """Compile for the types that `pass_time` passes, when this module is imported."""
    return entry_point_for(
        function,
        _array(MACHINE_DTYPE, 2, "A"),
        _array(np.int64, 1, readonly=True),
        _array(np.int64, 1, readonly=True),
        _array(LIMITS_DTYPE, 1, readonly=True),
        _array(np.int64, 2),
    )


@_compiled_for_silence
def _pass_time(machines: Any, last_ms: Any, silence_ms: Any, limits: Any, changes: Any) -> None:
    """Vehicle after vehicle, rule after rule."""
    for vehicle in range(len(last_ms)):
        for rule in range(len(limits)):
            m, limit, silence = machines[vehicle, rule], limits[rule], silence_ms[vehicle]
            change = pass_silence(m, last_ms[vehicle], silence, limit)
            if m["phase"] >= Phase.FIRING and m["stale"] == 0 and silence >= limit["stale_after_ms"]:
                m["stale"] = 1
                change |= STALE
            m["changes"] += count_bits(change)
            changes[vehicle, rule] = change


def pass_time(machines: NDArray[np.void], last_ms: Longs, silence_ms: Longs, limits: NDArray[np.void]) -> Longs:
    """What silence alone changes, in place; (vehicles, rules) changes as bits.

    Args:
        machines: (vehicles, rules) MACHINE_DTYPE.
        last_ms: (vehicles,) of their last samples.
        silence_ms: (vehicles,) since those came.
        limits: (rules,) LIMITS_DTYPE.

    Raises:
        ValueError: the shapes do not belong together.
    """
    if machines.shape != (len(last_ms), len(limits)) or silence_ms.shape != last_ms.shape:
        raise ValueError(f"{last_ms.shape} and {silence_ms.shape} do not fit {machines.shape}")
    changes = np.empty(machines.shape, np.int64)
    _pass_time(machines, last_ms, silence_ms, limits, changes)
    return changes


@dataclass(frozen=True, slots=True)
class MachineCourse:
    """What became of the machines of a batch.

    Attributes:
        phase: (rows, rules) uint8 after each row, a Phase.
        row, rule: (n,) of what changed, in order.
        changes: (n,) bits.
        after: (n,) MACHINE_DTYPE, the machine after that row.
    """

    phase: NDArray[np.uint8]
    row: Longs
    rule: Longs
    changes: Longs
    after: NDArray[np.void]


def advance_machines(
    machines: NDArray[np.void],
    samples: Longs,
    lengths: Longs,
    ts_ms: Longs,
    gap_ms: Longs,
    values: Floats,
    limits: NDArray[np.void],
) -> MachineCourse:
    """Advance the machines of a batch over each vehicle's samples, in place.

    Args:
        machines: (vehicles, rules) MACHINE_DTYPE.
        samples: (vehicles,) int64 that the model had seen before.
        lengths: (vehicles,) samples of each.
        ts_ms: (rows,) vehicle after vehicle, rising within one.
        gap_ms: (rows,) since the vehicle's sample before; anything below a minute for its first.
        values: (rows, rules) float64; NaN: not known, which changes nothing.
        limits: (rules,) LIMITS_DTYPE.

    Raises:
        ValueError: the shapes do not belong together.
    """
    rows, rules = len(ts_ms), len(limits)
    fits = machines.shape == (len(lengths), rules) and samples.shape == lengths.shape and lengths.sum() == rows
    if not fits or gap_ms.shape != (rows,) or values.shape != (rows, rules):
        raise ValueError(f"{rows} rows of {len(lengths)} vehicles do not fit {machines.shape}, {values.shape}")
    phase = np.empty((rows, rules), np.uint8)
    row, rule, changes = (np.empty(rows * rules, np.int64) for _ in range(3))
    after = np.empty(rows * rules, MACHINE_DTYPE)
    n = _advance(machines, samples, lengths, ts_ms, gap_ms, values, limits, phase, row, rule, changes, after)
    return MachineCourse(phase, row[:n], rule[:n], changes[:n], after[:n])


def names_of(changes: int) -> list[str]:
    """The changes in these bits, in the order in which they happened."""
    return [name for i, name in enumerate(CHANGES) if changes & 1 << i]
