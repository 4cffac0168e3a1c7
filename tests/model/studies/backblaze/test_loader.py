"""Files as Backblaze distributes them, read in two passes; what cannot be used is refused with its place."""

from pathlib import Path

import numpy as np
import pytest

from model.studies.backblaze.config import BackblazeConfig
from model.studies.backblaze.drives import NO_FAILURE
from model.studies.backblaze.loader import load
from model.training import table_file
from model.training.table_file import OwnDataError

from .made_up import FIRST, MODELS, failure_day, text_of, write_sample

DRIVES, DAYS = 36, 24


def test_zips_plain_and_gzipped_files_are_one_series(tmp_path: Path) -> None:
    """Every drive with its days in order, its failure, and absent columns as absent values."""
    drives = load(write_sample(tmp_path), BackblazeConfig())
    assert (drives.seen.files, drives.seen.drives, drives.seen.failures) == (DAYS, DRIVES, DRIVES // 2)
    assert (drives.first_date, drives.n_days) == (FIRST, DAYS)
    assert set(drives.models) == set(MODELS)
    assert drives.attributes == (5, 187, 197, 1, 9, 194)
    for i, serial in enumerate(drives.serials):
        end = failure_day(int(serial[1:]), DAYS)
        assert drives.failure_day[i] == (NO_FAILURE if end is None else end)
        days = drives.day[drives.starts[i] : drives.starts[i + 1]]
        assert days.tolist() == list(range(DAYS if end is None else end + 1))
    early = drives.day < DAYS // 2
    new = [drives.attributes.index(a) for a in (187, 194)]
    assert np.isnan(drives.values[early][:, new]).all()
    assert not np.isnan(drives.values[~early]).any()
    hours = np.expm1(drives.values[:, drives.attributes.index(9)])
    np.testing.assert_allclose(hours, 9_000 + 24 * drives.day, rtol=1e-5)


def test_failing_drives_are_kept_and_others_drawn(tmp_path: Path) -> None:
    """The draw depends on the seed and on the drives, not on anything else."""
    folder = write_sample(tmp_path)
    drawn = [set(load(folder, BackblazeConfig(healthy=5, seed=seed)).serials) for seed in (0, 0, 1)]
    failing = {f"Z{drive:04d}" for drive in range(0, DRIVES, 2)}
    assert all(failing < one and len(one) == len(failing) + 5 for one in drawn)
    assert drawn[0] == drawn[1] != drawn[2]


def test_small_blocks_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by blocks; where they end changes nothing."""
    folder = write_sample(tmp_path)
    whole = load(folder, BackblazeConfig())
    monkeypatch.setattr(table_file, "BLOCK_BYTES", 512)
    pieces = load(folder, BackblazeConfig())
    assert np.array_equal(whole.values, pieces.values, equal_nan=True)
    assert np.array_equal(whole.day, pieces.day)


def test_one_drive_model_only(tmp_path: Path) -> None:
    """The others are left out; one that is not there is an error."""
    folder = write_sample(tmp_path)
    assert set(load(folder, BackblazeConfig(drive_model=MODELS[1])).models) == {MODELS[1]}
    with pytest.raises(OwnDataError, match="no drives of drive model WD1"):
        load(folder, BackblazeConfig(drive_model="WD1"))


def test_rows_after_the_failure_are_left_out_and_counted(tmp_path: Path) -> None:
    """A drive that is said to have failed and still reports."""
    lines = text_of(0, 2, 5, ("smart_5_raw",)).splitlines()
    dead, well = lines[1].replace("2016,0,", "2016,1,"), lines[2]
    later = [line.replace("04-10", "04-11") for line in (lines[1], well)]
    (tmp_path / "a.csv").write_text("\n".join([lines[0], dead, well, *later]))
    drives = load(tmp_path, BackblazeConfig())
    assert drives.seen.after_failure == 1
    assert dict(zip(drives.serials, np.diff(drives.starts), strict=True)) == {"Z0000": 1, "Z0001": 2}


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (",0,", ",2,", "row 2, column failure: is neither 0 nor 1 (and 3 more rows)"),
        (",0,", ",yes,", "row 2, column failure: 'yes' is not a number (and 3 more rows)"),
        ("2013-04-10,Z0002", "10.4.2013,Z0002", "row 4, column date: '10.4.2013' is not a date such as 2013-04-10"),
        ("2013-04-10,Z0002", "2013-02-30,Z0002", "row 4, column date: '2013-02-30' is not a date such as 2013-04-10"),
        ("2013-04-10,Z0001", ",Z0001", "row 3, column date: is empty"),
        ("Z0001,", ",", "row 3, column serial_number: is empty"),
        ("9000", "9k", "row 2, column smart_9_raw: '9k' is not a number (and 3 more rows)"),
        ("9000", "-1", "row 2, column smart_9_raw: '-1' is negative (and 3 more rows)"),
        ("9000", "inf", "row 2, column smart_9_raw: 'inf' is not finite; leave absent values empty (and 3 more rows)"),
        ("Z0003", "Z0002", "row 5, column serial_number: ST3000DM001 Z0002 has that day already in"),
        (",9000", "", "row 2: has 5 cells, the header has 6"),
        ("serial_number", "serial", "there is no column serial_number"),
    ],
)
def test_bad_cells_are_refused_with_file_row_and_column(tmp_path: Path, old: str, new: str, reason: str) -> None:
    """Rows as a person counts them, the header being the first."""
    text = text_of(0, 4, 9, ("smart_9_raw",)).replace(MODELS[1], MODELS[0])
    (tmp_path / "2013-04-10.csv").write_text(text.replace(old, new))
    with pytest.raises(OwnDataError) as refused:
        load(tmp_path, BackblazeConfig())
    assert f"{tmp_path}/2013-04-10.csv" in str(refused.value)
    assert reason in str(refused.value)


def test_folders_without_drive_statistics_are_refused(tmp_path: Path) -> None:
    """Nothing there, no SMART column, no archive."""
    with pytest.raises(OwnDataError, match=r"no \.csv, \.csv\.gz or \.zip files"):
        load(tmp_path, BackblazeConfig())
    (tmp_path / "a.csv").write_text(text_of(0, 2, 9, ("smart_9_normalized",)))
    with pytest.raises(OwnDataError, match="no file has a column smart_5_raw"):
        load(tmp_path, BackblazeConfig())
    (tmp_path / "b.zip").write_bytes(b"PK")
    with pytest.raises(OwnDataError, match=r"b\.zip: cannot be read"):
        load(tmp_path, BackblazeConfig())
