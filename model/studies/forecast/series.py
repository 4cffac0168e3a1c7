"""A regular multivariate series from CSV or Parquet, on the grid of its own step; what cannot be used is refused by row and column.

Minute bars are known by their columns. A folder's files are unbroken series of their own, in the order of their names.
What this module does not know: what is forecast, and how.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from model.studies.forecast import bars
from model.studies.forecast.scales import LEAST, outside
from model.training.own_files import nearest, numbers, present, quoted
from model.training.table_file import Findings, OwnDataError, TableFile, is_table, is_text, open_table

Floats = NDArray[np.float64]

TIMES = ("timestamp", "datetime", "date", "time", "ts", "time_s", "open_time", "date/time", "epoch time")
MILLIS_FROM = 1e11  # a number so large counts milliseconds: in seconds it would be the year 5138
LONGEST_GAP = 60  # steps that may be missing within a segment


@dataclass(frozen=True, slots=True)
class Segment:
    """An unbroken stretch on the grid."""

    source: str  # file
    values: Floats  # (length, n_features); NaN: not measured


@dataclass(frozen=True, slots=True)
class Series:
    """What was read, in order of time."""

    names: tuple[str, ...]
    kinds: Mapping[str, str]  # transforms by name
    step_s: float
    segments: tuple[Segment, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """Files, in order."""
        return tuple(dict.fromkeys(segment.source for segment in self.segments))


@dataclass(frozen=True, slots=True)
class Layout:
    """Which columns are read, and as what."""

    time: str
    names: tuple[str, ...]
    kinds: Mapping[str, str]
    are_bars: bool


def read_series(
    path: Path,
    columns: Sequence[str] = (),
    time: str | None = None,
    kinds: Mapping[str, str] | None = None,
    step_s: float | None = None,
) -> Series:
    """Read a file, or every CSV and Parquet file of a folder.

    Args:
        path: file or folder.
        columns: features; by default a bar's five, or every column but the time.
        time: its column; by default the first that is named like one.
        kinds: transforms (log, log1p) by column; by default those of bars.
        step_s: seconds between rows; by default the median.

    Raises:
        OwnDataError: nothing to read, or rows that cannot be used, each with its file, row and column.
    """
    paths = sorted(file for file in path.iterdir() if is_table(file)) if path.is_dir() else [path]
    if not paths or not paths[0].is_file():
        raise OwnDataError([f"{path}: there is no CSV or Parquet file"])
    layout = _layout(open_table(paths[0]), columns, time, kinds)
    problems: list[str] = []
    read: list[tuple[Path, Floats, Floats]] = []
    for file in paths:
        table = open_table(file)
        findings = Findings(file, table.offset)
        instants, values = _rows(table, layout, findings)
        problems += findings.lines()
        read.append((file, instants, values))
    if problems:
        raise OwnDataError(problems)
    gaps = np.concatenate([np.diff(instants) for _, instants, _ in read])
    if not len(gaps):
        raise OwnDataError([f"{path}: one row is no series"])
    step = step_s or float(np.median(gaps))
    segments = []
    for file, instants, values in read:
        findings = Findings(file, open_table(file).offset)
        segments += _segments(file, instants, values, step, layout, findings)
        problems += findings.lines()
    if problems:
        raise OwnDataError(problems)
    return Series(layout.names, layout.kinds, step, tuple(segments))


def _layout(table: TableFile, columns: Sequence[str], time: str | None, kinds: Mapping[str, str] | None) -> Layout:
    by_lower = {name.lower(): name for name in table.names}
    time = time or next((by_lower[name] for name in TIMES if name in by_lower), None)
    if time is None or time not in table.names:
        what = "no column is named like a time; name it with --time" if time is None else f"there is no column {time}"
        raise OwnDataError([f"{table.path}: {what}"])
    standard = tuple(by_lower[name] for name in bars.COLUMNS if name in by_lower)
    are_bars = len(standard) == len(bars.COLUMNS) and (not columns or tuple(columns) == standard)
    names = tuple(columns) or (standard if are_bars else tuple(name for name in table.names if name != time))
    if kinds is None:
        kinds = {name: bars.KINDS[name.lower()] for name in names} if are_bars else {}
    wanted = [*names, *kinds]
    unknown = [
        f"{table.path}: there is no column {name}{nearest(name, table.names)}"
        for name in wanted
        if name not in table.names
    ]
    if unknown:
        raise OwnDataError(list(dict.fromkeys(unknown)))
    return Layout(time, names, kinds, are_bars)


def _rows(table: TableFile, layout: Layout, findings: Findings) -> tuple[Floats, Floats]:
    """Seconds (n,), rising, and values (n, n_features) of one file."""
    missing = [name for name in (layout.time, *layout.names) if name not in table.names]
    if missing:
        findings.add_file(f"there is no column {', '.join(missing)}")
        return np.empty(0), np.empty((0, len(layout.names)))
    seconds, values = [], []
    for first, batch in table.batches((layout.time, *layout.names)):
        seconds.append(_instants(batch.column(layout.time), layout.time, first, findings))
        cells = [numbers(batch.column(name), name, first, findings) for name in layout.names]
        values.append(np.column_stack(cells))
    if not seconds:
        findings.add_file("there are no rows")
        return np.empty(0), np.empty((0, len(layout.names)))
    instants, rows = np.concatenate(seconds), np.concatenate(values)
    if instants[0] >= MILLIS_FROM:
        instants = instants / 1000.0
    back = 1 + np.flatnonzero(np.diff(instants) <= 0)
    findings.add(layout.time, "order", back, lambda _: "is not later than the row before; sort the rows by time")
    _check_values(rows, layout, findings)
    return instants, rows


def _check_values(rows: Floats, layout: Layout, findings: Findings) -> None:
    for i, name in enumerate(layout.names):
        kind = layout.kinds.get(name, "none")
        wrong = np.flatnonzero(outside(rows[:, i], kind))
        findings.add(
            name, "range", wrong,
            lambda k, wrong=wrong, i=i, kind=kind:  # type: ignore[misc]
                f"{rows[wrong[k], i]:g} has no {kind}: it must be {LEAST[kind]}",
        )  # fmt: skip
    if layout.are_bars:
        bars.check_bars(rows, layout.names, findings)


def _instants(cells: pa.Array, column: str, first: int, findings: Findings) -> Floats:
    """(n,) seconds, or milliseconds where the cells are such numbers; a time without a zone is taken as UTC."""
    empty = np.flatnonzero(~present(cells))
    findings.add(column, "empty", empty + first, lambda _: "there is no time")
    if pa.types.is_timestamp(cells.type):
        micros = pc.fill_null(pc.cast(pc.cast(cells, pa.timestamp("us", cells.type.tz), safe=False), pa.int64()), 0)
        return np.asarray(micros) / 1e6
    if not is_text(cells.type):
        return numbers(cells, column, first, findings)
    if counts(cells):
        return numbers(cells, column, first, findings)
    out, wrong = np.full(len(cells), np.nan), []
    for row, cell in enumerate(cells.to_pylist()):
        try:
            if cell is not None:
                moment = datetime.fromisoformat(cell)
                out[row] = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        except ValueError:
            wrong.append(row)
    findings.add(
        column, "time", np.array(wrong, np.int64) + first,
        lambda i: f"{quoted(cells[wrong[i]])} is not an ISO 8601 time",
    )  # fmt: skip
    return out


def counts(cells: pa.Array) -> bool:
    """Whether a time is a number: the first one says so."""
    first = next((cell for cell in cells.to_pylist() if cell is not None), None)
    try:
        return first is None or not math.isnan(float(first))
    except ValueError:
        return False


def _segments(
    file: Path, instants: Floats, values: Floats, step: float, layout: Layout, findings: Findings
) -> list[Segment]:
    """The rows on the grid; each goes on from the row before, so that a clock's drift does not add up."""
    elapsed = np.diff(instants) / step
    close = np.flatnonzero(elapsed < 0.5)
    findings.add(
        layout.time, "step", close + 1,
        lambda i: f"is {elapsed[close[i]] * step:g} s after the row before, the series has one row each {step:g} s",
    )  # fmt: skip
    jumps = np.maximum(1, np.rint(elapsed)).astype(np.int64)
    starts = [0, *(1 + np.flatnonzero(jumps > LONGEST_GAP)), len(values)]
    segments = []
    for a, b in pairwise(starts):
        places = np.concatenate(([0], np.cumsum(jumps[a : b - 1])))
        grid = np.full((places[-1] + 1, values.shape[1]), np.nan)
        grid[places] = values[a:b]
        segments.append(Segment(file.name, grid))
    return segments
