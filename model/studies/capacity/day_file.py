"""The table of days on disk, as CSV or Parquet, and the packs of vans; bad cells are refused with file, row and column.

The table is what the study writes as `days.csv`, and what it takes as `--history`, so that days from the service's
trend, which holds 48 hours, add up from run to run.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from model.studies.capacity.day_table import COLUMNS, DayTable, merged
from model.studies.capacity.depots import NOWHERE
from model.studies.capacity.local_days import iso_day
from model.training.own_files import Floats, check_names, dates, numbers, present
from model.training.own_recordings import out_of_range, vehicle_codes
from model.training.table_file import Findings, OwnDataError, TableFile, open_table

NEEDED = ("vehicle_id", "date", "covered_h", "used_kwh")
TEXTS = ("depot", "zone")


def write_days(table: DayTable, path: Path) -> None:
    """As CSV; what is not known is empty."""
    columns = {
        "vehicle_id": pa.array(table.vehicle_id.tolist()),
        "date": pa.array([iso_day(day) for day in table.day]),
        "depot": pa.array(table.depot.tolist()),
        "zone": pa.array(table.zone.tolist()),
        **{name: pa.array(np.round(table.values[name], 6), from_pandas=True) for name in COLUMNS},
    }
    pa.csv.write_csv(pa.table(columns), path, pa.csv.WriteOptions(quoting_style="none"))


def read_history(path: Path) -> DayTable:
    """Days that an earlier run wrote, or a table of the same columns.

    Raises:
        OwnDataError: unreadable, or a cell that cannot be used; file, row and column of each problem.
    """
    table = open_file(path)
    findings = Findings(path, table.offset)
    columns = check_names(table, findings, NEEDED, (*TEXTS, *(name for name in COLUMNS if name not in NEEDED)))
    refuse(findings)
    parts = [read_rows(batch, first, findings) for first, batch in table.batches(columns)]
    if not sum(len(part) for part in parts):
        findings.add_file("there are no rows in it")
    refuse(findings)
    found = merged(parts)
    if len(found) < sum(len(part) for part in parts):
        raise OwnDataError([f"{path}: a van has the same date twice"])
    return found


def read_packs(path: Path) -> dict[str, float]:
    """Size of each pack, kWh by vehicle id, from a file with the columns `vehicle_id` and `pack_kwh`.

    Raises:
        OwnDataError: as `read_history`.
    """
    table = open_file(path)
    findings = Findings(path, table.offset)
    columns = check_names(table, findings, ("vehicle_id", "pack_kwh"), ())
    refuse(findings)
    packs: dict[str, float] = {}
    for first, batch in table.batches(columns):
        ids, values = vehicles_of(batch, first, findings), values_of(batch, "pack_kwh", first, findings)
        empty = np.flatnonzero(~present(batch.column("pack_kwh")))
        findings.add("pack_kwh", "empty", empty + first, lambda _: "is empty")
        packs |= dict(zip(ids, values.tolist(), strict=True))
    refuse(findings)
    return packs


def open_file(path: Path) -> TableFile:
    """A table's header. Raises OwnDataError."""
    if not path.is_file():
        raise OwnDataError([f"{path} is not a file"])
    return open_table(path)


def refuse(findings: Findings) -> None:
    """Raise OwnDataError if there is anything wrong."""
    if findings.lines():
        raise OwnDataError(findings.lines())


def read_rows(batch: pa.RecordBatch, first: int, findings: Findings) -> DayTable:
    """Some rows of a history; what is wrong goes to `findings`."""
    names, n = batch.schema.names, batch.num_rows
    texts = {
        name: np.array(["-" if cell is None else str(cell) for cell in batch.column(name).to_pylist()], np.str_)
        for name in TEXTS
        if name in names
    }
    values = {
        name: values_of(batch, name, first, findings) if name in names else np.full(n, np.nan) for name in COLUMNS
    }
    empty = np.flatnonzero(np.isnan(values["covered_h"]) & ~present(batch.column("covered_h")))
    findings.add("covered_h", "empty", empty + first, lambda _: "is empty")
    return DayTable(
        vehicle_id=np.array(vehicles_of(batch, first, findings), np.str_),
        depot=texts.get("depot", np.full(n, NOWHERE)),
        zone=texts.get("zone", np.full(n, NOWHERE)),
        day=dates(batch.column("date"), "date", first, findings),
        values=values,
    )


def vehicles_of(batch: pa.RecordBatch, first: int, findings: Findings) -> list[str]:
    """The column vehicle_id; '' where it is a finding."""
    everything = np.ones(batch.num_rows, np.bool_)
    codes, names = vehicle_codes(batch, "", first, everything, findings)
    return [names[code] if code >= 0 else "" for code in codes]


def values_of(batch: pa.RecordBatch, name: str, first: int, findings: Findings) -> Floats:
    """One of COLUMNS, NaN where it is empty or a finding."""
    least, most, unit = COLUMNS[name]
    values = numbers(batch.column(name), name, first, findings)
    outside = np.flatnonzero((values < least) | (values > most))
    limits = f"is outside [{least:g}, {most:g}] {unit}"
    findings.add(name, "range", outside + first, partial(out_of_range, values[outside], limits))
    return values
