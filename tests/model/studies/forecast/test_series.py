"""What is read of a file: times in every usual form, gaps, files of a folder; and what is refused, by row and column."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.studies.forecast.bars import COLUMNS, generated
from model.studies.forecast.scales import fit_scales
from model.studies.forecast.series import LONGEST_GAP, read_series
from model.training.table_file import OwnDataError

START = 1_325_412_060  # where a well-known file of minute bars begins
BARS = [(4.58, 4.6, 4.5, 4.55, 0.0), (4.55, 4.7, 4.55, 4.7, 3.5), (4.7, 4.7, 4.6, 4.62, 12.0)]
HEADER = "Timestamp,Open,High,Low,Close,Volume"


def bar_file(folder: Path, times: list[object]) -> Path:
    """Minute bars as they are distributed."""
    rows = [",".join([str(time), *map(str, bar)]) for time, bar in zip(times, BARS, strict=True)]
    file = folder / "bars.csv"
    file.write_text("\n".join([HEADER, *rows]) + "\n")
    return file


@pytest.mark.parametrize(
    "times",
    [
        [START, START + 60, START + 120],
        [f"{START}.0", f"{START + 60}.0", f"{START + 120}.0"],
        [1000 * START, 1000 * START + 60_000, 1000 * START + 120_000],
        ["2012-01-01 10:01:00", "2012-01-01 10:02:00", "2012-01-01 10:03:00"],
        ["2012-01-01T10:01:00Z", "2012-01-01T11:02:00+01:00", "2012-01-01T10:03:00Z"],
    ],
    ids=["seconds", "float-seconds", "milliseconds", "text", "zones"],
)
def test_minute_bars_are_known_by_their_columns(tmp_path: Path, times: list[object]) -> None:
    """Whatever the form of the time: one segment, a minute's step, logarithms of prices and log1p of the volume."""
    series = read_series(bar_file(tmp_path, times))
    assert series.names == ("Open", "High", "Low", "Close", "Volume")
    assert series.kinds == {"Open": "log", "High": "log", "Low": "log", "Close": "log", "Volume": "log1p"}
    assert series.step_s == pytest.approx(60.0)
    assert len(series.segments) == 1
    np.testing.assert_array_equal(series.segments[0].values, BARS)


def test_parquet_with_timestamps_is_read_too(tmp_path: Path) -> None:
    """Timestamps with or without a zone."""
    moments = [datetime(2012, 1, 1, 10, minute, tzinfo=UTC) for minute in (1, 2, 3)]
    for kind in (pa.timestamp("ns"), pa.timestamp("us", "UTC")):
        columns = {"ts": pa.array(moments, pa.timestamp("us", "UTC")).cast(kind), "pack": [1.0, None, 3.0]}
        pq.write_table(pa.table(columns), tmp_path / "log.parquet")
        series = read_series(tmp_path / "log.parquet")
        assert (series.names, series.kinds, series.step_s) == (("pack",), {}, 60.0)
        np.testing.assert_array_equal(series.segments[0].values[:, 0], [1.0, np.nan, 3.0])


def test_a_gap_is_masked_and_a_long_one_ends_the_segment(tmp_path: Path) -> None:
    """Rows that are not there are not made up."""
    seconds = [0, 1, 2, 5, 6, 6 + LONGEST_GAP, 7 + 2 * LONGEST_GAP, 8 + 2 * LONGEST_GAP]
    text = "\n".join(["time_s,a", *(f"{second},{second / 10}" for second in seconds)])
    (tmp_path / "log.csv").write_text(text + "\n")
    first, second = read_series(tmp_path / "log.csv").segments
    assert len(first.values) == 7 + LONGEST_GAP
    assert np.flatnonzero(~np.isnan(first.values[:, 0])).tolist() == [0, 1, 2, 5, 6, 6 + LONGEST_GAP]
    np.testing.assert_allclose(second.values[:, 0], [12.7, 12.8])


def test_a_drifting_clock_does_not_add_up(tmp_path: Path) -> None:
    """Each row goes on from the row before, so a step that is not quite the stated one leaves no holes."""
    text = "\n".join(["time_s,a", *(f"{5.13 * i:.2f},{i}" for i in range(200))])
    (tmp_path / "log.csv").write_text(text + "\n")
    (segment,) = read_series(tmp_path / "log.csv", step_s=5.0).segments
    np.testing.assert_array_equal(segment.values[:, 0], np.arange(200.0))


def test_files_of_a_folder_follow_each_other_by_name(tmp_path: Path) -> None:
    """Trips of the layout of a BMW i3's log, of which some columns are wanted."""
    for trip, offset in (("TripB02.csv", 20), ("TripA01.csv", 10)):
        rows = [f"{second},{30 + second},{-5.5},{offset}" for second in range(3)]
        header = "time_s,speed_kmh,pack_current_a,pack_temperature_c"
        (tmp_path / trip).write_text("\n".join([header, *rows]) + "\n")
    series = read_series(tmp_path, ("pack_temperature_c", "speed_kmh"))
    assert series.sources == ("TripA01.csv", "TripB02.csv")
    np.testing.assert_array_equal([segment.values[0] for segment in series.segments], [[10.0, 30.0], [20.0, 30.0]])
    (tmp_path / "TripC.csv").write_text("time_s,speed_kmh\n0,1\n1,2\n")
    with pytest.raises(OwnDataError, match=r"TripC.csv: there is no column pack_temperature_c"):
        read_series(tmp_path, ("pack_temperature_c", "speed_kmh"))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (f"{START + 60},4.6,4.7,4.5,x,1", "row 3, column Close: 'x' is not a number"),
        (f"{START + 60},4.6,4.5,4.4,4.4,1", "row 3, column High: 4.5 is below 4.6"),
        (f"{START + 60},4.6,4.7,4.65,4.7,1", "row 3, column Low: 4.65 is above 4.6"),
        (f"{START + 60},0,4.7,0,4.7,1", "row 3, column Open: 0 has no log: it must be above 0"),
        (f"{START + 60},4.6,4.7,4.5,4.6,-1", "row 3, column Volume: -1 has no log1p: it must be at least 0"),
        (f"{START},4.6,4.7,4.5,4.6,1", "row 3, column Timestamp: is not later than the row before"),
        (f"{START + 10},4.6,4.7,4.5,4.6,1", "row 3, column Timestamp: is 10 s after the row before"),
        (",4.6,4.7,4.5,4.6,1", "row 3, column Timestamp: there is no time"),
        ("yesterday,4.6,4.7,4.5,4.6,1", "row 3, column Timestamp: 'yesterday' is not a number"),
        (f"{START + 60},4.6,4.7", "row 3: has 3 cells, the header has 6"),
        (f"{START + 60},4.6,inf,4.5,4.6,1", "row 3, column High: 'inf' is not finite"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(tmp_path: Path, row: str, reason: str) -> None:
    """With its number as a person counts, its column and why."""
    first, *rest = (f"{START + 60 * i},4.58,4.6,4.5,4.55,2" for i in (0, 2, 3, 4))
    (tmp_path / "bars.csv").write_text("\n".join([HEADER, first, row, *rest]) + "\n")
    with pytest.raises(OwnDataError, match="bars.csv, " + reason):
        read_series(tmp_path / "bars.csv")


def test_a_date_that_is_none_is_named(tmp_path: Path) -> None:
    """A day first or a month in words is not guessed at."""
    times = ["2012-01-01 10:01:00", "2012-01-01 10:02:00", "01.01.2012 10:03"]
    with pytest.raises(OwnDataError, match=r"row 4, column Timestamp: '01.01.2012 10:03' is not an ISO 8601 time"):
        read_series(bar_file(tmp_path, list(times)))


def test_what_the_columns_lack_is_named(tmp_path: Path) -> None:
    """A time, a feature that was asked for, any file at all."""
    file = tmp_path / "log.csv"
    file.write_text("when,a\n0,1\n1,2\n")
    with pytest.raises(OwnDataError, match="no column is named like a time; name it with --time"):
        read_series(file)
    assert read_series(file, time="when").names == ("a",)
    with pytest.raises(OwnDataError, match="there is no column aa; did you mean a"):
        read_series(file, ("aa",), time="when")
    with pytest.raises(OwnDataError, match="there is no CSV or Parquet file"):
        read_series(tmp_path / "nothing.csv")


def test_generated_bars_are_bars_and_repeat_by_seed() -> None:
    """Each spans its open and close, opens where the last one closed, and the same seed gives the same market."""
    bars = generated(500, seed=3)
    open_, high, low, close, volume = bars.T
    assert bars.shape == (500, len(COLUMNS))
    assert (high >= np.maximum(open_, close)).all()
    assert (low <= np.minimum(open_, close)).all()
    assert (volume > 0).all()
    np.testing.assert_allclose(open_[1:], close[:-1])
    np.testing.assert_array_equal(bars, generated(500, seed=3))
    assert not np.array_equal(bars, generated(500, seed=4))


def test_scales_are_undone_and_a_constant_is_refused() -> None:
    """Z-scores of logarithms go back to the values; a feature that never changes has none."""
    values = generated(200, seed=0)
    kinds = {**dict.fromkeys(COLUMNS[:4], "log"), "volume": "log1p"}
    scales = fit_scales([values[:100], values[100:150]], COLUMNS, kinds)
    z = scales.z(values)
    np.testing.assert_allclose(scales.values(z), values)
    np.testing.assert_allclose(z[:150].mean(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(z[:150, 4].std(), 1.0)
    values[:, 2] = 7.0
    with pytest.raises(ValueError, match="low never changes in the training part"):
        fit_scales([values], COLUMNS, kinds)
