"""CSV and Parquet files, also CSV in zip archives, block by block as columns; what is wrong is told with its file and row.

Rows are numbered as a person counts them: in CSV the header is row 1, in Parquet the first row of data is row 1.
What this module does not know: what the cells hold.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.fleet.parquet import METADATA_KEY

CSV_ENDINGS = (".csv", ".csv.gz")
PARQUET_ENDINGS = (".parquet",)
BLOCK_BYTES = 4 << 20  # of CSV text in memory at a time,
BLOCK_ROWS = 65_536  # and rows of Parquet
SHOWN = 10  # problems in one message
UNREADABLE = (pa.ArrowException, OSError, zipfile.BadZipFile, KeyError, EOFError, zlib.error)

Rows = NDArray[np.int64]


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

    path: Path  # of a member of a zip archive: the archive's and, behind it, the member's
    names: tuple[str, ...]
    is_csv: bool
    simulated: bool = False  # written by `emberwatch simulate`
    archive: Path | None = None  # the zip archive it is in

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
        except UNREADABLE as error:
            raise OwnDataError([f"{self.path}: cannot be read: {error}"]) from error

    def _csv_blocks(self, columns: Sequence[str]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """All cells as text; a blank line is a row without values, so that rows keep their numbers."""
        ragged: list[pa.csv.InvalidRow] = []

        def keep(row: pa.csv.InvalidRow) -> str:
            ragged.append(row)
            return "skip"

        with csv_input(self.path, self.archive) as source:
            reader = pa.csv.open_csv(
                source,
                read_options=pa.csv.ReadOptions(use_threads=False, block_size=BLOCK_BYTES),  # threads lose row numbers
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


@contextmanager
def csv_input(path: Path, archive: Path | None) -> Iterator[Path | BinaryIO]:
    """What pyarrow reads: the path, or the stream of a zip's member, which is never unpacked as a whole."""
    if archive is None:
        yield path
        return
    with zipfile.ZipFile(archive) as opened, opened.open(path.relative_to(archive).as_posix()) as member:
        yield cast(BinaryIO, member)


def open_table(path: Path, archive: Path | None = None) -> TableFile:
    """Read a file's header; a CSV file may lie in a zip `archive`, with the archive's path before its own.

    Raises:
        OwnDataError: it is empty, of another kind, or names a column twice.
    """
    is_csv = path.name.lower().endswith(CSV_ENDINGS)
    try:
        if is_csv:
            options = pa.csv.ParseOptions(invalid_row_handler=lambda _: "skip")  # `batches` looks at the rows
            with csv_input(path, archive) as source:
                reader = pa.csv.open_csv(source, pa.csv.ReadOptions(block_size=BLOCK_BYTES), options)
                table = TableFile(path, tuple(reader.schema.names), is_csv=True, archive=archive)
                reader.close()
        else:
            schema = pq.read_schema(path)
            table = TableFile(path, tuple(schema.names), False, METADATA_KEY in (schema.metadata or {}))
    except UNREADABLE as error:
        empty = archive is None and not path.stat().st_size
        reason = "the file is empty" if empty else f"cannot be read: {error}"
        raise OwnDataError([f"{path}: {reason}"]) from error
    repeated = sorted({name for name in table.names if table.names.count(name) > 1})
    if repeated:
        raise OwnDataError([f"{path}: column {', '.join(repeated)} comes twice"])
    return table


def trimmed(cells: pa.Array) -> pa.Array:
    """Text without blanks around it, null where nothing is left; other columns as they are."""
    if not is_text(cells.type):
        return cells
    text = pc.utf8_trim_whitespace(pc.cast(cells, pa.string()))
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)


def is_text(kind: pa.DataType) -> bool:
    """Whether a column holds text, plain or as a dictionary of it."""
    plain = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(plain) or pa.types.is_large_string(plain) or pa.types.is_string_view(plain))
