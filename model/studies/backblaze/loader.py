"""Backblaze's daily CSV files, as distributed: plain, gzipped, or in the quarterly zip archives, which are not unpacked.

Two passes, block by block: the first learns which drives fail, the second keeps the days of those and of a random number of
others. Memory is bounded by the kept drives, a few bytes for every other drive, and one block of text.
Source of the layout: Backblaze Drive Stats, https://www.backblaze.com/cloud-storage/resources/hard-drive-test-data.
"""

import logging
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from model.studies.backblaze.config import ATTRIBUTES, BackblazeConfig
from model.studies.backblaze.drives import NO_FAILURE, Bools, Drives, Floats, Ints, Seen, Singles
from model.training.own_files import EPOCH, dates, numbers, present, quoted
from model.training.table_file import CSV_ENDINGS, Findings, OwnDataError, TableFile, open_table

logger = logging.getLogger(__name__)

REQUIRED = ("date", "serial_number", "model", "failure")
BETWEEN = "\x1f"  # joins model and serial number: together they name a drive
FILE_BITS = 40  # of a place, below the number of its file: rows


def smart(attribute: int) -> str:
    """The column of an attribute's raw value."""
    return f"smart_{attribute}_raw"


def find_tables(folder: Path) -> list[tuple[Path, Path | None]]:
    """Every CSV file in a folder and its archives, with the archive it is in; in order of their names.

    Raises:
        OwnDataError: there is none, or an archive cannot be read.
    """
    paths = sorted(folder.rglob("*")) if folder.is_dir() else [folder]
    found: list[tuple[Path, Path | None]] = []
    for path in paths:
        if path.name.lower().endswith(CSV_ENDINGS):
            found.append((path, None))
        elif path.name.lower().endswith(".zip"):
            found += [(path / name, path) for name in _members(path)]
    if not found:
        raise OwnDataError([f"{folder}: there are no .csv, .csv.gz or .zip files of drive statistics"])
    return sorted(found, key=lambda one: (one[0].name, str(one[0])))


def _members(path: Path) -> list[str]:
    """CSV files of an archive, without what a Mac leaves in it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise OwnDataError([f"{path}: cannot be read: {error}"]) from error
    hidden = ("__MACOSX", ".")
    return [n for n in names if n.lower().endswith(".csv") and not any(p.startswith(hidden) for p in n.split("/"))]


@dataclass(slots=True)
class Census:
    """The first pass: which drives there are and which of them fail."""

    drives: dict[str, int] = field(default_factory=dict)  # by key: NO_FAILURE or days since EPOCH
    rows: int = 0
    first: int = 10**9  # days since EPOCH
    last: int = -(10**9)

    def add(self, keys: pa.Array, days: Ints, failed: Bools) -> None:
        """Rows of one block."""
        self.rows += len(days)
        self.first, self.last = min(self.first, int(days.min())), max(self.last, int(days.max()))
        self.drives |= {key: NO_FAILURE for key in pc.unique(keys).to_pylist() if key not in self.drives}
        for key, day in zip(keys.filter(pa.array(failed)).to_pylist(), days[failed].tolist(), strict=True):
            known = self.drives[key]
            self.drives[key] = day if known == NO_FAILURE else min(day, known)

    def chosen(self, config: BackblazeConfig) -> list[str]:
        """Every drive that fails and `healthy` others by the hash of their name: the same whatever the files' order."""
        failing = sorted(key for key, day in self.drives.items() if day != NO_FAILURE)
        others = [key for key, day in self.drives.items() if day == NO_FAILURE]
        others.sort(key=lambda key: (xxhash.xxh64_intdigest(key.encode(), seed=config.seed), key))
        return failing + sorted(others[: config.healthy])


@dataclass(slots=True)
class Kept:
    """The second pass: days of the chosen drives, in the order of the files."""

    drive: list[Ints] = field(default_factory=list)
    day: list[Ints] = field(default_factory=list)  # since EPOCH
    values: list[Singles] = field(default_factory=list)
    place: list[Ints] = field(default_factory=list)  # number of the file, then of the row


def load(folder: Path, config: BackblazeConfig) -> Drives:
    """Read a folder of drive statistics.

    Raises:
        OwnDataError: something cannot be used; file, row and column are named.
    """
    tables = [_checked(open_table(path, archive)) for path, archive in find_tables(folder)]
    attributes = tuple(a for a in ATTRIBUTES if any(smart(a) in table.names for table in tables))
    if not attributes:
        raise OwnDataError([f"{folder}: no file has a column {', '.join(map(smart, ATTRIBUTES[:5]))} or a later one"])
    census = Census()
    for i, table in enumerate(tables):
        for _, keys, days, failed, _ in _blocks(table, (), config.drive_model):
            census.add(keys, days, failed)
        if i % 10 == 0:
            logger.info("looked at %d of %d files, %d drives", i + 1, len(tables), len(census.drives))
    if not census.drives:
        of_model = "" if config.drive_model is None else f" of drive model {config.drive_model}"
        raise OwnDataError([f"{folder}: there are no drives{of_model}"])
    chosen = census.chosen(config)
    kept, wanted = Kept(), pa.array(chosen, pa.string())
    for i, table in enumerate(tables):
        for rows, keys, days, _, values in _blocks(table, attributes, config.drive_model):
            index = np.asarray(pc.fill_null(pc.index_in(keys, value_set=wanted), -1), np.int64)
            mine = index >= 0
            kept.drive.append(index[mine])
            kept.day.append(days[mine])
            kept.values.append(np.log1p(values[mine]).astype(np.float32))
            kept.place.append((np.int64(i) << FILE_BITS) + rows[mine])
        if i % 10 == 0:
            logger.info("read %d of %d files", i + 1, len(tables))
    return _assembled(kept, census, chosen, attributes, tables)


def _checked(table: TableFile) -> TableFile:
    missing = [name for name in REQUIRED if name not in table.names]
    if missing:
        raise OwnDataError([f"{table.path}: there is no column {', '.join(missing)}"])
    return table


def _blocks(
    table: TableFile, attributes: tuple[int, ...], drive_model: str | None
) -> Iterator[tuple[Ints, pa.Array, Ints, Bools, Floats]]:
    """Row numbers as a person counts, drives' keys, days since EPOCH, failures and raw values, block by block.

    Raises:
        OwnDataError: a cell cannot be used; told with the others of the same file once all its blocks were looked at.
    """
    findings = Findings(table.path, table.offset)
    columns = [name for name in (*REQUIRED, *map(smart, attributes)) if name in table.names]
    for first, batch in table.batches(columns):
        column = dict(zip(batch.schema.names, batch.columns, strict=True))
        for name in ("serial_number", "model", "failure"):
            empty = np.flatnonzero(~present(column[name]))
            findings.add(name, "empty", empty + first, lambda _: "is empty")
        days = dates(column["date"], "date", first, findings)
        failed = _counts(column["failure"], "failure", first, findings)
        strange = np.flatnonzero(~np.isnan(failed) & ~np.isin(failed, (0.0, 1.0)))
        findings.add("failure", "bit", strange + first, lambda _: "is neither 0 nor 1")
        values = np.full((len(days), len(attributes)), np.nan)
        for i, attribute in enumerate(attributes):
            if smart(attribute) in column:
                values[:, i] = _counts(column[smart(attribute)], smart(attribute), first, findings)
        if findings.lines():
            continue  # the rest of the file is only searched for what else is wrong
        keys = pc.binary_join_element_wise(column["model"], column["serial_number"], BETWEEN)
        rows = np.arange(len(days)) + first + table.offset
        if drive_model is not None:
            wanted = np.asarray(pc.equal(column["model"], drive_model))
            keys, rows, days = keys.filter(pa.array(wanted)), rows[wanted], days[wanted]
            failed, values = failed[wanted], values[wanted]
        if len(rows):
            yield rows, keys, days, failed == 1.0, values
    if findings.lines():
        raise OwnDataError(findings.lines())


def _counts(cells: pa.Array, column: str, first: int, findings: Findings) -> Floats:
    """(n,) values from 0 on, NaN where the cell is empty or a finding."""
    values = numbers(cells, column, first, findings)
    negative = np.flatnonzero(values < 0)
    findings.add(column, "negative", negative + first, lambda i: f"{quoted(cells[int(negative[i])])} is negative")
    values[negative] = np.nan
    return values


def _assembled(
    kept: Kept, census: Census, chosen: list[str], attributes: tuple[int, ...], tables: list[TableFile]
) -> Drives:
    """The kept days by drive and time, none twice and none after the failure.

    Raises:
        OwnDataError: a drive has two rows of one day.
    """
    drive, day, place = (np.concatenate(parts) for parts in (kept.drive, kept.day, kept.place))
    order = np.lexsort((place, day, drive))
    drive, day, place = drive[order], day[order], place[order]
    twice = np.flatnonzero((drive[1:] == drive[:-1]) & (day[1:] == day[:-1])) + 1
    if len(twice):
        at, before = int(place[twice[0]]), int(place[twice[0] - 1])
        name = chosen[drive[twice[0]]].replace(BETWEEN, " ")
        (path, row), (other, other_row) = (
            (tables[one >> FILE_BITS].path, one & ((1 << FILE_BITS) - 1)) for one in (at, before)
        )
        more = f" (and {len(twice) - 1} more rows)" if len(twice) > 1 else ""
        raise OwnDataError(
            [f"{path}, row {row}, column serial_number: {name} has that day already in {other}, row {other_row}{more}"]
        )
    failure = np.array([census.drives[key] for key in chosen])
    alive = (failure[drive] == NO_FAILURE) | (day <= failure[drive])
    counts = np.bincount(drive[alive], minlength=len(chosen))
    models, serials = zip(*(key.split(BETWEEN) for key in chosen), strict=True)
    return Drives(
        serials=np.array(serials),
        models=np.array(models),
        failure_day=np.where(failure == NO_FAILURE, NO_FAILURE, failure - census.first),
        starts=np.concatenate(([0], np.cumsum(counts))),
        day=day[alive] - census.first,
        values=np.concatenate(kept.values)[order][alive],
        attributes=attributes,
        first_date=date.fromordinal(EPOCH.toordinal() + census.first),
        n_days=census.last - census.first + 1,
        seen=Seen(
            files=len(tables),
            rows=census.rows,
            drives=len(census.drives),
            failures=sum(day != NO_FAILURE for day in census.drives.values()),
            after_failure=int((~alive).sum()),
        ),
    )
