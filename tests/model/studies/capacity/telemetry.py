"""Made-up telemetry with everything that goes wrong on the way, and its days by counting every second."""

from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from model.studies.capacity.day_sums import BANDS_C, CHARGE_PERCENT, HELD, HOLD_MS, MOVING_MPS, SIGNALS_USED

Floats = NDArray[np.float64]
Millis = NDArray[np.int64]

SPEED, CHARGE, MOTOR, PACK, AMBIENT = range(5)
START_MS = round(datetime(2026, 10, 24, 20, tzinfo=UTC).timestamp() * 1_000)  # in Berlin the next day has 25 hours


def telemetry(rng: np.random.Generator, hours: float = 60.0) -> tuple[Millis, Floats]:
    """Samples in whole seconds: drives, stands and charges, with gaps, absent values, repeated and late rows."""
    ts_ms, rows = [], []
    now, charge, motor, pack = START_MS, 70.0, 40.0, 30.0
    while now < START_MS + hours * 3_600_000:
        mode, until = rng.integers(3), now + 1_000 * int(rng.integers(600, 9_000))
        while now < until:
            speed = float(rng.uniform(0.6, 25.0)) if mode == 0 else float(rng.choice([0.0, 0.3]))
            charge = float(
                np.clip(charge + {0: -0.03, 1: -0.001, 2: 0.05}[int(mode)] * rng.uniform(0.0, 2.0), 5.0, 100.0)
            )
            motor = float(np.clip(motor + rng.normal(1.0 if mode == 0 else -0.5, 2.0), 10.0, 130.0))
            pack = float(np.clip(pack + rng.normal(0.0, 0.7), 5.0, 55.0))
            ambient, latitude = rng.uniform(5.0, 30.0), 52.5 + 0.01 * mode
            row = np.array([speed, charge, motor, pack, ambient, latitude, 13.4])
            row[:5][rng.random(5) < 0.15] = np.nan
            if rng.random() < 0.1:
                row[5:] = np.nan
            ts_ms.append(now)
            rows.append(row)
            now += 1_000 * int(
                rng.choice([5, 20, 30, 59, 60, 61, 300, 5_000], p=[0.3, 0.2, 0.2, 0.1, 0.1, 0.05, 0.04, 0.01])
            )
    for place in sorted(rng.integers(1, len(ts_ms), 40).tolist(), reverse=True):  # repeated and late ones
        late = int(rng.integers(max(0, place - 5), place))
        ts_ms.insert(place, ts_ms[late])
        rows.insert(place, rng.uniform(0.0, 50.0, len(SIGNALS_USED)))
    return np.array(ts_ms, np.int64), np.array(rows)


@dataclass
class Day:
    """What a day comes to."""

    samples: int = 0
    dropped: int = 0
    covered_s: float = 0.0
    moving_s: float = 0.0
    distance_m: float = 0.0
    ambient_ks: float = 0.0
    used_percent: float = 0.0
    charged_percent: float = 0.0
    known_s: list[float] = field(default_factory=lambda: [0.0] * HELD)
    above_s: Floats = field(default_factory=lambda: np.zeros(BANDS_C.shape))
    highest: list[float] = field(default_factory=lambda: [-np.inf] * HELD)


def local_date(ts_ms: int, zone: ZoneInfo) -> date:
    """The date on a clock on the wall."""
    return datetime.fromtimestamp(ts_ms / 1_000, zone).date()


def counted_days(ts_ms: Millis, signals: Floats, zone: ZoneInfo) -> dict[date, Day]:
    """Every second of the samples that are taken, added up for the day of the last sample before it."""
    days: dict[date, Day] = {}
    taken: list[int] = []
    last = -1
    for row, ts in enumerate(ts_ms.tolist()):
        if ts > last:
            taken.append(row)
            last = ts
        else:
            days[local_date(last, zone)].dropped += 1
            continue
        day = days.setdefault(local_date(ts, zone), Day())
        day.samples += 1
        for i in range(HELD):
            if not np.isnan(signals[row, i]):
                day.highest[i] = max(day.highest[i], signals[row, i])
    times, values = ts_ms[taken], signals[taken]
    dates = [local_date(ts, zone) for ts in times.tolist()]
    seconds = np.arange(times[0], times[-1], 1_000)
    sample = np.searchsorted(times, seconds, side="right") - 1
    heard = seconds - times[sample] < HOLD_MS
    standing: dict[int, Floats] = {i: stands(times, values[:, i], seconds) for i in range(HELD)}
    for when in dict.fromkeys(dates):
        day, today = days[when], np.array([dates[k] == when for k in range(len(dates))])[sample]
        day.covered_s = float((heard & today).sum())
        for i in range(HELD):
            day.known_s[i] = float((~np.isnan(standing[i]) & today).sum())
        day.distance_m = float(np.nansum(standing[SPEED][today]))
        day.moving_s = float((standing[SPEED][today] > MOVING_MPS).sum())
        day.ambient_ks = float(np.nansum(standing[AMBIENT][today]))
        for row, i in enumerate((MOTOR, PACK)):
            day.above_s[row] = [(standing[i][today] >= band).sum() for band in BANDS_C[row]]
    count_energy(times, values, dates, days, seconds[standing[SPEED] > MOVING_MPS])
    return days


def stands(times: Millis, values: Floats, seconds: Millis) -> Floats:
    """(n_seconds,) the value that stands in each second, NaN where none does."""
    known = ~np.isnan(values)
    at, of = times[known], values[known]
    place = np.searchsorted(at, seconds, side="right") - 1
    fresh = (place >= 0) & (seconds - at[place] < HOLD_MS)
    return np.where(fresh, of[place], np.nan)


def count_energy(times: Millis, values: Floats, dates: list[date], days: dict[date, Day], moving: Millis) -> None:
    """From reading to reading of the charge: moved in sight is use, everything else is gathered day by day and netted."""
    readings = [
        (int(times[k]), float(values[k, CHARGE]), dates[k])
        for k in range(len(times))
        if values[k, CHARGE] == values[k, CHARGE]
    ]
    spells: list[tuple[date, float]] = []  # without moving: the day, and by how much the charge rose
    goes_on = False
    for (before_ms, before, _), (ts, percent, when) in pairwise(readings):
        moved = bool(((moving >= before_ms) & (moving < ts)).any())
        if moved and ts - before_ms <= HOLD_MS:
            days[when].used_percent -= percent - before
            goes_on = False
        elif goes_on and not moved and spells[-1][0] == when:
            spells[-1] = when, spells[-1][1] + percent - before
        else:
            spells.append((when, percent - before))
            goes_on = True
    for when, rise in spells:
        if rise >= CHARGE_PERCENT:
            days[when].charged_percent += rise
        else:
            days[when].used_percent -= rise
