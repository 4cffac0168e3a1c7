"""Cells as numbers and times, and every one that cannot be used with its file, row and column.

What this module does not know: what the columns mean.
"""

import difflib
from collections.abc import Sequence
from datetime import UTC, date, datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from model.fleet.config import TRUE_TEMPERATURES
from model.recordings import time_ms
from model.training.table_file import Findings, TableFile, is_text

SIMULATOR_COLUMNS = frozenset({"label", "valid", *(f"true_{name}" for name in TRUE_TEMPERATURES)})
NUMBER = r"(?i)^[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|inf|infinity)$"
EARLIEST_MS = 946_684_800_000  # 2000-01-01, as the service: earlier means seconds for milliseconds, or an unset clock
LATEST_MS = 253_402_300_799_999  # the end of year 9999
EPOCH = date(1970, 1, 1)
LONGEST_CELL = 40  # characters of a cell that are quoted

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Millis = NDArray[np.int64]


def check_names(table: TableFile, findings: Findings, required: Sequence[str], optional: Sequence[str]) -> list[str]:
    """The file's columns that are known, in its order; others are findings unless the simulator wrote them."""
    known = [*required, *optional]
    ignored = SIMULATOR_COLUMNS.difference(known) if table.simulated else frozenset()
    for name in table.names:
        if name not in known and name not in ignored:
            findings.add_file(f"column {quoted(name)} is unknown{nearest(name, known)}")
    for name in required:
        if name not in table.names:
            findings.add_file(f"there is no column {name}")
    return [name for name in table.names if name in known]


def nearest(name: str, known: Sequence[str]) -> str:
    """`; did you mean ...?`, or what there is."""
    by_lower = {other.lower(): other for other in known}
    close = difflib.get_close_matches(name.strip().lower(), by_lower, 1, cutoff=0.6)
    return f"; did you mean {by_lower[close[0]]}?" if close else f"; known are {', '.join(known[:20])}"


def quoted(cell: object) -> str:
    """A cell as it may stand in a message."""
    text = str(cell)
    return repr(text if len(text) <= LONGEST_CELL else text[:LONGEST_CELL] + "...")


def numbers(cells: pa.Array, column: str, first: int, findings: Findings) -> Floats:
    """(n,) values, NaN where the cell is empty or a finding."""
    if is_text(cells.type):
        return text_numbers(cells, column, first, findings)
    if not (pa.types.is_integer(cells.type) or pa.types.is_floating(cells.type) or pa.types.is_decimal(cells.type)):
        if cells.null_count < len(cells):  # a column without any value may have any type
            findings.add_file(f"column {column} holds {cells.type}, not numbers")
        return np.full(len(cells), np.nan)
    values: Floats = np.asarray(pc.cast(cells, pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    wild = np.flatnonzero(~np.isfinite(values) & present(cells))
    findings.add(column, "finite", wild + first, lambda i: f"{values[wild[i]]} is not finite; leave absent values null")
    return np.where(np.isfinite(values), values, np.nan)


def text_numbers(cells: pa.Array, column: str, first: int, findings: Findings) -> Floats:
    """`numbers` of text."""
    strange = np.zeros(len(cells), np.bool_)
    try:
        values = np.asarray(pc.cast(cells, pa.float64()).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        readable = pc.match_substring_regex(cells, NUMBER)
        strange = present(cells) & ~np.asarray(pc.fill_null(readable, fill_value=False))
        only = pc.if_else(readable, cells, pa.scalar(None, pa.string()))
        values = np.asarray(pc.cast(only, pa.float64()).to_numpy(zero_copy_only=False))
    wrong = np.flatnonzero(strange)
    findings.add(column, "number", wrong + first, lambda i: f"{quoted(cells[int(wrong[i])])} is not a number")
    wild = np.flatnonzero(present(cells) & ~strange & ~np.isfinite(values))
    findings.add(
        column,
        "finite",
        wild + first,
        lambda i: f"{quoted(cells[int(wild[i])])} is not finite; leave absent values empty",
    )
    return np.where(np.isfinite(values), values, np.nan)


def times(cells: pa.Array, column: str, first: int, findings: Findings) -> tuple[Millis, Bools]:
    """(n,) epoch milliseconds and where the cell is a time; other cells are empty or findings."""
    if pa.types.is_timestamp(cells.type):
        if cells.type.tz is None:
            findings.add_file(f"column {column} has no time zone; store it as a timestamp in UTC")
            return np.zeros(len(cells), np.int64), np.zeros(len(cells), np.bool_)
        millis = pc.cast(pc.cast(cells, pa.timestamp("ms", cells.type.tz), safe=False), pa.int64())
    elif pa.types.is_integer(cells.type):
        millis = pc.cast(cells, pa.int64(), safe=False)
    elif is_text(cells.type):
        millis = text_times(cells, column, first, findings)
    else:
        if cells.null_count < len(cells):
            findings.add_file(
                f"column {column} holds {cells.type}, not ISO 8601 text, timestamps with a zone or integer milliseconds"
            )
        millis = pa.nulls(len(cells), pa.int64())
    known = present(millis)
    ts_ms: Millis = np.asarray(pc.fill_null(millis, 0))
    outside = np.flatnonzero(known & ((ts_ms < EARLIEST_MS) | (ts_ms > LATEST_MS)))
    findings.add(
        column, "years", outside + first,
        lambda i: f"{cells[int(outside[i])].as_py()} is outside the years 2000 to 9999 (milliseconds, not seconds?)",
    )  # fmt: skip
    known[outside] = False
    return ts_ms, known


def text_times(text: pa.Array, column: str, first: int, findings: Findings) -> pa.Array:
    """(n,) int64 milliseconds, null where the cell is empty or a finding."""
    try:
        return pc.cast(text, pa.int64())
    except pa.ArrowInvalid:
        pass  # not all are milliseconds
    try:
        nanos = pc.cast(pc.cast(text, pa.timestamp("ns", "UTC")), pa.int64())
        return pc.divide(pc.add(nanos, 500_000), 1_000_000)
    except pa.ArrowInvalid:
        pass  # mixed, unusual or wrong: one by one
    out: list[int | None] = []
    wrong: list[int] = []
    reasons: list[str] = []
    for row, cell in enumerate(text.to_pylist()):
        try:
            out.append(None if cell is None else time_ms(cell))
        except (ValueError, OverflowError) as error:
            has_no_zone = "zone" in str(error)
            what = "has no time zone; write 2026-09-14T08:00:05Z" if has_no_zone else "is not an ISO 8601 time"
            reasons.append(f"{quoted(cell)} {what}")
            wrong.append(row)
            out.append(None)
    rows = np.array(wrong, np.int64)
    findings.add(column, "time", rows + first, lambda i: reasons[i])
    return pa.array(out, pa.int64())


def dates(cells: pa.Array, column: str, first: int, findings: Findings) -> NDArray[np.int64]:
    """(n,) days since 1970-01-01 from dates or ISO 8601 text; 0 where the cell is a finding."""
    empty = np.flatnonzero(~present(cells))
    findings.add(column, "empty", empty + first, lambda _: "is empty")
    try:
        return np.asarray(pc.fill_null(pc.cast(pc.cast(cells, pa.date32()), pa.int32()), 0), np.int64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        pass  # some are no dates: one by one
    out, wrong = np.zeros(len(cells), np.int64), []
    for row, cell in enumerate(cells.to_pylist()):
        try:
            out[row] = 0 if cell is None else (date.fromisoformat(str(cell)) - EPOCH).days
        except ValueError:
            wrong.append(row)
    rows = np.array(wrong, np.int64)
    findings.add(column, "date", rows + first, lambda i: f"{quoted(cells[wrong[i]])} is not a date such as 2013-04-10")
    return out


def present(cells: pa.Array) -> Bools:
    """(n,) the cell has a value."""
    return np.array(cells.is_valid())


def iso(ts_ms: int) -> str:
    """A time as it may stand in a message."""
    return datetime.fromtimestamp(ts_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
