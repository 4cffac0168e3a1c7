"""A user's list of thermal events, from CSV or Parquet: vehicle_id, start, and optionally end."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from model.training.own_files import Bools, Millis, check_names, nearest, present, quoted, times
from model.training.table_file import Findings, OwnDataError, Rows, TableFile, open_table

LENGTH_WITHOUT_END_MS = 1_800_000  # an event whose end is not known counts as half an hour


@dataclass(frozen=True, slots=True, order=True)
class Event:
    """One event of one vehicle, over [start_ms, end_ms)."""

    start_ms: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class EventRows:
    """The file as columns, without blank rows."""

    row: Rows  # (n,) in the file, from 0
    vehicle_id: list[str]
    start_ms: Millis
    has_start: Bools
    end_ms: Millis  # by default half an hour after the start
    has_end: Bools


def read_events(path: Path, vehicle_ids: Collection[str]) -> dict[str, tuple[Event, ...]]:
    """The events of each vehicle that has any, in order of time.

    Args:
        path: the file.
        vehicle_ids: all vehicles that there are.

    Raises:
        OwnDataError: unreadable, empty, or an event that cannot be; file, row, column and reason of each problem.
    """
    table = open_table(path)
    findings = Findings(path, table.offset)
    columns = check_names(table, findings, ("vehicle_id", "start"), ("end",))
    order: list[int] = []
    if {"vehicle_id", "start"} <= set(columns):
        rows = read_rows(table, columns, findings)
        if not len(rows.row):
            findings.add_file("there are no events in it")
        known = check_vehicles(rows, vehicle_ids, findings)
        order = check_spans(rows, known, findings)
    if findings.lines():
        raise OwnDataError(findings.lines())
    events: dict[str, list[Event]] = {}
    for i in order:
        events.setdefault(rows.vehicle_id[i], []).append(Event(int(rows.start_ms[i]), int(rows.end_ms[i])))
    return {vehicle_id: tuple(listed) for vehicle_id, listed in events.items()}


def read_rows(table: TableFile, columns: list[str], findings: Findings) -> EventRows:
    """All rows that are not blank."""
    batches = [batch for _, batch in table.batches(columns)]
    if not batches:
        nothing = np.zeros(0, np.int64)
        return EventRows(nothing, [], nothing, nothing > 0, nothing, nothing > 0)
    cells = {name: pa.concat_arrays([batch.column(name) for batch in batches]) for name in columns}
    start_ms, has_start = times(cells["start"], "start", 0, findings)
    end_ms, has_end = start_ms + LENGTH_WITHOUT_END_MS, np.zeros(len(start_ms), np.bool_)
    if "end" in cells:
        given_ms, has_end = times(cells["end"], "end", 0, findings)
        end_ms = np.where(has_end, given_ms, end_ms)
    filled = {name: present(column) for name, column in cells.items()}
    row = np.flatnonzero(np.any(list(filled.values()), axis=0))
    findings.add("start", "empty", row[~filled["start"][row]], lambda _: "is empty")
    names = cells["vehicle_id"].to_pylist()
    ids = ["" if names[i] is None else str(names[i]).strip() for i in row.tolist()]
    return EventRows(row, ids, start_ms[row], has_start[row], end_ms[row], has_end[row])


def check_vehicles(rows: EventRows, vehicle_ids: Collection[str], findings: Findings) -> Bools:
    """(n,) the vehicle is one of ours."""
    known = np.array([name in vehicle_ids for name in rows.vehicle_id], np.bool_)
    strangers = np.flatnonzero(~known)

    def reason(i: int) -> str:
        name = rows.vehicle_id[strangers[i]]
        return f"there is no recording of {quoted(name)}{nearest(name, sorted(vehicle_ids))}" if name else "is empty"

    findings.add("vehicle_id", "stranger", rows.row[strangers], reason)
    return known


def check_spans(rows: EventRows, known: Bools, findings: Findings) -> list[int]:
    """Usable events by vehicle and time; an end before its start and an overlap are findings."""
    backwards = rows.has_start & rows.has_end & (rows.end_ms < rows.start_ms)
    findings.add("end", "backwards", rows.row[backwards], lambda _: "the event ends before it starts")
    usable = np.flatnonzero(rows.has_start & known & ~backwards).tolist()
    order = sorted(usable, key=lambda i: (rows.vehicle_id[i], rows.start_ms[i], rows.row[i]))
    for before, i in pairwise(order):
        if rows.vehicle_id[before] == rows.vehicle_id[i] and rows.start_ms[i] < rows.end_ms[before]:
            no_end = "" if rows.has_end[before] else ", which has no end and so counts as 30 minutes"
            what = f"starts during the event in row {rows.row[before] + findings.offset}{no_end}"
            findings.add("start", "overlap", rows.row[[i]], partial(constant, what))
    return order


def constant(reason: str, _: int) -> str:
    """One reason for every row."""
    return reason
