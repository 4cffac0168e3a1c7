"""Telemetry of one vehicle, batch by batch, into sums per local day: compiled, in constant memory.

Three rules decide what counts for which day:
    a value stands until the next one of its signal, for at most `hold_ms`, and the time between two samples counts for the
    day of the earlier one;
    a change of charge counts for the day in which it was seen, so that of a gap for the day after it;
    a sample that is not later than the one before it is counted as dropped and does nothing else, as in the service.

Energy is read from the state of charge, which every van sends. A rise of at least CHARGE_PERCENT while the van stood
or was not heard is a charge; every other change is use, recuperation included. What this module does not know: where
telemetry comes from, the size of the pack, forecasts.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.jit import compiled, entry_point
from model.studies.capacity.local_days import DAY_MS, LocalClock

Millis = NDArray[np.int64]

HOLD_MS = 60_000  # as in the service: a value is held for a minute
MOVING_MPS = 0.5
CHARGE_PERCENT = 1.0
MOTOR_BANDS_C = (70.0, 90.0, 110.0)
PACK_BANDS_C = (35.0, 40.0, 45.0)
BANDS_C = np.array([MOTOR_BANDS_C, PACK_BANDS_C])
SPEED, CHARGE, MOTOR, PACK, AMBIENT, LATITUDE, LONGITUDE = range(7)
SIGNALS_USED = (
    "speed", "state_of_charge", "motor_temperature", "pack_temperature", "ambient_temperature", "latitude", "longitude",
)  # fmt: skip
HELD = 5  # of them, the first ones, are held

DAY_DTYPE = np.dtype(
    [
        ("day", "<i8"),  # local, from 1970-01-01
        ("samples", "<i8"),
        ("dropped", "<i8"),
        ("covered_s", "<f8"),
        ("moving_s", "<f8"),
        ("distance_m", "<f8"),
        ("used_percent", "<f8"),
        ("charged_percent", "<f8"),
        ("charge_end", "<f8"),  # state of charge seen last, %; NaN: never on that day
        ("known_s", "<f8", (HELD,)),  # for how long each held signal was known
        ("highest", "<f8", (HELD,)),  # NaN: never measured
        ("ambient_ks", "<f8"),  # degC times seconds
        ("above_s", "<f8", (2, len(MOTOR_BANDS_C))),  # motor, pack
    ]
)
CHARGE_DTYPE = np.dtype(
    [
        ("day", "<i8"),
        ("start_ms", "<i8"),
        ("end_ms", "<i8"),
        ("percent", "<f8"),
        ("latitude", "<f8"),
        ("longitude", "<f8"),
    ]
)
COURSE_DTYPE = np.dtype(
    [
        ("last_ms", "<i8"),
        ("held", "<f8", (HELD,)),
        ("held_ms", "<i8", (HELD,)),
        ("moved", "<i8"),  # since the state of charge was seen last
        ("standing", "<i8"),  # a spell without moving is open, from
        ("from_ms", "<i8"),
        ("from_charge", "<f8"),
        ("latitude", "<f8"),
        ("longitude", "<f8"),
        ("today", DAY_DTYPE),
    ]
)
NEVER_MS = -(10**15)


@compiled
def begin_day(today: Any, day: int) -> None:
    """An empty day."""
    today["day"], today["samples"], today["dropped"] = day, 0, 0
    today["covered_s"] = today["moving_s"] = today["distance_m"] = today["ambient_ks"] = 0.0
    today["used_percent"] = today["charged_percent"] = 0.0
    today["charge_end"] = np.nan
    today["known_s"][:] = 0.0
    today["highest"][:] = np.nan
    today["above_s"][:, :] = 0.0


@compiled
def pass_time(c: Any, now: int, hold_ms: int, bands: Any) -> None:
    """What the values known at the last sample make of the time since, in place."""
    today, gap_ms = c["today"], now - c["last_ms"]
    today["covered_s"] += 1e-3 * min(gap_ms, hold_ms)
    for i in range(HELD):
        known_s = 1e-3 * min(gap_ms, max(0, c["held_ms"][i] + hold_ms - c["last_ms"]))
        if known_s == 0.0:
            continue
        value = c["held"][i]
        today["known_s"][i] += known_s
        if i == SPEED:
            today["distance_m"] += value * known_s
            if value > MOVING_MPS:
                today["moving_s"] += known_s
                c["moved"] = 1
        elif i == AMBIENT:
            today["ambient_ks"] += value * known_s
        elif i in (MOTOR, PACK):
            for band in range(bands.shape[1]):
                if value >= bands[i - MOTOR, band]:
                    today["above_s"][i - MOTOR, band] += known_s


@compiled
def end_spell(c: Any, charges: Any, n_charges: int) -> int:
    """Close the spell without moving: a charge or use; how many charges there are now."""
    if c["standing"] == 0:
        return n_charges
    c["standing"] = 0
    net = c["held"][CHARGE] - c["from_charge"]
    today = c["today"]
    if net < CHARGE_PERCENT:
        today["used_percent"] -= net
        return n_charges
    today["charged_percent"] += net
    charge = charges[n_charges]
    charge["day"], charge["percent"] = today["day"], net
    charge["start_ms"], charge["end_ms"] = c["from_ms"], c["held_ms"][CHARGE]
    charge["latitude"], charge["longitude"] = c["latitude"], c["longitude"]
    return n_charges + 1


@compiled
def take_charge(c: Any, now: int, percent: float, hold_ms: int, charges: Any, n_charges: int) -> int:
    """A reading of the state of charge, in place; how many charges there are now."""
    before_ms = c["held_ms"][CHARGE]
    if before_ms > NEVER_MS:
        unseen = now - before_ms > hold_ms
        if c["moved"] == 1 and not unseen:
            n_charges = end_spell(c, charges, n_charges)
            c["today"]["used_percent"] -= percent - c["held"][CHARGE]
        else:
            if c["moved"] == 1:  # it moved and was lost sight of: what stood before is another spell
                n_charges = end_spell(c, charges, n_charges)
            if c["standing"] == 0:
                c["standing"], c["from_ms"], c["from_charge"] = 1, before_ms, c["held"][CHARGE]
    c["moved"] = 0
    c["today"]["charge_end"] = percent
    return n_charges


@entry_point
def _advance(
    course: Any,
    ts_ms: Any,
    signals: Any,
    change_ms: Any,
    offset_ms: Any,
    hold_ms: int,
    bands: Any,
    days: Any,
    charges: Any,
) -> tuple[int, int]:
    """Row after row; how many of `days` and `charges` were finished."""
    c, n_days, n_charges = course[0], 0, 0
    for row in range(len(ts_ms)):
        now = ts_ms[row]
        if now <= c["last_ms"]:
            c["today"]["dropped"] += 1
            continue
        day = (now + offset_ms[np.searchsorted(change_ms, now, side="right")]) // DAY_MS
        if c["last_ms"] == NEVER_MS:
            begin_day(c["today"], day)
        else:
            pass_time(c, now, hold_ms, bands)
            if day != c["today"]["day"]:
                n_charges = end_spell(c, charges, n_charges)
                days[n_days] = c["today"]
                n_days += 1
                begin_day(c["today"], day)
        c["today"]["samples"] += 1
        if not math.isnan(signals[row, LATITUDE]) and not math.isnan(signals[row, LONGITUDE]):
            c["latitude"], c["longitude"] = signals[row, LATITUDE], signals[row, LONGITUDE]
        if not math.isnan(signals[row, CHARGE]):
            n_charges = take_charge(c, now, signals[row, CHARGE], hold_ms, charges, n_charges)
        for i in range(HELD):
            value = signals[row, i]
            if not math.isnan(value):
                c["held"][i], c["held_ms"][i] = value, now
                if not c["today"]["highest"][i] >= value:
                    c["today"]["highest"][i] = value
        c["last_ms"] = now
    return n_days, n_charges


@entry_point
def _finish(course: Any, charges: Any) -> int:
    """Close what is open; how many charges that gives."""
    return end_spell(course[0], charges, 0)


@dataclass(frozen=True, slots=True)
class Finished:
    """Days and charges that a batch finished, in order."""

    days: NDArray[np.void]  # (n,) DAY_DTYPE
    charges: NDArray[np.void]  # (m,) CHARGE_DTYPE


class DayCourse:
    """One vehicle's telemetry, advanced batch by batch; only the day under way is kept."""

    def __init__(self, clock: LocalClock, hold_ms: int = HOLD_MS) -> None:
        self._clock, self._hold_ms = clock, hold_ms
        self._course = np.zeros(1, COURSE_DTYPE)
        self._course["last_ms"] = self._course["held_ms"] = NEVER_MS
        self._course["latitude"] = self._course["longitude"] = np.nan

    def advance(self, ts_ms: Millis, signals: NDArray[np.floating]) -> Finished:
        """Take some samples.

        Args:
            ts_ms: (n,) epoch ms; those not later than what came before are dropped and counted.
            signals: (n, 7) in the order of SIGNALS_USED, NaN when absent.

        Raises:
            ValueError: the shapes do not belong together.
        """
        if signals.shape != (len(ts_ms), len(SIGNALS_USED)):
            raise ValueError(f"{len(ts_ms)} samples need signals ({len(ts_ms)}, 7), got {signals.shape}")
        days = np.zeros(self._most_days(ts_ms), DAY_DTYPE)
        charges = np.zeros(len(ts_ms) + 1, CHARGE_DTYPE)
        n_days, n_charges = _advance(
            self._course,
            np.ascontiguousarray(ts_ms, np.int64),
            np.ascontiguousarray(signals, np.float64),
            self._clock.change_ms,
            self._clock.offset_ms,
            self._hold_ms,
            BANDS_C,
            days,
            charges,
        )
        return Finished(days[:n_days], charges[:n_charges])

    def finish(self) -> Finished:
        """The day under way, with what is known of it; nothing may follow."""
        if self._course["last_ms"][0] == NEVER_MS:
            return Finished(np.zeros(0, DAY_DTYPE), np.zeros(0, CHARGE_DTYPE))
        charges = np.zeros(1, CHARGE_DTYPE)
        n = _finish(self._course, charges)
        return Finished(self._course["today"].copy(), charges[:n])

    def _most_days(self, ts_ms: Millis) -> int:
        """How many days these samples can finish at most."""
        if not len(ts_ms):
            return 0
        span_ms = int(ts_ms.max()) - max(int(self._course["last_ms"][0]), int(ts_ms.min()))
        return min(len(ts_ms), max(0, span_ms) // DAY_MS + 3)
