"""CSV and Parquet files as columns, and every cell that cannot be used with its file, row and column.

Rows are numbered as a person counts them: in CSV the header is row 1, in Parquet the first row of data is row 1.
What this module does not know: what the columns mean.
"""

import difflib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.fleet.config import TRUE_TEMPERATURES
from model.fleet.parquet import METADATA_KEY
from model.recordings import time_ms

CSV_ENDINGS = (".csv", ".csv.gz")
PARQUET_ENDINGS = (".parquet",)
SIMULATOR_COLUMNS = frozenset({"label", "valid", *(f"true_{name}" for name in TRUE_TEMPERATURES)})
BLOCK_BYTES = 4 << 20  # of CSV text in memory at a time,
BLOCK_ROWS = 65_536  # and rows of Parquet
NUMBER = r"(?i)^[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|nan|inf|infinity)$"
EARLIEST_MS = 946_684_800_000  # 2000-01-01, as the service: earlier means seconds for milliseconds, or an unset clock
LATEST_MS = 253_402_300_799_999  # the end of year 9999
SHOWN = 10  # problems in one message
LONGEST_CELL = 40  # characters of a cell that are quoted

Rows = NDArray[np.int64]
Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]
Millis = NDArray[np.int64]


class OwnDataError(ValueError):
    """Files that cannot be trained on; the message has one line for each problem."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__(list(problems))  # as the only argument, so that it survives the way between processes
        self.problems = list(problems)

    def __str__(self) -> str:
        more = [f"and {len(self.problems) - SHOWN} more"] if len(self.problems) > SHOWN else []
        return "\n".join(["the data cannot be used:", *self.problems[:SHOWN], *more])


@dataclass(slots=True)
class Findings:
    """What is wrong with one file: for each column and reason, its first row and in how many rows it is so."""

    path: Path
    offset: int  # the number a person gives to the first row of data
    _found: dict[tuple[str, str], tuple[str, int]] = field(default_factory=dict)

    def add(self, column: str, kind: str, rows: Rows, reason: Callable[[int], str]) -> None:
        """Rows (from 0) whose cell in `column` is wrong; `reason` tells why of entry i of `rows`."""
        if not len(rows):
            return
        first, count = self._found.get((column, kind), ("", 0))
        first = first or f"{self.path}, row {rows[0] + self.offset}, column {column}: {reason(0)}"
        self._found[column, kind] = first, count + len(rows)

    def add_file(self, reason: str) -> None:
        """Something wrong with the file as a whole."""
        self._found[reason, ""] = f"{self.path}: {reason}", 1

    def lines(self) -> list[str]:
        """One for each problem."""
        return [f"{text} (and {n - 1} more rows)" if n > 1 else text for text, n in self._found.values()]


@dataclass(frozen=True, slots=True)
class TableFile:
    """A CSV or Parquet file whose header has been read."""

    path: Path
    names: tuple[str, ...]
    is_csv: bool
    simulated: bool = False  # written by `emberwatch simulate`

    @property
    def offset(self) -> int:
        """The number a person gives to the first row of data."""
        return 2 if self.is_csv else 1

    def batches(
        self, columns: Sequence[str], start: int = 0, stop: int | None = None
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Rows [start, stop) of these columns, in order, with the number (from 0) of each batch's first row.

        Text comes without blanks around it, and null where nothing is left.

        Raises:
            OwnDataError: a row has too many or too few cells, or the file cannot be read to its end.
        """
        blocks = self._csv_blocks(columns) if self.is_csv else self._parquet_blocks(columns, start)
        try:
            for first, block in blocks:
                if stop is not None and first >= stop:
                    return
                skip = max(start - first, 0)
                batch = block.slice(skip, None if stop is None else stop - first - skip)
                if batch.num_rows:
                    tidy = [trimmed(column) for column in batch.columns]
                    yield first + skip, pa.RecordBatch.from_arrays(tidy, names=batch.schema.names)
        except (pa.ArrowException, OSError) as error:
            raise OwnDataError([f"{self.path}: cannot be read: {error}"]) from error

    def _csv_blocks(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """All cells as text; a blank line is a row without values, so that rows keep their numbers."""
        ragged: list[pa.csv.InvalidRow] = []

        def keep(row: pa.csv.InvalidRow) -> str:
            ragged.append(row)
            return "skip"

        reader = pa.csv.open_csv(
            self.path,
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),  # threads lose the row numbers
            parse_options=pa.csv.ParseOptions(ignore_empty_lines=False, invalid_row_handler=keep),
            convert_options=pa.csv.ConvertOptions(
                include_columns=list(columns),
                column_types=dict.fromkeys(columns, pa.string()),
                strings_can_be_null=True,
                null_values=[""],
            ),
        )
        first = 0
        for block in reader:
            if ragged:
                break
            yield first, block
            first += block.num_rows
        if ragged:
            cells = f"has {ragged[0].actual_columns} cells, the header has {ragged[0].expected_columns}"
            raise OwnDataError([f"{self.path}, row {ragged[0].number}: {cells}"])

    def _parquet_blocks(self, columns: Sequence[str], start: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """From the row group on that holds row `start`."""
        with pq.ParquetFile(self.path) as file:
            sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
            ends = np.cumsum(sizes, dtype=np.int64)
            skipped = int(np.searchsorted(ends, start, side="right"))
            first = int(ends[skipped - 1]) if skipped else 0
            for block in file.iter_batches(BLOCK_ROWS, range(skipped, len(sizes)), list(columns)):
                yield first, block
                first += block.num_rows


def is_table(path: Path) -> bool:
    """Whether the name is that of a file we read."""
    return path.name.lower().endswith((*CSV_ENDINGS, *PARQUET_ENDINGS))


def stem(path: Path) -> str:
    """The name without its ending."""
    lower = path.name.lower()
    ending = next(ending for ending in (*CSV_ENDINGS, *PARQUET_ENDINGS) if lower.endswith(ending))
    return path.name[: -len(ending)]


def open_table(path: Path) -> TableFile:
    """Read a file's header.

    Raises:
        OwnDataError: it is empty, of another kind, or names a column twice.
    """
    is_csv = path.name.lower().endswith(CSV_ENDINGS)
    try:
        if is_csv:
            options = pa.csv.ParseOptions(invalid_row_handler=lambda _: "skip")  # `batches` looks at the rows
            with pa.csv.open_csv(path, pa.csv.ReadOptions(block_size=BLOCK_BYTES), options) as reader:
                table = TableFile(path, tuple(reader.schema.names), is_csv=True)
        else:
            schema = pq.read_schema(path)
            table = TableFile(path, tuple(schema.names), False, METADATA_KEY in (schema.metadata or {}))
    except (pa.ArrowException, OSError) as error:
        reason = "the file is empty" if not path.stat().st_size else f"cannot be read: {error}"
        raise OwnDataError([f"{path}: {reason}"]) from error
    repeated = sorted({name for name in table.names if table.names.count(name) > 1})
    if repeated:
        raise OwnDataError([f"{path}: column {', '.join(repeated)} comes twice"])
    return table


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


def trimmed(cells: pa.Array) -> pa.Array:
    """Text without blanks around it, null where nothing is left; other columns as they are."""
    if not is_text(cells.type):
        return cells
    text = pc.utf8_trim_whitespace(pc.cast(cells, pa.string()))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def present(cells: pa.Array) -> Bools:
    """(n,) the cell has a value."""
    return np.array(cells.is_valid())


def iso(ts_ms: int) -> str:
    """A time as it may stand in a message."""
    return datetime.fromtimestamp(ts_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text, plain or as a dictionary of it."""
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain))
