"""Real logs and our own formats, read into wire units; bad files are refused with row and column."""

import gzip
from pathlib import Path

import numpy as np
import pytest

from model.channels import SIGNALS
from model.recordings import RecordingError, degrees_minutes, read_recording

COLUMN = {name: i for i, name in enumerate(SIGNALS)}


def test_the_leaf_drive_is_in_our_units(real_data: Path) -> None:
    """964 rows; distance from GPS agrees with the speed column, temperatures and charge are plausible."""
    drive = read_recording(real_data / "leaf" / "leafspy_2025-06-29.csv.gz", "leafspy")
    assert drive.signals.shape == (964, len(SIGNALS))
    assert (np.diff(drive.ts_ms) > 0).all()
    latitude, longitude = np.radians(drive.signals[:, 0]), np.radians(drive.signals[:, 1])
    metres = 6_371_000 * np.hypot(np.diff(latitude), np.diff(longitude) * np.cos(latitude[:-1]))
    driven = (drive.signals[:-1, COLUMN["speed"]] * np.diff(drive.ts_ms) / 1000).sum()
    assert driven == pytest.approx(metres.sum(), rel=0.05)
    assert drive.signals[0, COLUMN["state_of_charge"]] == pytest.approx(86.972)
    assert drive.signals[0, COLUMN["pack_temperature"]] == 35.1
    assert drive.signals[0, COLUMN["ambient_temperature"]] == pytest.approx(25.5)
    assert np.isnan(drive.signals[:, COLUMN["brake_events"]]).all()


def test_every_bmw_trip_reads(real_data: Path) -> None:
    """Discharge is positive, rows are a second apart, GPS and motor temperature are absent."""
    trips = sorted((real_data / "bmw_i3").glob("*.csv.gz"))
    assert len(trips) == 40
    for path in trips:
        trip = read_recording(path, "bmw-i3")
        charge = trip.signals[:, COLUMN["state_of_charge"]]
        charge = charge[~np.isnan(charge)]
        assert np.sign(np.nanmean(trip.signals[:, COLUMN["pack_current"]])) == np.sign(charge[0] - charge[-1])
        assert np.isnan(trip.signals[:, COLUMN["latitude"]]).all()


def test_degrees_and_minutes() -> None:
    """The sign of the degrees holds for the minutes too, also for minus zero."""
    assert degrees_minutes("-117 30.0") == -117.5
    assert degrees_minutes("34 15.0") == 34.25
    assert degrees_minutes("-0 30.0") == -0.5


def test_csv_and_parquet_give_the_same(tmp_path: Path) -> None:
    """Our own formats: absent is empty or null, time is RFC 3339 or milliseconds."""
    import pyarrow as pa  # noqa: PLC0415
    import pyarrow.parquet as pq  # noqa: PLC0415

    text = "ts,speed,motor_temperature\n2026-09-14T08:00:00Z,3.5,\n1789372805000,4,61.5\n"
    (tmp_path / "a.csv").write_text(text)
    with gzip.open(tmp_path / "a.csv.gz", "wt") as file:
        file.write(text)
    table = pa.table({"ts": [1789372800000, 1789372805000], "speed": [3.5, 4.0], "motor_temperature": [None, 61.5]})
    pq.write_table(table, tmp_path / "a.parquet")
    plain, zipped = read_recording(tmp_path / "a.csv", "csv"), read_recording(tmp_path / "a.csv.gz", "csv")
    parquet = read_recording(tmp_path / "a.parquet", "parquet")
    for other in (zipped, parquet):
        assert np.array_equal(plain.ts_ms, other.ts_ms)
        assert np.array_equal(plain.signals, other.signals, equal_nan=True)
    assert plain.signals[1, COLUMN["speed"]] == 4.0
    assert np.isnan(plain.signals[0, COLUMN["motor_temperature"]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ts,speed\n2026-09-14T08:00:00Z,fast\n", r"row 0, column 'speed': 'fast'"),
        ("ts,speed\n2026-09-14T08:00:00,1\n", r"row 0, column 'ts'.*no time zone"),
        ("ts,sped\n1789372800000,1\n", "unknown columns sped"),
        ("speed\n1\n", "missing columns ts"),
        ("ts,speed\n", "no rows"),
        ("ts,speed\n1789372800000\n1789372805000,x\n", r"row 1, column 'speed'"),
    ],
)
def test_bad_files_are_refused_by_row_and_column(tmp_path: Path, text: str, message: str) -> None:
    """The message says where to look."""
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(RecordingError, match=message):
        read_recording(tmp_path / "bad.csv", "csv")


def test_unknown_formats_and_files_are_refused(tmp_path: Path) -> None:
    """Choices are listed."""
    with pytest.raises(RecordingError, match="leafspy, bmw-i3, csv, parquet"):
        read_recording(tmp_path, "xls")
    with pytest.raises(RecordingError, match="is not a file"):
        read_recording(tmp_path / "none.csv", "csv")
