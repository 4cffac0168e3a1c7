"""The study as a whole on a tiny sample in the layouts that it reads, and what it refuses."""

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from model.checkpoint import load_checkpoint
from model.evaluation.mamba import MambaScorer
from model.fleet import FleetConfig, simulate_vehicle
from model.fleet.parquet import write_fleet
from model.scoring import Calibration
from model.studies.capacity.day_file import read_history, read_packs, write_days
from model.studies.capacity.day_table import COLUMNS, merged, table_of
from model.studies.capacity.depots import home_of, name_depots
from model.studies.capacity.local_days import iso_day, nautical, weekday
from model.studies.capacity.recorded_days import read_days
from model.studies.capacity.trend_days import fired_by_van, trend_days
from service.cli import app
from tests.model.studies.capacity.test_panel import made_up_days

DAY_MS = 86_400_000
MONDAY_MS = 20_640 * DAY_MS  # 2026-07-06T00:00Z
STEP_MS = 300_000


def record(folder: Path, vans: int, days: int, seed: int = 5) -> None:
    """A Parquet file for each van, a sample each five minutes: drives by day but on Sundays, charges in the evening."""
    folder.mkdir()
    ts_ms = MONDAY_MS + STEP_MS * np.arange(days * 288)
    day, hour = (ts_ms - MONDAY_MS) // DAY_MS, (ts_ms % DAY_MS) / 3_600_000
    for van in range(vans):
        rng = np.random.default_rng((seed, van))
        hours = np.where(np.array([weekday(20_640 + d) for d in range(days)]) < 6, rng.uniform(1.5, 3.5, days), 0.0)
        drives = (hour >= 8.0) & (hour < 8.0 + hours[day])
        charges = (hour >= 18.0) & (hour < 18.0 + hours[day])
        charge = 95.0 + np.cumsum((1.0 + 0.2 * van) * (charges.astype(float) - drives))
        columns = {
            "ts": pa.array(ts_ms, pa.timestamp("ms", tz="UTC")),
            "latitude": 48.1 + 0.1 * drives, "longitude": np.full(len(ts_ms), 0.1),
            "speed": np.where(drives, 11.0, 0.0), "state_of_charge": charge,
            "motor_temperature": np.where(drives, rng.uniform(60.0, 85.0, days)[day], 25.0),
            "pack_temperature": np.where(drives | charges, rng.uniform(30.0, 40.0, days)[day], 25.0),
        }  # fmt: skip
        pq.write_table(pa.table(columns), folder / f"van-{van:02d}.parquet")


@pytest.mark.parametrize("source", ["--data", "--history"])
def test_the_command_reports_on_a_tiny_sample(tmp_path: Path, source: str) -> None:
    """From telemetry and from days: Markdown, JSON, plots, days; data, splits, seeds, intervals and who won are said."""
    if source == "--data":
        record(tmp_path / "given", vans=6, days=42)
    else:
        write_days(made_up_days(np.random.default_rng(0), 10, 44), tmp_path / "given")
        (tmp_path / "given").rename(tmp_path / "given.csv")
    given = tmp_path / ("given" if source == "--data" else "given.csv")
    arguments = ["study", "capacity", source, str(given), "--out", str(tmp_path / "out"), "--least-hours", "4"]
    short = ["--test-days", "8", "--calibration-days", "8", "--resamples", "20", "--workers", "1"]
    result = CliRunner().invoke(app, [*arguments, *short])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {"days.csv", "fleet_days.csv", "report.md", "depots.svg", "days.svg", "skill.svg", "fleet.svg"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert set(report["splits"]) == {"learned", "calibrated", "judged"}
    assert report["seeds"] == {"trees": 0, "resamples": 20260706}
    assert len(report["verdicts"]) == 10
    ahead = {
        (row["params"]["depot"], row["params"]["horizon_days"]): row
        for row in report["rows"]
        if row["name"] == "forecast_depot_energy"
    }
    for horizon in (1, 7):
        depots = [row for (depot, days), row in ahead.items() if days == horizon and depot != "fleet"]
        fleet = ahead["fleet", horizon]
        assert fleet["value"] == pytest.approx(sum(row["value"] for row in depots), abs=1e-3)
        assert fleet["lo"] <= fleet["value"] <= fleet["hi"]
        assert fleet["hi"] - fleet["lo"] < sum(row["hi"] - row["lo"] for row in depots) + 1e-6
    page = (tmp_path / "out" / "report.md").read_text()
    for part in (
        "## Who won",
        "## What the depots need",
        "## Which vans will be hot",
        "## How good",
        "## What the figures mean",
    ):
        assert part in page


def test_too_few_days_give_days_and_no_forecast(tmp_path: Path) -> None:
    """And the report says how many it takes; the next run adds to the days of this one."""
    record(tmp_path / "data", vans=2, days=3)
    command = ["study", "capacity", "--least-hours", "4", "--workers", "1", "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, [*command, "--data", str(tmp_path / "data")]).exit_code == 0
    assert "there are 3 days; forecasts take 49" in (tmp_path / "out" / "report.md").read_text()
    earlier = tmp_path / "earlier.csv"
    write_days(made_up_days(np.random.default_rng(0), 2, 10, lost=0.0), earlier)
    result = CliRunner().invoke(app, [*command, "--data", str(tmp_path / "data"), "--history", str(earlier)])
    assert result.exit_code == 0, result.output
    found = read_history(tmp_path / "out" / "days.csv")
    assert len(found) == 20
    # Telemetry of a sample each five minutes covers a fifth of its days; those of the history are fuller and count.
    assert (found.values["covered_h"] == 24.0).all()


def test_days_of_recordings_are_in_kwh_kilometres_and_minutes(tmp_path: Path) -> None:
    """Against what the recordings were made of."""
    record(tmp_path / "data", vans=2, days=8)
    vehicles = read_days(tmp_path / "data", zone="UTC", risk_days=0, workers=1)
    table = table_of(vehicles, {"van-01": 80.0}, 40.0)
    for van, pack_kwh, percent in (("van-00", 40.0, 1.0), ("van-01", 80.0, 1.2)):
        for day in range(8):
            source = pq.read_table(tmp_path / "data" / f"{van}.parquet").to_pydict()
            here = [i for i, ts in enumerate(source["ts"]) if ts.date().isoformat() == iso_day(20_640 + day)]
            drives = [i for i in here if source["speed"][i] > 0.0]
            row = int(np.flatnonzero((table.vehicle_id == van) & (table.day == 20_640 + day))[0])
            values = {name: column[row] for name, column in table.values.items()}
            assert values["samples"] == 288
            assert values["used_kwh"] == pytest.approx(len(drives) * percent * pack_kwh / 100.0)
            assert values["depot_kwh"] == pytest.approx(values["charged_kwh"]) == pytest.approx(values["used_kwh"])
            assert values["distance_km"] == pytest.approx(
                len(drives) * 11.0 * 60.0 / 1_000.0
            )  # a value stands for a minute
            assert values["motor_min_70"] == sum(source["motor_temperature"][i] >= 70.0 for i in here)
            assert values["pack_min_35"] == sum(source["pack_temperature"][i] >= 35.0 for i in here)
    assert set(table.depot.tolist()) == {"48.10 0.10"}


def test_the_simulators_files_are_read_as_they_are(tmp_path: Path) -> None:
    """With the risk of the product's model, which is that of a whole trace at once."""
    config = FleetConfig(n_vehicles=1, days=0.05, seed=3)
    write_fleet(config, tmp_path, processes=1, detail="wire")
    (vehicle,) = read_days(tmp_path, zone="UTC", risk_days=None, workers=1)
    trace = simulate_vehicle(config, 0)
    assert vehicle.days["samples"].sum() == len(trace.ts_ms)
    calibration: Calibration = load_checkpoint().calibration
    (score,) = MambaScorer(load_checkpoint()).score([trace])
    risk, (day,) = calibration.risk(score), vehicle.risk.values()
    # The histogram's bins are 1/64 of a logit wide: 1.6 % of small risks.
    assert day.highest == pytest.approx(risk.max(), rel=1e-3)
    assert day.median == pytest.approx(np.median(risk), rel=0.02)
    assert day.high == pytest.approx(np.quantile(risk, 0.95), rel=0.02)
    assert day.alerts == 0


def test_only_the_last_days_are_scored_where_that_was_asked(tmp_path: Path) -> None:
    """From a zero state two days before them: what lies further back changes nothing."""
    record(tmp_path / "data", vans=1, days=6)
    (vehicle,) = read_days(tmp_path / "data", zone="UTC", risk_days=2, workers=1)
    assert list(vehicle.risk) == [20_644, 20_645]
    table = pq.read_table(tmp_path / "data" / "van-00.parquet")
    pq.write_table(table.slice(2 * 288), tmp_path / "data" / "van-00.parquet")
    (shorter,) = read_days(tmp_path / "data", zone="UTC", risk_days=None, workers=1)
    assert {day: shorter.risk[day] for day in vehicle.risk} == vehicle.risk


def test_bad_recordings_are_refused_with_file_row_and_column(tmp_path: Path) -> None:
    """Exit code 2 and one message; repeated and late rows are no fault, and are counted."""
    lines = ["ts,speed,state_of_charge", "2026-07-06T00:00:00Z,1.0,50", "2026-07-06T00:00:05Z,fast,50"]
    (tmp_path / "van-1.csv").write_text("\n".join(lines) + "\n")
    result = CliRunner().invoke(app, ["study", "capacity", "--data", str(tmp_path), "--workers", "1"])
    assert result.exit_code == 2
    assert "van-1.csv, row 3, column speed: 'fast' is not a number" in result.output.replace("\n", "")
    lines[2:] = ["2026-07-06T00:00:05Z,1,50", "2026-07-06T00:00:05Z,1,50", "2026-07-06T00:00:01Z,1,50"]
    (tmp_path / "van-1.csv").write_text("\n".join(lines) + "\n")
    (vehicle,) = read_days(tmp_path, zone=None, risk_days=0, workers=1)
    assert vehicle.days["dropped"].tolist() == [2]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"used_kwh": "much"}, "row 3, column used_kwh: 'much' is not a number"),
        ({"covered_h": "26"}, "row 3, column covered_h: 26 is outside"),
        ({"covered_h": ""}, "row 3, column covered_h: is empty"),
        ({"date": "06.07.2026"}, "row 3, column date: '06.07.2026' is not a date"),
        ({"vehicle_id": "van 1"}, "row 3, column vehicle_id: 'van 1' does not fit"),
        ({"date": "2026-07-06"}, "a van has the same date twice"),
    ],
)
def test_a_bad_history_is_refused_with_file_row_and_column(tmp_path: Path, change: dict[str, str], said: str) -> None:
    """One cell is enough."""
    rows = [{"vehicle_id": "v1", "date": f"2026-07-0{d}", "covered_h": "24", "used_kwh": "9"} for d in (6, 7)]
    rows[1] |= change
    with (tmp_path / "days.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(ValueError, match=r"days\.csv") as error:
        read_history(tmp_path / "days.csv")
    assert said in str(error.value)


def test_bad_packs_and_settings_are_refused(tmp_path: Path) -> None:
    """With what is wrong."""
    (tmp_path / "packs.csv").write_text("vehicle_id,pack_kwh\nvan-1,40\nvan-2,\n")
    with pytest.raises(ValueError, match=r"packs.csv, row 3, column pack_kwh: is empty"):
        read_packs(tmp_path / "packs.csv")
    record(tmp_path / "data", vans=1, days=1)
    data = ["--data", str(tmp_path / "data")]
    for options, said in (
        (["--zone", "Mars/Olympus", *data], "Mars/Olympus"),
        (["--pack-kwh", "0", *data], "1 to 2,000 kWh"),
        ([], "give --data"),
    ):
        result = CliRunner().invoke(app, ["study", "capacity", "--out", str(tmp_path / "out"), *options])
        assert result.exit_code == 2
        assert said in result.output


def test_a_table_survives_its_file(tmp_path: Path) -> None:
    """What is not known stays so."""
    table = made_up_days(np.random.default_rng(1), 3, 9)
    write_days(table, tmp_path / "days.csv")
    found = read_history(tmp_path / "days.csv")
    assert found.vans == table.vans
    assert found.depot.tolist() == table.depot.tolist()
    for name in COLUMNS:
        np.testing.assert_allclose(found.values[name], table.values[name], atol=1e-6)
    assert len(merged([table, found])) == len(table)


def trend_of(ts_ms: list[int], phases: list[str], **values: list[float | None]) -> dict[str, object]:
    """An answer of the service, a row for each bin."""
    n = len(ts_ms)
    columns = {"ts_ms": ts_ms, "samples": [60] * n, "risk": [0.1] * n, "risk_max": [0.2] * n, "phase": phases}
    place = {"latitude": [48.1] * n, "longitude": [11.5] * n}
    return {"vehicle_id": "van-1", "resolution_s": 300, "columns": columns | place | {"values": values}}


def test_the_services_trend_becomes_days() -> None:
    """Energy, distance, risk and alerts of bins of five minutes; what is no trend is refused by column."""
    n = 576
    ts_ms = [MONDAY_MS + STEP_MS * i for i in range(n)]
    drives = [96 <= i % 288 < 120 for i in range(n)]
    charge = np.cumsum([-1.0 if d else (0.5 if 200 <= i % 288 < 240 else 0.0) for i, d in enumerate(drives)]) + 80.0
    phases = ["firing" if 100 <= i < 110 or i == 400 else "inactive" for i in range(n)]
    trend = trend_of(ts_ms, phases, speed=[10.0 if d else 0.0 for d in drives], state_of_charge=charge.tolist())
    alerts = [{"rule": "thermal_risk", "vehicle_id": "van-1", "fired_ms": ts_ms[400] + 1_000},
              {"rule": "thermal_risk", "vehicle_id": "van-1", "fired_ms": ts_ms[300] + 1_000}]  # fmt: skip
    found = trend_days(trend, fired_by_van(alerts)["van-1"], nautical(0.0))
    assert found.days["used_percent"].tolist() == pytest.approx([24.0, 24.0])
    assert found.days["charged_percent"].tolist() == pytest.approx([20.0, 20.0])
    assert found.days["distance_m"].tolist() == pytest.approx([72_000.0, 72_000.0])
    assert found.days["covered_s"].tolist() == pytest.approx([86_400.0, 86_100.0])
    assert [day.alerts for day in found.risk.values()] == [1, 2]
    assert found.risk[20_640].highest == 0.2
    assert trend_days(trend, (), None).zone == "UTC+1"
    del trend["columns"]["phase"]  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="the trend of van-1, column phase"):
        trend_days(trend, (), None)
    with pytest.raises(ValueError, match="this is no alert"):
        fired_by_van([{"rule": "thermal_risk", "fired_ms": 1}])


def test_a_home_is_where_a_van_charges_longest() -> None:
    """Not where it charges most often; homes near one another share a depot."""
    charges = np.zeros(4, [("start_ms", "<i8"), ("end_ms", "<i8"), ("latitude", "<f8"), ("longitude", "<f8")])
    charges["end_ms"] = [36_000, 2_000, 2_000, 2_000]
    charges["latitude"], charges["longitude"] = [48.0, 48.5, 48.5, 48.5], 11.0
    assert home_of(charges) == (48.0, 11.0)
    charges["latitude"] = np.nan
    assert home_of(charges) is None
    assert name_depots([(48.0, 11.0), (48.01, 11.0), None, (49.0, 11.0)]) == [
        "48.00 11.00",
        "48.00 11.00",
        "-",
        "49.00 11.00",
    ]
