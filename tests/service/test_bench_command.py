"""`emberwatch bench step` as a program reads it."""

import json
from pathlib import Path

from typer.testing import CliRunner

from service.cli import app


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
    options = ["--vans", "8", "--rounds", "1", "--round-s", "0.1", "--connections", "4", "--in-flight", "1", "--json"]
    result = CliRunner().invoke(app, ["bench", "ingest", *options])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    rows = {(row["name"], row["params"]["mode"]): row for row in report["rows"] if row["name"] != "stage_time"}
    for name in ("ingest_throughput", "store_bytes_per_sample", "server_cpu_per_sample", "store_cpu_per_sample"):
        for mode in ("journal", "write-through"):
            row = rows[name, mode]
            assert 0 < row["lo"] <= row["value"] <= row["hi"]
            assert row["params"]["batch"] == 8
    for name in ("single_post_throughput", "server_cpu_per_single_post", "single_post_p99", "single_post_p50"):
        assert rows[name, "journal"]["value"] > 0
    assert rows["ingest_throughput", "journal"]["peer"] == "write-through"
    assert rows["store_bytes_per_sample", "journal"]["peer"] == "state"
    assert rows["store_bytes_per_sample", "journal"]["ratio"] > 1
    stages = {row["params"]["stage"] for row in report["rows"] if row["name"] == "stage_time"}
    assert {"stage commit", "stage step", "http_request_duration /v1/telemetry"} <= stages


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
