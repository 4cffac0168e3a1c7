"""`emberwatch bench step` as a program reads it."""

import json

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
