"""A user's own recordings: read as they are, refused with file, row and column, split by vehicle."""

import csv
import gzip
import json
import pickle
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from model.channels import VAN_SCHEMA, Channel, ChannelSchema, Signal
from model.checkpoint import Checkpoint, load_checkpoint
from model.dataset import NOMINAL_INTERVAL_S, build_sequences, fit_prior
from model.fleet import FleetConfig, simulate
from model.fleet.parquet import METADATA_KEY, write_fleet
from model.preprocess import Preprocessor
from model.runtime import ModelRuntime
from model.training import Ranks, TrainingConfig
from model.training.own_channels import read_channels
from model.training.own_data import HORIZON_MS, RecordedFleet, hash_share, open_fleet, split
from model.training.own_events import LENGTH_WITHOUT_END_MS
from model.training.own_recordings import VEHICLE_ID
from model.training.run import train
from model.training.sources import recorded
from model.training.table_file import OwnDataError
from service.cli import app
from service.samples import Samples
from service.wire.decode import Decoder
from service.wire.decode_columns import VEHICLE_ID_PATTERN

START_MS = 1_783_296_000_000
MINUTE_MS = 60_000


def iso(ts_ms: int) -> str:
    """A time as people write it."""
    return datetime.fromtimestamp(ts_ms / 1000, UTC).isoformat().replace("+00:00", "Z")


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Rows as CSV, None as an empty cell."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def drive(n: int = 10, start_ms: int = START_MS) -> list[dict[str, object]]:
    """Rows a minute apart."""
    return [
        {"ts": iso(start_ms + i * MINUTE_MS), "speed": 1.5 + i % 50, "state_of_charge": 80.0 - i % 50} for i in range(n)
    ]


def write_fleet_of(folder: Path, vans: int = 3, n: int = 10) -> Path:
    """CSV recordings van-0, van-1, ... and an event of each, ten minutes after its end; the events file."""
    for van in range(vans):
        write_csv(folder / "data" / f"van-{van}.csv", drive(n))
    events = [{"vehicle_id": f"van-{van}", "start": START_MS + (n + 10) * MINUTE_MS} for van in range(vans)]
    return write_csv(folder / "events.csv", events)


def fleet_of(folder: Path, schema: ChannelSchema = VAN_SCHEMA) -> RecordedFleet:
    """What the folder holds."""
    return open_fleet(folder / "data", folder / "events.csv", schema)


def problems_of(folder: Path, schema: ChannelSchema = VAN_SCHEMA) -> list[str]:
    """The reasons for a refusal, with the folder's name left out."""
    with pytest.raises(OwnDataError) as refused:
        fleet_of(folder, schema)
    return [problem.replace(f"{folder}/", "") for problem in refused.value.problems]


def test_cells_become_signals_and_empty_ones_are_absent(tmp_path: Path) -> None:
    """Columns go to their signals in any order, missing columns and empty cells are NaN, blanks do not matter."""
    events = write_fleet_of(tmp_path)
    rows = drive(3)
    rows[1]["speed"] = None
    rows[2]["state_of_charge"] = " 7.25e1 "
    write_csv(tmp_path / "data" / "van-1.csv", [{"speed": row["speed"], **row} for row in rows])
    trace = open_fleet(tmp_path / "data", events, VAN_SCHEMA).trace(1)
    assert trace.vehicle_id == "van-1"
    assert trace.ts_ms.tolist() == [START_MS + i * MINUTE_MS for i in range(3)]
    assert trace.signals.dtype == np.float32
    column = {name: trace.signals[:, i] for i, name in enumerate(VAN_SCHEMA.signal_names)}
    np.testing.assert_array_equal(column["speed"], np.array([1.5, np.nan, 3.5], np.float32))
    np.testing.assert_array_equal(column["state_of_charge"], np.array([80.0, 79.0, 72.5], np.float32))
    assert all(np.isnan(column[name]).all() for name in column if name not in ("speed", "state_of_charge"))


@pytest.mark.parametrize(
    ("cell", "milliseconds"),
    [
        ("2026-09-14T08:00:05Z", 1_789_372_805_000),
        ("2026-09-14T10:00:05.25+02:00", 1_789_372_805_250),
        ("2026-09-14 10:00:05.0004+0200", 1_789_372_805_000),
        ("20260914T080005Z", 1_789_372_805_000),
        ("1789372805000", 1_789_372_805_000),
    ],
)
def test_times_are_iso_8601_with_a_zone_or_milliseconds(tmp_path: Path, cell: str, milliseconds: int) -> None:
    """Each way of writing a time gives the same instant, alone in its column or mixed with others."""
    write_fleet_of(tmp_path)
    rows = [{"ts": cell, "speed": 1.0}]
    write_csv(tmp_path / "data" / "van-0.csv", rows)
    write_csv(tmp_path / "data" / "van-1.csv", [*rows, {"ts": "2026-12-24T00:00:00+00:00", "speed": 1.0}])
    fleet = fleet_of(tmp_path)
    assert fleet.trace(0).ts_ms.tolist() == [milliseconds]
    assert fleet.trace(1).ts_ms[0] == milliseconds


def test_the_simulators_files_are_read_as_they_are(tmp_path: Path) -> None:
    """Parquet with labels and hidden temperatures gives the simulated signals, and the simulator's own labels."""
    config = FleetConfig(n_vehicles=8, days=1.5, seed=1, faulty_share=1.0)
    paths = write_fleet(config, tmp_path / "data", detail="truth", processes=1)
    events = [
        {"vehicle_id": path.stem, "start": start}
        for path in paths
        for start in json.loads(pq.read_schema(path).metadata[METADATA_KEY])["events_ms"]
    ]
    assert len(events) >= 2
    write_csv(tmp_path / "events.csv", events)
    fleet = fleet_of(tmp_path)
    positive = 0
    for i, theirs in enumerate(simulate(config)):
        ours = fleet.trace(i)
        assert ours.vehicle_id == theirs.vehicle_id
        np.testing.assert_array_equal(ours.ts_ms, theirs.ts_ms)
        np.testing.assert_array_equal(ours.signals, theirs.signals)
        np.testing.assert_array_equal(ours.label, theirs.label)
        np.testing.assert_array_equal(ours.events_ms, theirs.events_ms)
        positive += int(ours.label.sum())
    assert positive > 100


def test_a_vehicle_may_be_spread_over_files_and_a_file_over_vehicles(tmp_path: Path) -> None:
    """Daily files of the whole fleet, in CSV and Parquet and with rows interleaved, give each vehicle its rows."""
    rows = [{"vehicle_id": f"van-{van}", **row} for row in drive(6) for van in range(3)]
    for row in rows:
        row["speed"] = float(str(row["vehicle_id"])[-1])
    write_csv(tmp_path / "data" / "monday.csv", rows)
    later = [{**row, "ts": START_MS + (60 + i // 3) * MINUTE_MS} for i, row in enumerate(rows)]
    table = pa.Table.from_pylist(later)
    pq.write_table(table, tmp_path / "data" / "a-tuesday.parquet", row_group_size=4)
    events = [{"vehicle_id": f"van-{van}", "start": START_MS + 90 * MINUTE_MS} for van in range(3)]
    write_csv(tmp_path / "events.csv", events)
    fleet = fleet_of(tmp_path)
    assert [vehicle.vehicle_id for vehicle in fleet.vehicles] == ["van-0", "van-1", "van-2"]
    for van in range(3):
        trace = fleet.trace(van)
        minutes = [*range(6), *range(60, 66)]
        assert trace.ts_ms.tolist() == [START_MS + minute * MINUTE_MS for minute in minutes]
        assert (trace.signals[:, VAN_SCHEMA.signal_names.index("speed")] == van).all()
    assert fleet.max_length == 12


def test_labels_follow_from_the_events(tmp_path: Path) -> None:
    """An event is ahead from two hours before its start until just before it; nothing is valid from start to end."""
    write_csv(tmp_path / "data" / "van-0.csv", drive(600))
    write_csv(tmp_path / "data" / "van-1.csv", drive(600))
    events: list[dict[str, object]] = [
        {"vehicle_id": "van-0", "start": iso(START_MS + 200 * MINUTE_MS), "end": iso(START_MS + 260 * MINUTE_MS)},
        {"vehicle_id": "van-0", "start": iso(START_MS + 450 * MINUTE_MS), "end": None},
        {"vehicle_id": "van-1", "start": iso(START_MS + 660 * MINUTE_MS), "end": None},
    ]
    write_csv(tmp_path / "events.csv", events)
    fleet = fleet_of(tmp_path)
    minute = np.arange(600)
    first = fleet.trace(0)
    assert (HORIZON_MS, LENGTH_WITHOUT_END_MS) == (120 * MINUTE_MS, 30 * MINUTE_MS)
    label = ((minute >= 80) & (minute < 200)) | ((minute >= 330) & (minute < 450))
    np.testing.assert_array_equal(first.label, label)
    valid = ~(((minute >= 200) & (minute < 260)) | ((minute >= 450) & (minute < 480)))
    np.testing.assert_array_equal(first.valid, valid)
    assert first.events_ms.tolist() == [START_MS + 200 * MINUTE_MS, START_MS + 450 * MINUTE_MS]
    second = fleet.trace(1)
    np.testing.assert_array_equal(second.label, minute >= 540)  # an event after the end still has its two hours
    assert second.valid.all()


def test_rows_without_any_value_are_skipped(tmp_path: Path) -> None:
    """A row of a timestamp only is no sample, as in the service, nor is a blank line; row numbers stay the file's."""
    write_fleet_of(tmp_path)
    text = "ts,speed\n" + f"{iso(START_MS)},1\n{iso(START_MS + 1000)},\n\n{iso(START_MS + 2000)},3\n\n\n"
    (tmp_path / "data" / "van-0.csv").write_text(text)
    fleet = fleet_of(tmp_path)
    assert fleet.trace(0).ts_ms.tolist() == [START_MS, START_MS + 2000]
    assert fleet.vehicles[0].samples == 2
    (tmp_path / "data" / "van-0.csv").write_text(text.replace(",3\n", ",fast\n"))
    assert problems_of(tmp_path) == ["data/van-0.csv, row 5, column speed: 'fast' is not a number"]


REFUSED = {
    "unknown column": ("ts,sped\n{t},1\n", ["column 'sped' is unknown; did you mean speed?", "none of its columns"]),
    "foreign column": ("ts,speed,Q\n{t},1,2\n", ["column 'Q' is unknown; known are ts, vehicle_id, latitude"]),
    "simulator's column in another file": ("ts,speed,label\n{t},1,0\n", ["column 'label' is unknown"]),
    "no ts": ("speed\n1\n", ["there is no column ts"]),
    "column twice": ("ts,speed,speed\n{t},1,2\n", ["column speed comes twice"]),
    "empty file": ("", ["the file is empty"]),
    "header only": ("ts,speed\n", ["there are no rows with a value in it"]),
    "not a number": ("ts,speed\n{t},1\n{u},1.5.0\n", [", row 3, column speed: '1.5.0' is not a number"]),
    "decimal comma": ('ts,speed\n{t},"1,5"\n', [", row 2, column speed: '1,5' is not a number"]),
    "NaN": ("ts,speed\n{t},NaN\n", [", row 2, column speed: 'NaN' is not finite; leave absent values empty"]),
    "infinite": (
        "ts,speed\n{t},-inf\n{u},x\n",
        ["row 3, column speed: 'x'", "row 2, column speed: '-inf' is not finite"],
    ),
    "too large to be a number": ("ts,speed\n{t},1e999\n", [", row 2, column speed: '1e999' is not finite"]),
    "below": ("ts,speed\n{t},1\n{u},-0.5\n", [", row 3, column speed: -0.5 is outside [0, 100] m/s"]),
    "above": ("ts,state_of_charge\n{t},100.5\n", [", row 2, column state_of_charge: 100.5 is outside [0, 100] %"]),
    "latitude alone": (
        "ts,latitude,longitude\n{t},48,\n{u},48,11\n",
        [", row 2, column latitude: has no longitude beside it"],
    ),
    "no longitude at all": ("ts,latitude,speed\n{t},48,1\n", ["latitude and longitude come together or not at all"]),
    "backwards": (
        "ts,speed\n{u},1\n{t},1\n",
        [", row 3, column ts: 2026-07-06T00:00:00.000Z is not after 2026-07-06T00:01"],
    ),
    "twice": ("ts,speed\n{t},1\n{t},2\n", [", row 3, column ts: 2026-07-06T00:00:00.000Z comes twice"]),
    "no time": ("ts,speed\nyesterday,1\n", [", row 2, column ts: 'yesterday' is not an ISO 8601 time"]),
    "no zone": ("ts,speed\n2026-07-06T00:00:00,1\n", [", row 2, column ts: '2026-07-06T00:00:00' has no time zone"]),
    "ts empty": ("ts,speed\n{t},1\n,1\n", [", row 3, column ts: is empty"]),
    "seconds": ("ts,speed\n1783296000,1\n", [", row 2, column ts: 1783296000 is outside the years 2000 to 9999"]),
    "a cell too many": ("ts,speed\n{t},1\n{u},1,2\n", [", row 3: has 3 cells, the header has 2"]),
    "a cell too few": ("ts,speed\n{t},1\n{u}\n", [", row 3: has 1 cells, the header has 2"]),
    "vehicle id": ("ts,speed,vehicle_id\n{t},1,a b\n", [", row 2, column vehicle_id: 'a b' does not fit"]),
    "vehicle id empty": ("ts,speed,vehicle_id\n{t},1,\n", [", row 2, column vehicle_id: is empty"]),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_csv_is_refused_with_row_column_and_reason(tmp_path: Path, case: str) -> None:
    """Each kind of mistake is named where it is, the header being row 1, and nothing else is complained about."""
    write_fleet_of(tmp_path, vans=4)
    text, expected = REFUSED[case]
    path = tmp_path / "data" / "van-1.csv"
    path.write_text(text.format(t=iso(START_MS), u=iso(START_MS + MINUTE_MS)))
    problems = [problem for problem in problems_of(tmp_path) if "events.csv" not in problem]
    assert len(problems) == len(expected)
    for problem, part in zip(problems, expected, strict=True):
        assert problem.startswith("data/van-1.csv")
        assert part in problem


def parquet_problems(folder: Path, columns: dict[str, pa.Array]) -> list[str]:
    """What is said of one Parquet file with these columns, in row groups of two."""
    write_fleet_of(folder)
    (folder / "data" / "van-1.csv").unlink()
    pq.write_table(pa.table(columns), folder / "data" / "van-1.parquet", row_group_size=2)
    return problems_of(folder)


MINUTES = pa.array([START_MS + i * MINUTE_MS for i in range(5)], pa.timestamp("ms", "UTC"))
REFUSED_PARQUET = {
    "NaN": (
        {"ts": MINUTES, "speed": pa.array([1.0, 2.0, 3.0, np.nan, 5.0])},
        "row 4, column speed: nan is not finite; leave",
    ),
    "range": (
        {"ts": MINUTES, "speed": pa.array([1, 2, 300, 4, 5])},
        "row 3, column speed: 300 is outside [0, 100] m/s",
    ),
    "text": (
        {"ts": MINUTES, "speed": pa.array(["1", "2", "3", "4", "five"])},
        "row 5, column speed: 'five' is not a number",
    ),
    "kind": ({"ts": MINUTES, "speed": pa.array([True] * 5)}, "column speed holds bool, not numbers"),
    "no zone": (
        {"ts": MINUTES.cast(pa.timestamp("ms")), "speed": pa.array([1.0] * 5)},
        "column ts has no time zone; store it as a timestamp in UTC",
    ),
    "time of another kind": ({"ts": pa.array([1.0] * 5), "speed": pa.array([1.0] * 5)}, "column ts holds double"),
    "order": (
        {"ts": MINUTES.take(pa.array([0, 1, 3, 2, 4])), "speed": pa.array([1.0] * 5)},
        "row 4, column ts: 2026-07-06T00:02:00.000Z is not after 2026-07-06T00:03:00.000Z",
    ),
    "vehicle ids": (
        {"ts": MINUTES, "speed": pa.array([1.0] * 5), "vehicle_id": pa.array([1.5] * 5)},
        "column vehicle_id holds double, neither text nor integers",
    ),
}


@pytest.mark.parametrize("case", REFUSED_PARQUET)
def test_bad_parquet_is_refused_with_row_column_and_reason(tmp_path: Path, case: str) -> None:
    """In Parquet the first row is row 1, also across row groups."""
    columns, expected = REFUSED_PARQUET[case]
    problems = [problem for problem in parquet_problems(tmp_path, columns) if "events.csv" not in problem]
    assert any(problem.startswith("data/van-1.parquet") and expected in problem for problem in problems), problems


EVENTS = {
    "unknown vehicle": (
        "vehicle_id,start\nvan-O,{t}\n",
        ", row 2, column vehicle_id: there is no recording of 'van-O'",
    ),
    "nearest vehicle": ("vehicle_id,start\nvan-00,{t}\n", "'van-00'; did you mean van-0?"),
    "no vehicle": ("vehicle_id,start\n,{t}\n", ", row 2, column vehicle_id: is empty"),
    "no start": ("vehicle_id,start\nvan-0,{t}\nvan-1,\n", ", row 3, column start: is empty"),
    "no zone": (
        "vehicle_id,start\nvan-0,2026-07-06T00:00:00\n",
        ", row 2, column start: '2026-07-06T00:00:00' has no time zone",
    ),
    "end before start": (
        "vehicle_id,start,end\nvan-0,{u},{t}\n",
        ", row 2, column end: the event ends before it starts",
    ),
    "overlap": (
        "vehicle_id,start,end\nvan-0,{u},{v}\nvan-1,{u},\nvan-0,{t},{v}\n",
        ", row 2, column start: starts during the event in row 4",
    ),
    "overlap with an open end": (
        "vehicle_id,start\nvan-0,{t}\nvan-0,{u}\n",
        ", row 3, column start: starts during the event in row 2, which has no end and so counts as 30 minutes",
    ),
    "misspelt column": ("vehicle_id,start,ends\nvan-0,{t},{u}\n", "column 'ends' is unknown; did you mean end?"),
    "no events": ("vehicle_id,start\n", "there are no events in it"),
    "no column": ("van,at\nvan-0,{t}\n", "there is no column vehicle_id"),
    "empty": ("", "the file is empty"),
}


@pytest.mark.parametrize("case", EVENTS)
def test_bad_events_are_refused_with_row_column_and_reason(tmp_path: Path, case: str) -> None:
    """Each kind of mistake in the list of events is named where it is."""
    write_fleet_of(tmp_path)
    text, expected = EVENTS[case]
    times = {name: iso(START_MS + i * MINUTE_MS) for i, name in enumerate("tuv", start=8)}
    (tmp_path / "events.csv").write_text(text.format(**times))
    problems = problems_of(tmp_path)
    assert any(problem.startswith("events.csv") and expected in problem for problem in problems), problems
    assert not any(problem.startswith("data") for problem in problems)


def test_events_may_be_parquet_and_touch(tmp_path: Path) -> None:
    """An event may begin where the last one ended; times may be timestamps; rows may be in any order."""
    write_fleet_of(tmp_path)
    starts = pa.array([START_MS + minute * MINUTE_MS for minute in (6, 4, 5)], pa.timestamp("ms", "UTC")).cast(
        pa.timestamp("us", "Europe/Berlin")
    )
    ends = pa.array([None, START_MS + 6 * MINUTE_MS, START_MS + 6 * MINUTE_MS], pa.timestamp("ms", "UTC"))
    table = pa.table({"start": starts, "vehicle_id": pa.array(["van-0", "van-0", "van-1"]), "end": ends})
    pq.write_table(table, tmp_path / "events.parquet")
    fleet = open_fleet(tmp_path / "data", tmp_path / "events.parquet", VAN_SCHEMA)
    assert fleet.trace(0).valid.tolist() == [True] * 4 + [False] * 6
    assert fleet.trace(0).events_ms.tolist() == [START_MS + 4 * MINUTE_MS, START_MS + 6 * MINUTE_MS]
    assert fleet.trace(2).events_ms.size == 0


def test_every_mistake_is_told_once_and_at_most_ten_are_shown(tmp_path: Path) -> None:
    """A column of a thousand wrong cells is one problem with its count; of fourteen problems ten are in the message."""
    events = write_fleet_of(tmp_path, vans=14)
    for van in range(14):
        rows = drive(1000)
        for row in rows[100:]:
            row["speed"] = "fast"
        write_csv(tmp_path / "data" / f"van-{van}.csv", rows)
    with pytest.raises(OwnDataError) as refused:
        open_fleet(tmp_path / "data", events, VAN_SCHEMA)
    assert len(refused.value.problems) == 14
    assert refused.value.problems[0].endswith(
        "van-0.csv, row 102, column speed: 'fast' is not a number (and 899 more rows)"
    )
    lines = str(refused.value).splitlines()
    assert len(lines) == 12
    assert lines[-1] == "and 4 more"
    assert str(pickle.loads(pickle.dumps(refused.value))) == str(refused.value)  # noqa: S301  (our own bytes)


def test_rows_keep_their_numbers_in_files_of_many_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistake far down is found by several small blocks in the same row, and by two processes as by one."""
    events = write_fleet_of(tmp_path)
    rows = drive(5000)
    rows[4321]["speed"] = -1
    rows[4400]["ts"] = rows[4399]["ts"]
    write_csv(tmp_path / "data" / "van-2.csv", rows)
    expected = ["row 4323, column speed: -1 is outside", "row 4402, column ts: "]
    with pytest.raises(OwnDataError) as refused:
        open_fleet(tmp_path / "data", events, VAN_SCHEMA, workers=2)
    monkeypatch.setattr("model.training.table_file.BLOCK_BYTES", 4096)
    one = problems_of(tmp_path)
    assert [problem.replace(f"{tmp_path}/", "") for problem in refused.value.problems] == one
    assert len(one) == 2
    assert all(part in problem for part, problem in zip(expected, one, strict=True))


def test_two_files_may_not_tell_of_the_same_time(tmp_path: Path) -> None:
    """The same vehicle twice, here as plain and as gzipped CSV, is refused with both files."""
    write_fleet_of(tmp_path)
    text = (tmp_path / "data" / "van-1.csv").read_bytes()
    (tmp_path / "data" / "van-1.csv.gz").write_bytes(gzip.compress(text))
    (problem,) = problems_of(tmp_path)
    assert "data/van-1.csv.gz: van-1 starts at 2026-07-06T00:00:00.000Z, before its end in data/van-1.csv" in problem
    (tmp_path / "data" / "van-1.csv").unlink()
    assert len(fleet_of(tmp_path).trace(1).ts_ms) == 10


def test_a_file_that_changes_after_the_check_is_refused(tmp_path: Path) -> None:
    """What was checked is what is trained on."""
    write_fleet_of(tmp_path)
    fleet = fleet_of(tmp_path)
    write_csv(tmp_path / "data" / "van-1.csv", drive(11))
    with pytest.raises(OwnDataError, match=r"van-1\.csv has changed since it was checked"):
        fleet.trace(1)


def test_other_files_are_named_and_left_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A note beside the recordings is only mentioned; the events file may lie among them; no file is an error."""
    write_fleet_of(tmp_path)
    (tmp_path / "data" / "NOTES.txt").write_text("summer")
    events = (tmp_path / "events.csv").rename(tmp_path / "data" / "events.csv")
    fleet = open_fleet(tmp_path / "data", events, VAN_SCHEMA)
    assert len(fleet) == 3
    assert "NOTES.txt" in caplog.text
    (tmp_path / "nothing").mkdir()
    with pytest.raises(OwnDataError, match="holds no file named"):
        open_fleet(tmp_path / "nothing", events, VAN_SCHEMA)


def test_the_split_is_by_vehicle_and_stays_when_vehicles_join(tmp_path: Path) -> None:
    """No vehicle is in both parts, a fifth is held back, and whoever joins moves nobody else."""
    write_fleet_of(tmp_path, vans=60, n=2)
    train_part, validation = split(fleet_of(tmp_path))
    names = [{vehicle.vehicle_id for vehicle in part.vehicles} for part in (train_part, validation)]
    assert not names[0] & names[1]
    assert len(names[0] | names[1]) == 60
    assert 5 <= len(names[1]) <= 20
    write_fleet_of(tmp_path, vans=80, n=2)
    _, later = split(fleet_of(tmp_path))
    assert names[1] == {v.vehicle_id for v in later.vehicles} & (names[0] | names[1])


def test_each_part_has_a_vehicle_with_an_event(tmp_path: Path) -> None:
    """With events of only two vehicles, wherever their hashes fall, training and validation have one each."""
    write_fleet_of(tmp_path, vans=12)
    names = sorted((f"van-{van}" for van in range(12)), key=hash_share)
    for pair in (names[:2], names[-2:], [names[0], names[-1]]):
        write_csv(tmp_path / "events.csv", [{"vehicle_id": v, "start": START_MS + 12 * MINUTE_MS} for v in pair])
        for part in split(fleet_of(tmp_path)):
            assert sum(bool(vehicle.events) for vehicle in part.vehicles) == 1


def test_too_few_events_are_refused_with_the_reason(tmp_path: Path) -> None:
    """One vehicle with events, or events far from all recordings, give a message that says what is missing."""
    write_fleet_of(tmp_path)
    write_csv(tmp_path / "events.csv", [{"vehicle_id": "van-1", "start": START_MS + 12 * MINUTE_MS}])
    with pytest.raises(OwnDataError, match="only van-1 of 3 vehicles has one"):
        recorded(tmp_path / "data", tmp_path / "events.csv")
    write_csv(tmp_path / "events.csv", [{"vehicle_id": "van-1", "start": START_MS + 3 * HORIZON_MS}])
    with pytest.raises(
        OwnDataError, match=r"events start from 2026-07-06T06:00:00\.000Z .* recordings run from 2026-07-06T00:00"
    ):
        recorded(tmp_path / "data", tmp_path / "events.csv")


FORKLIFT = ChannelSchema(
    signals=(
        Signal("lift_height", "m", 0.0, 12.0, "of the fork"),
        Signal("hydraulic_temperature", "degC", -40.0, 150.0, "of the oil"),
    ),
    channels=(
        Channel("height", "m", "lift_height"),
        Channel("oil", "degC", "hydraulic_temperature", core=False),
    ),
)


def test_another_fleets_schema_goes_all_the_way_to_the_service(tmp_path: Path) -> None:
    """Forklifts with channels of their own: checked, trained on, saved, loaded, and read from the wire."""
    (tmp_path / "channels.json").write_text(json.dumps(FORKLIFT.to_json()))
    rng = np.random.default_rng(0)
    for lift in range(3):
        rows = [
            {
                "ts": START_MS + i * 5_000,
                "lift_height": round(rng.uniform(0, 12), 3),
                "hydraulic_temperature": 60 + i / 100,
            }
            for i in range(200)
        ]
        write_csv(tmp_path / "data" / f"lift-{lift}.csv", rows)
    events = [
        {"vehicle_id": f"lift-{lift}", "start": START_MS + 150 * 5_000, "end": START_MS + 160 * 5_000}
        for lift in range(3)
    ]
    write_csv(tmp_path / "events.csv", events)
    data = recorded(tmp_path / "data", tmp_path / "events.csv", tmp_path / "channels.json")
    config = TrainingConfig(length=64, batch=2, pretrain_steps=1, finetune_steps=2, warmup_steps=1, validate_every=2)
    train(
        data, config, tmp_path / "model", ranks=Ranks(), workers=1,
        network={"d_model": 8, "n_layer": 1, "d_state": 4, "dt_rank": 2},
    )  # fmt: skip
    checkpoint = load_checkpoint(tmp_path / "model")
    assert checkpoint.schema == FORKLIFT
    lifts: list[object] = [{"ts": START_MS, "signals": {"lift_height": 3.5, "hydraulic_temperature": 71.0}}]
    decoded = Decoder(checkpoint.schema, max_samples=1, max_vehicles=1).rows(lifts, "lift-9")
    assert not decoded.errors
    assert 0.0 < risk_of(checkpoint, decoded.samples) < 1.0
    history = checkpoint.provenance["history"]
    assert history
    assert "NaN" not in (tmp_path / "model" / "model.json").read_text()


def risk_of(checkpoint: Checkpoint, samples: Samples) -> float:
    """What the service's runtime makes of a vehicle's first sample."""
    runtime, preprocessor = ModelRuntime(checkpoint, "reference", 4), checkpoint.preprocessor()
    features = preprocessor.advance(preprocessor.initial_state(1), samples.ts_ms, samples.signals)
    return float(runtime.step(np.array([1]), features).risk[0])


SCHEMAS = {
    "not JSON": ("{", "Expecting property name"),
    "no signals": ('{"channels": []}', "there is no member 'signals'"),
    "stray member": ({"signals.0.colour": "red"}, "unexpected keyword argument 'colour'"),
    "name taken": ({"signals.0.name": "ts", "channels.0.source": "ts"}, "signal ts: the name is taken"),
    "name of another kind": ({"channels.0.name": "my channel"}, "channel 'my channel': a name is letters"),
    "limits": ({"signals.0.minimum": 20.0}, "signal lift_height: minimum 20.0 is not below maximum 12.0"),
    "text for a number": ({"signals.0.maximum": "12"}, "minimum and maximum must be finite numbers"),
    "text for a switch": ({"channels.0.core": "yes"}, "channel height: per_interval, hold and core are true or false"),
    "missing source": ({"channels.0.source": "mast"}, "channel height reads mast, which is no signal"),
    "half a position": ({"signals.0.name": "latitude", "channels.0.source": "latitude"}, "latitude and longitude come"),
}


@pytest.mark.parametrize("case", SCHEMAS)
def test_a_bad_channel_schema_is_refused_with_the_reason(tmp_path: Path, case: str) -> None:
    """Each mistake in the JSON file is named; a good file comes back as it went."""
    path = tmp_path / "channels.json"
    path.write_text(json.dumps(FORKLIFT.to_json()))
    assert read_channels(path) == FORKLIFT
    change, expected = SCHEMAS[case]
    if isinstance(change, str):
        path.write_text(change)
    else:
        assert isinstance(change, dict)
        content = json.loads(json.dumps(asdict(FORKLIFT)))
        for place, value in change.items():
            part, number, name = place.split(".")
            content[part][int(number)][name] = value
        path.write_text(json.dumps(content))
    with pytest.raises(OwnDataError, match=re.escape(expected)):
        read_channels(path)


def test_prepared_data_are_not_taken_for_those_of_another_run(tmp_path: Path) -> None:
    """A second run into the same folder with changed recordings prepares them again, and does not resume over them."""
    config = TrainingConfig(length=16, batch=1, pretrain_steps=0, finetune_steps=1, warmup_steps=1)
    sizes = {"d_model": 8, "n_layer": 1, "d_state": 4, "dt_rank": 2}

    def run(*, resume: bool = False) -> Checkpoint:
        data = recorded(tmp_path / "data", tmp_path / "events.csv")
        return train(data, config, tmp_path / "model", ranks=Ranks(), workers=1, resume=resume, network=sizes)

    write_fleet_of(tmp_path, n=20)
    first = run()
    assert run().prior == first.prior
    rows = drive(20)
    write_csv(tmp_path / "data" / "van-1.csv", [{**row, "speed": 50.0} for row in rows])
    write_csv(tmp_path / "data" / "van-2.csv", [{**row, "speed": 60.0} for row in rows])
    with pytest.raises(ValueError, match="nothing of these data to resume from"):
        run(resume=True)
    assert run().prior != first.prior


def test_the_command_refuses_bad_data_with_code_2_and_writes_nothing(tmp_path: Path) -> None:
    """Bad data end the command before anything is written; half of the options is refused too."""
    write_fleet_of(tmp_path)
    rows = drive()
    rows[3]["speed"] = "[bold]fast"
    write_csv(tmp_path / "data" / "van-1.csv", rows)
    before = sorted(tmp_path.rglob("*"))
    out = ["train", "--out", str(tmp_path / "model")]
    given = ["--data", str(tmp_path / "data"), "--events", str(tmp_path / "events.csv")]
    result = CliRunner().invoke(app, [*out, *given])
    assert result.exit_code == 2
    assert "van-1.csv, row 5, column speed: '[bold]fast' is not a number" in result.stderr
    assert sorted(tmp_path.rglob("*")) == before
    for half in (given[:2], given[2:], ["--channels", str(tmp_path / "events.csv")]):
        assert CliRunner().invoke(app, [*out, *half]).exit_code == 2


def test_recordings_become_sequences_in_several_processes(tmp_path: Path) -> None:
    """The index travels to worker processes, which read the files themselves."""
    write_fleet_of(tmp_path, vans=4)
    train_part, _ = split(fleet_of(tmp_path))
    prior = fit_prior(train_part)
    preprocessor = Preprocessor(VAN_SCHEMA, prior, NOMINAL_INTERVAL_S)
    vans = range(len(train_part))
    one = build_sequences(train_part, preprocessor, vans, workers=1, folder=None)
    two = build_sequences(train_part, preprocessor, vans, workers=2, folder=None)
    np.testing.assert_array_equal(one.inputs, two.inputs)
    np.testing.assert_array_equal(one.label, two.label)
    assert one.vehicle_ids == two.vehicle_ids == tuple(vehicle.vehicle_id for vehicle in train_part.vehicles)
    assert one.label.any()


def test_vehicle_ids_are_those_of_the_service() -> None:
    """What may be trained on may be served."""
    assert f"^{VEHICLE_ID}$" == VEHICLE_ID_PATTERN
