"""A fleet written to disk is the fleet, whoever wrote it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from model.fleet import FleetConfig, VehicleTrace, simulate
from model.fleet.parquet import TraceFileError, read_fleet, read_trace, write_fleet, write_trace
from model.recordings import read_recording

CONFIG = FleetConfig(n_vehicles=3, days=0.4, seed=9, faulty_share=1.0, fault_ramp_scale=0.05)


def assert_same(a: VehicleTrace, b: VehicleTrace) -> None:
    """Two traces agree in every field."""
    for name in VehicleTrace.__slots__:
        left, right = getattr(a, name), getattr(b, name)
        if isinstance(left, np.ndarray):
            assert left.dtype == right.dtype, name
            np.testing.assert_array_equal(left, right, err_msg=name)
        else:
            assert left == right, name


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    """Reading a folder gives the simulated traces, field by field and bit by bit."""
    write_fleet(CONFIG, tmp_path, processes=1)
    for trace, again in zip(simulate(CONFIG), read_fleet(tmp_path), strict=True):
        assert_same(trace, again)


def test_two_processes_write_the_same_bytes_as_one(tmp_path: Path) -> None:
    """The files do not depend on how many processes wrote them, and progress counts every van once."""
    seen: list[tuple[int, int]] = []
    one = write_fleet(CONFIG, tmp_path / "one", processes=1)
    two = write_fleet(CONFIG, tmp_path / "two", lambda done, of: seen.append((done, of)), processes=2)
    assert [path.name for path in one] == [path.name for path in two]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert {path.name for path in (tmp_path / "two").iterdir()} == {path.name for path in two}


def test_hidden_temperatures_may_stay_hidden(tmp_path: Path) -> None:
    """Without truth the file has no hidden column and the rest is unchanged."""
    (trace,) = simulate(FleetConfig(n_vehicles=1, days=0.1))
    write_trace(trace, tmp_path / "van.parquet", detail="labels")
    assert not any(name.startswith("true_") for name in pq.read_schema(tmp_path / "van.parquet").names)
    again = read_trace(tmp_path / "van.parquet")
    assert again.true_temperature.shape == (trace.ts_ms.size, 0)
    np.testing.assert_array_equal(again.signals, trace.signals)


def test_a_wire_only_file_is_a_recording_to_replay(tmp_path: Path) -> None:
    """At the least detail the file reads as any other recording, and not as a labelled trace."""
    (trace,) = simulate(FleetConfig(n_vehicles=1, days=0.02))
    path = tmp_path / "van.parquet"
    write_trace(trace, path, detail="wire")
    recording = read_recording(path, "parquet")
    np.testing.assert_array_equal(recording.ts_ms, trace.ts_ms)
    np.testing.assert_allclose(recording.signals, trace.signals, rtol=1e-6)
    with pytest.raises(TraceFileError, match="no labels"):
        read_trace(path)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    """A Parquet file without our metadata is not taken for a trace."""
    pq.write_table(pa.table({"ts": [1]}), tmp_path / "other.parquet")
    with pytest.raises(TraceFileError, match="not a trace"):
        read_trace(tmp_path / "other.parquet")


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    """No traces is not an empty fleet."""
    with pytest.raises(FileNotFoundError, match="no traces"):
        next(read_fleet(tmp_path))
