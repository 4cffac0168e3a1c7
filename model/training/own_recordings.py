"""Files of recordings: checked cell by cell into an index, then read by it, one vehicle's rows of a file at a time."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from model.channels import ChannelSchema
from model.training.own_files import Bools, Floats, Millis, check_names, iso, numbers, present, quoted, times
from model.training.table_file import Findings, OwnDataError, Rows, TableFile, is_text, open_table, stem

VEHICLE_ID = r"[A-Za-z0-9._:-]{1,64}"  # as in the service


@dataclass(frozen=True, slots=True)
class Part:
    """What one file holds of one vehicle."""

    path: Path
    vehicle_id: str
    start: int  # first row (from 0)
    stop: int  # after the last; rows of other vehicles may lie between
    samples: int  # rows with a value
    first_ms: int
    last_ms: int
    size: int  # of the file when it was checked, bytes,
    mtime_ns: int  # and when it had last been written


@dataclass(frozen=True, slots=True)
class CheckedFile:
    """The result of checking one file."""

    parts: tuple[Part, ...]
    vehicle_ids: tuple[str, ...]  # also of a file with problems, so that events of its vehicles are not called unknown
    problems: tuple[str, ...]
    skipped: int = 0  # rows without any value


@dataclass(slots=True)
class Running:
    """One vehicle's rows so far, while its file is checked."""

    start: int
    stop: int
    first_ms: int
    last_ms: int
    samples: int = 0


@dataclass(slots=True)
class Check:
    """One file being checked."""

    findings: Findings
    schema: ChannelSchema
    in_order: bool = True  # the time of a vehicle's rows has to rise
    vehicles: dict[str, Running] = field(default_factory=dict)
    rows: int = 0
    skipped: int = 0


def check_file(schema: ChannelSchema, path: Path, *, in_order: bool = True) -> CheckedFile:
    """Look at every cell of one file; without `in_order` rows may repeat or come late."""
    name = stem(path)
    try:
        table = open_table(path)
    except OwnDataError as error:
        return CheckedFile((), (name,), tuple(error.problems))
    check = Check(Findings(path, table.offset), schema, in_order)
    columns = check_header(table, schema, check.findings)
    problems: list[str] = []
    if "ts" in columns:
        try:
            for first, batch in table.batches(columns):
                check_batch(check, name, first, batch)
            if not check.rows and not check.findings.lines():
                check.findings.add_file("there are no rows with a value in it")
        except OwnDataError as error:
            problems = error.problems
    status = path.stat()
    parts = tuple(
        Part(path, vehicle_id, r.start, r.stop, r.samples, r.first_ms, r.last_ms, status.st_size, status.st_mtime_ns)
        for vehicle_id, r in check.vehicles.items()
    )
    vehicle_ids = tuple(check.vehicles) or (name,)
    return CheckedFile(parts, vehicle_ids, (*check.findings.lines(), *problems), check.skipped)


def check_header(table: TableFile, schema: ChannelSchema, findings: Findings) -> list[str]:
    """The columns to read."""
    columns = check_names(table, findings, ("ts",), ("vehicle_id", *schema.signal_names))
    signals = [name for name in columns if name in schema.signal_names]
    if not signals:
        findings.add_file("none of its columns is a signal")
    if ("latitude" in signals) != ("longitude" in signals):
        findings.add_file("latitude and longitude come together or not at all")
    if "vehicle_id" not in columns and not re.fullmatch(VEHICLE_ID, stem(table.path)):
        findings.add_file(f"its name is no vehicle id ({VEHICLE_ID}); rename it or add a column vehicle_id")
    return columns


def check_batch(check: Check, name: str, first: int, batch: pa.RecordBatch) -> None:
    """Look at some rows; findings go to `check`, and what is in order to its vehicles."""
    signals = read_signals(batch, check.schema, first, check.findings)
    check_values(check, batch, signals, first)
    has_value = np.asarray(~np.isnan(signals).all(axis=1), np.bool_)
    filled = np.any([present(column) for column in batch.columns], axis=0)
    ts_ms, timed = times(batch.column("ts"), "ts", first, check.findings)
    nothing = np.flatnonzero(filled & ~present(batch.column("ts")))
    check.findings.add("ts", "empty", nothing + first, lambda _: "is empty")
    codes, names = vehicle_codes(batch, name, first, filled, check.findings)
    rows = np.flatnonzero(timed & (codes >= 0))
    rows = rows[np.argsort(codes[rows], kind="stable")]
    check.rows += int(has_value.sum())
    check.skipped += int((timed & ~has_value).sum())
    for group in np.split(rows, np.flatnonzero(np.diff(codes[rows])) + 1) if len(rows) else []:
        advance(check, names[codes[group[0]]], group, first, ts_ms, has_value)


def advance(check: Check, vehicle_id: str, group: Rows, first: int, ts_ms: Millis, has_value: Bools) -> None:
    """Add one vehicle's rows of a batch, in their order, to what was seen of it."""
    running = check.vehicles.get(vehicle_id)
    ts = ts_ms[group]
    before = np.concatenate(([ts[0] - 1 if running is None else running.last_ms], ts[:-1]))
    wrong = np.flatnonzero(ts <= before) if check.in_order else np.zeros(0, np.int64)

    def reason(i: int) -> str:
        ours, theirs = iso(int(ts[wrong[i]])), iso(int(before[wrong[i]]))
        return f"{ours} comes twice" if ours == theirs else f"{ours} is not after {theirs} in the vehicle's row before"

    check.findings.add("ts", "order", group[wrong] + first, reason)
    start, stop, last_ms = int(group[0]) + first, int(group[-1]) + first + 1, int(ts[-1])
    if running is None:
        running = check.vehicles[vehicle_id] = Running(start, stop, int(ts[0]), last_ms)
    running.stop, running.last_ms = stop, last_ms
    running.samples += int(has_value[group].sum())


def check_values(check: Check, batch: pa.RecordBatch, signals: Floats, first: int) -> None:
    """Values inside their ranges, and no half of a position."""
    for i, signal in enumerate(check.schema.signals):
        values = signals[:, i]
        outside = np.flatnonzero((values < signal.minimum) | (values > signal.maximum))
        limits = f"is outside [{signal.minimum:g}, {signal.maximum:g}] {signal.unit}"
        check.findings.add(signal.name, "range", outside + first, partial(out_of_range, values[outside], limits))
    names = batch.schema.names
    if "latitude" in names and "longitude" in names:
        latitude, longitude = (present(batch.column(name)) for name in ("latitude", "longitude"))
        for alone, name, missing in ((latitude, "latitude", longitude), (longitude, "longitude", latitude)):
            rows = np.flatnonzero(alone & ~missing)
            other = "longitude" if name == "latitude" else "latitude"
            check.findings.add(name, "alone", rows + first, partial(without, other))


def out_of_range(values: Floats, limits: str, i: int) -> str:
    """The reason for entry i."""
    return f"{values[i]:g} {limits}"


def without(other: str, _: int) -> str:
    """The reason for half a position."""
    return f"has no {other} beside it"


def read_signals(batch: pa.RecordBatch, schema: ChannelSchema, first: int, findings: Findings) -> Floats:
    """(n, n_signals) in the schema's order, NaN where absent."""
    signals = np.full((batch.num_rows, len(schema.signals)), np.nan)
    for i, name in enumerate(schema.signal_names):
        if name in batch.schema.names:
            signals[:, i] = numbers(batch.column(name), name, first, findings)
    return signals


def vehicle_codes(
    batch: pa.RecordBatch, name: str, first: int, filled: Bools, findings: Findings
) -> tuple[NDArray[np.int64], list[str]]:
    """(n,) numbers into the list of ids, -1 for an id that is none."""
    if "vehicle_id" not in batch.schema.names:
        return np.zeros(batch.num_rows, np.int64), [name]
    column = batch.column("vehicle_id")
    if not (is_text(column.type) or pa.types.is_integer(column.type)):
        findings.add_file(f"column vehicle_id holds {column.type}, neither text nor integers")
        return np.full(batch.num_rows, -1), []
    findings.add("vehicle_id", "empty", np.flatnonzero(filled & ~present(column)) + first, lambda _: "is empty")
    ids = pc.cast(column, pa.string()).dictionary_encode()
    codes = np.asarray(pc.fill_null(pc.cast(ids.indices, pa.int64()), -1)).copy()
    names: list[str] = ids.dictionary.to_pylist()
    bad = np.array([not re.fullmatch(VEHICLE_ID, known) for known in names], np.bool_)
    strange = np.flatnonzero((codes >= 0) & bad[codes] & present(column)) if len(names) else np.zeros(0, np.int64)
    findings.add(
        "vehicle_id", "name", strange + first, lambda i: f"{quoted(names[codes[strange[i]]])} does not fit {VEHICLE_ID}"
    )
    return np.where((codes >= 0) & bad[codes], -1, codes) if len(names) else codes, names


def read_part(part: Part, schema: ChannelSchema) -> Iterator[tuple[Millis, NDArray[np.float32]]]:
    """Times and signals of one vehicle's rows in one file, without rows that have no value, batch by batch.

    Raises:
        OwnDataError: the file is no longer what was checked.
    """
    status = part.path.stat()
    if (status.st_size, status.st_mtime_ns) != (part.size, part.mtime_ns):
        raise OwnDataError([f"{part.path} has changed since it was checked; start again"])
    table, findings = open_table(part.path), Findings(part.path, 0)
    columns = [name for name in table.names if name in ("ts", "vehicle_id", *schema.signal_names)]
    for _, batch in table.batches(columns, part.start, part.stop):
        ts_ms, keep = times(batch.column("ts"), "ts", 0, findings)
        signals = read_signals(batch, schema, 0, findings)
        keep &= ~np.isnan(signals).all(axis=1)
        if "vehicle_id" in columns:
            ids = pc.cast(batch.column("vehicle_id"), pa.string())
            keep &= np.asarray(pc.fill_null(pc.equal(ids, part.vehicle_id), fill_value=False))
        yield ts_ms[keep], signals[keep].astype(np.float32)
