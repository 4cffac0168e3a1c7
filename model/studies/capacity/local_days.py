"""Where a vehicle's day begins: at midnight of a time zone, or of the nautical zone of its longitude.

What this module does not know: telemetry.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
from numpy.typing import NDArray

from model.training.own_files import EPOCH

DAY_MS = 86_400_000
HOUR_MS = 3_600_000
# Offsets of a zone are looked up over these years; before and after, the first and the last one hold.
FIRST_YEAR, LAST_YEAR = 2000, 2050


@dataclass(frozen=True, slots=True)
class LocalClock:
    """Local time as an offset from UTC that changes at given instants."""

    name: str
    change_ms: NDArray[np.int64]  # (n,) epoch ms, rising
    offset_ms: NDArray[np.int64]  # (n + 1,) before the first change, after it, ...

    def days(self, ts_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """(n,) numbers of the local days of instants (n,), from 1970-01-01."""
        found: NDArray[np.int64] = (
            ts_ms + self.offset_ms[np.searchsorted(self.change_ms, ts_ms, side="right")]
        ) // DAY_MS
        return found


def nautical(longitude_deg: float | None) -> LocalClock:
    """Whole hours from UTC by longitude, without summer time; UTC when the longitude is not known."""
    hours = 0 if longitude_deg is None else round(longitude_deg / 15.0)
    offset_ms = np.array([hours * HOUR_MS], np.int64)
    return LocalClock(f"UTC{hours:+d}", np.zeros(0, np.int64), offset_ms)


def civil(name: str) -> LocalClock:
    """A zone of the IANA database with its summer time.

    Raises:
        ValueError: there is no such zone on this machine.
    """
    try:
        zone = ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"--zone: there is no time zone {name!r} (an IANA name, such as Europe/Berlin)") from error

    def offset_at(ts_ms: int) -> int:
        offset = datetime.fromtimestamp(ts_ms / 1_000, UTC).astimezone(zone).utcoffset()
        return round((offset or timedelta()).total_seconds() * 1_000)

    first, last = (round(datetime(year, 1, 1, tzinfo=UTC).timestamp() * 1_000) for year in (FIRST_YEAR, LAST_YEAR))
    offsets, changes = [offset_at(first)], []
    for noon in range(first + DAY_MS, last, DAY_MS):
        if offset_at(noon) != offsets[-1]:
            low, high = noon - DAY_MS, noon  # the change lies in (low, high]
            while high - low > 1_000:
                middle = (low + high) // 2
                low, high = (low, middle) if offset_at(middle) != offsets[-1] else (middle, high)
            changes.append(high - high % 1_000)
            offsets.append(offset_at(noon))
    return LocalClock(name, np.array(changes, np.int64), np.array(offsets, np.int64))


def iso_day(day: int) -> str:
    """The date of a day's number."""
    return (EPOCH + timedelta(days=int(day))).isoformat()


def weekday(day: int) -> int:
    """0 is Monday."""
    return (int(day) + 3) % 7  # 1970-01-01 was a Thursday
