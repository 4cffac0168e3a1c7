"""`ts` of many rows: RFC 3339 times or epoch milliseconds, as int64 epoch milliseconds."""

import re
from datetime import UTC, datetime, timedelta

import numpy as np

from service.samples import Millis
from service.wire.decode_errors import RowErrors

EARLIEST_MS = 946_684_800_000  # 2000-01-01; earlier means that the sender's clock was never set
LATEST_MS = 253_402_300_799_999  # the end of year 9999
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
RFC_3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
WITHOUT_ZONE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9:.]+")
FORM = "must be an RFC 3339 time such as 2026-09-14T08:00:05Z, or epoch milliseconds as an integer"
RANGE = "must lie between the years 2000 and 9999 (epoch milliseconds, not seconds)"
REQUIRED = "is required"


def decode_times(column: list[object], errors: RowErrors) -> Millis:
    """(n,) int64 epoch milliseconds; rows that cannot be read get an error and 0."""
    kinds = set(map(type, column))
    if kinds <= {int}:
        times = integers(column)
        if times is not None:
            return within_range(times, errors)
    if kinds == {str}:
        # A fleet reports in step, so a batch has far fewer instants than rows.
        known = {text: milliseconds(text) for text in set(column)}
        read = [known[text] for text in column]
    else:
        read = [milliseconds(value) for value in column]
    for row, value in enumerate(read):
        if isinstance(value, str):
            errors.add(row, "ts", value)
    refused = np.array([isinstance(value, str) for value in read])
    times = np.array([EARLIEST_MS if isinstance(value, str) else value for value in read], np.int64)
    return np.where(refused, 0, within_range(times, errors))


def integers(column: list[object]) -> Millis | None:
    """Integers as int64; None if one does not fit."""
    try:
        return np.array(column, np.int64)
    except OverflowError:
        return None


def within_range(times: Millis, errors: RowErrors) -> Millis:
    """The same times; those that cannot be a van's clock get an error."""
    outside = (times < EARLIEST_MS) | (times > LATEST_MS)
    if np.count_nonzero(outside):
        for row in np.flatnonzero(outside).tolist():
            errors.add(row, "ts", RANGE)
    return times


def whole(value: object) -> int | None:
    """An integer, also written as 5.0, which JSON holds for the same; None if it is none."""
    if type(value) is int:
        return value
    return int(value) if type(value) is float and value.is_integer() else None


def milliseconds(value: object) -> int | str:
    """One `ts` as epoch milliseconds, or why not."""
    if value is None:
        return REQUIRED
    number = whole(value)
    if number is not None:
        return number if EARLIEST_MS <= number <= LATEST_MS else RANGE
    if type(value) is not str:
        return FORM
    if RFC_3339.fullmatch(value) is None:
        return "has no time zone; write 2026-09-14T08:00:05Z" if WITHOUT_ZONE.fullmatch(value) else FORM
    try:
        elapsed = datetime.fromisoformat(value.upper()) - EPOCH
    except (ValueError, OverflowError):
        return FORM
    return (elapsed + MILLISECOND / 2) // MILLISECOND
