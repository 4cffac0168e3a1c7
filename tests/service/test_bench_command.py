"""`emberwatch bench step` as a program reads it."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from model.channels import SIGNALS
from service.benchmark.bodies import BenchFleet
from service.benchmark.ingest_options import JOURNAL, WRITE_THROUGH, IngestOptions, settings_of
from service.benchmark.processes import Cores
from service.cli import app
from tests.processes import wait_until


def test_the_report_names_backends_batches_and_floors() -> None:
    """One JSON document; every row carries what the format promises."""
    options = ["--device", "cpu", "--batch", "1", "--rounds", "1", "--no-compile", "--no-scan", "--json"]
    result = CliRunner().invoke(app, ["bench", "step", *options])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["correct"] is True
    assert {row["params"]["backend"] for row in report["rows"]} >= {"torch eager", "reference"}
    for row in report["rows"]:
        assert row["name"] == "step_time"
        assert row["params"] | {"backend": ""} == {"backend": "", "device": "cpu", "batch": 1, "length": 1}
        assert row["value"] > 0
        assert row["floor"] > 0


def test_an_unknown_device_is_refused() -> None:
    """Exit code 2 and the choices."""
    result = CliRunner().invoke(app, ["bench", "step", "--device", "tpu"])
    assert result.exit_code == 2


def test_the_ingest_report_has_both_modes_side_by_side() -> None:
    """A small run, proved before and after: every promised row is there, and the journal is set beside write-through."""
    options = [
        "--vans",
        "8",
        "--batch",
        "3",
        "--rounds",
        "1",
        "--round-s",
        "0.1",
        "--connections",
        "4",
        "--in-flight",
        "1",
    ]
    result = CliRunner().invoke(app, ["bench", "ingest", *options, "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    rows = {(row["name"], row["params"]["mode"]): row for row in report["rows"] if row["name"] != "stage_time"}
    for name in ("ingest_throughput", "store_bytes_per_sample", "server_cpu_per_sample", "store_cpu_per_sample"):
        for mode in ("journal", "write-through"):
            row = rows[name, mode]
            assert 0 < row["lo"] <= row["value"] <= row["hi"]
            assert (row["params"]["vans"], row["params"]["batch"]) == (8, 3)
    for name in ("single_post_throughput", "server_cpu_per_single_post", "single_post_p99", "single_post_p50"):
        assert rows[name, "journal"]["value"] > 0
    assert rows["ingest_throughput", "journal"]["peer"] == "write-through"
    assert rows["store_bytes_per_sample", "journal"]["peer"] == "state"
    assert rows["store_bytes_per_sample", "journal"]["ratio"] > 1
    assert rows["step_cpu_per_sample", "journal"]["value"] > 0
    assert 0 < rows["step_share", "journal"]["value"] < 100
    assert rows["snapshots_per_1000_samples", "write-through"]["value"] == 0  # with the commit, not in the background
    stages = {row["params"]["stage"] for row in report["rows"] if row["name"] == "stage_time"}
    assert {"stage commit", "stage step", "http_request_duration /v1/telemetry"} <= stages


def test_a_fleet_goes_round_in_batches_of_any_size() -> None:
    """Each tick has every van once, in order, and the next tick's numbers follow."""
    fleet = BenchFleet.make("van", 8)
    for tick in range(2):
        bodies = [orjson.loads(request.partition(b"\r\n\r\n")[2])["columns"] for request in fleet.fleet_requests(3)]
        assert [name for body in bodies for name in body["vehicle_id"]] == fleet.names
        assert [len(body["vehicle_id"]) for body in bodies] == [3, 3, 2]
        assert {seq for body in bodies for seq in body["seq"]} == {tick}
        speeds = [speed for body in bodies for speed in body["speed"]]
        assert speeds == fleet.history[tick][:, SIGNALS.index("speed")].tolist()


def test_a_large_fleet_is_held_by_the_cache_unless_told_otherwise() -> None:
    """Room for all vans beside two batches; a number of slots or bytes of the caller's own stands."""
    large = IngestOptions(vans=5_000)
    assert settings_of(JOURNAL, large) == {"backend": "cpu", "slots": 5_513}
    assert large.batch_size == 1_000
    assert settings_of(JOURNAL, replace(large, settings={"backend": "cuda", "slots": 600}))["slots"] == 600
    assert "slots" not in settings_of(JOURNAL, replace(large, settings={"state_memory_bytes": 10**9}))
    assert settings_of(WRITE_THROUGH, IngestOptions()) == {"backend": "cpu", "snapshot_every": 1}


def test_service_and_store_share_cores_only_where_there_are_too_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last cores serve, the others carry store and client."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3, 4, 5, 6}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda *_: None, raising=False)
    assert str(Cores.choose(2)) == "service on cores 5, 6, store and client on 5 cores"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert str(Cores.choose()) == "service, store and client share the only core"


def test_an_unknown_mode_or_setting_is_refused() -> None:
    """Exit code 2 before anything is started."""
    for options in (["--mode", "fast"], ["--setting", "slots"]):
        assert CliRunner().invoke(app, ["bench", "ingest", *options]).exit_code == 2


def test_a_report_is_shown_and_what_is_none_is_refused(tmp_path: Path) -> None:
    """As Markdown with the command that made it; a row without a value is named by its number."""
    row: dict[str, object] = {
        "name": "ingest_throughput",
        "params": {"mode": "journal", "batch": 8},
        "unit": "samples/s",
    }
    row |= {"value": 19_200.0, "lo": 18_000.0, "hi": 20_000.0, "ratio": 11.9, "peer": "write-through"}
    report = {"commit": "abc", "date": "today", "device": "cpu", "command": "emberwatch bench ingest", "rows": [row]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    result = CliRunner().invoke(app, ["bench", "show", str(tmp_path / "report.json")])
    assert result.exit_code == 0, result.output
    assert "`emberwatch bench ingest` (commit abc, today; cpu)" in result.stdout
    line = "| ingest_throughput | journal batch=8 | 19,200 [18,000 to 20,000] | samples/s | 11.9 x write-through |"
    assert line in result.stdout
    (tmp_path / "broken.json").write_text(json.dumps(report | {"rows": [{"name": "x"}]}))
    result = CliRunner().invoke(app, ["bench", "show", str(tmp_path / "broken.json")])
    assert result.exit_code == 2
    assert "row 0" in result.output


def test_sigterm_ends_what_the_benchmark_started(tmp_path: Path) -> None:
    """The store, and a service that is about to come up, end with the command; its exit code is the signal's."""
    options = ["--vans", "2", "--rounds", "1", "--mode", JOURNAL, "--folder", str(tmp_path)]
    command = [sys.executable, "-m", "service.cli", "bench", "ingest", *options]
    bench = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        wait_until(lambda: len(children(bench.pid)) == 2 or bench.poll() is not None, "store and service")
        assert bench.poll() is None, bench.communicate()[1]
        started = children(bench.pid)
        bench.terminate()
        assert bench.wait(60) == 128 + signal.SIGTERM
        assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]
        assert not list(tmp_path.iterdir())
    finally:
        bench.kill()


def children(pid: int) -> list[str]:
    """Processes that a process has started and that are still there."""
    return [child for file in Path(f"/proc/{pid}/task").glob("*/children") for child in file.read_text().split()]
