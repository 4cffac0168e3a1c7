"""`emberwatch evaluate` as typed: its exit codes and what it leaves behind."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from kernels import MambaConfig
from model.channels import VAN_SCHEMA
from model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint, store_calibration
from model.network import RiskNetwork
from model.normaliser import FleetPrior
from model.scoring import Calibration
from service.cli import app
from service.cli.evaluate_alerts import alert_rule
from service.settings import Settings

CONFIG = MambaConfig(d_input=VAN_SCHEMA.d_input, n_channels=len(VAN_SCHEMA.channels), d_model=16, n_layer=1, d_state=4)
QUICK = ("--quick", "--vans", "3", "--days", "0.1", "--workers", "0", "--resamples", "100")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small untrained model on disk."""
    torch.manual_seed(0)
    n = len(VAN_SCHEMA.channels)
    folder = tmp_path_factory.mktemp("checkpoint")
    prior = FleetPrior((1.0,) * n, (20.0,) * n)
    save_checkpoint(Checkpoint(RiskNetwork(CONFIG), VAN_SCHEMA, prior, Calibration(), warmup_samples=60), folder)
    return folder


def run(checkpoint: Path, out: Path, *options: str) -> Result:
    """Quick evaluation of the small model."""
    return CliRunner().invoke(app, ["evaluate", *QUICK, "--checkpoint", str(checkpoint), "--out", str(out), *options])


@pytest.fixture(scope="module")
def report(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What it writes when there is nothing to compare with, as if it had been of the test split."""
    out = tmp_path_factory.mktemp("report")
    result = run(checkpoint, out)
    assert result.exit_code == 2
    assert "nothing to compare with" in result.output
    assert "temperature_rule" in result.output  # left out, aloud
    data: dict[str, Any] = json.loads((out / "report.json").read_text())
    for row in data["rows"]:
        row["params"]["split"] = "test"
    return data


def published(data: dict[str, Any], folder: Path) -> tuple[str, str]:
    """The option that holds a run against this report."""
    file = folder / "published.json"
    file.write_text(json.dumps(data))
    return "--published", str(file)


def test_the_report_has_the_projects_format(report: dict[str, Any]) -> None:
    """Commit, date, device, command, and rows with name, params, value, unit and interval."""
    assert {"commit", "date", "device", "command", "rows"} <= set(report)
    assert {"name", "params", "value", "unit", "lo", "hi"} <= set(report["rows"][0])
    assert {row["params"]["channels"] for row in report["rows"]} == {6, 9}


def test_the_same_figures_agree(checkpoint: Path, report: dict[str, Any], tmp_path: Path) -> None:
    """Exit code 0, and --json says so for every figure that a fleet without events can show."""
    result = run(checkpoint, tmp_path / "out", *published(report, tmp_path), "--json")
    assert result.exit_code == 0, result.output
    agreement = json.loads(result.stdout)["agreement"]
    assert agreement
    assert {figure["agrees"] for figure in agreement} == {True, None}


def test_a_figure_outside_the_published_interval_is_exit_code_1(
    checkpoint: Path, report: dict[str, Any], tmp_path: Path
) -> None:
    """One calibration error that was published much better than it is."""
    better = json.loads(json.dumps(report))
    for row in better["rows"]:
        if row["name"] == "ece" and row["params"]["channels"] == 9:
            row["value"], row["small_lo"], row["small_hi"] = -1.0, -1.1, -0.9
    result = run(checkpoint, tmp_path / "out", *published(better, tmp_path))
    assert result.exit_code == 1, result.output
    assert "1 of 4 figures disagree" in result.output


def test_the_report_of_another_model_is_no_reference(checkpoint: Path, report: dict[str, Any], tmp_path: Path) -> None:
    """Compared by fingerprint, not by hope."""
    result = run(checkpoint, tmp_path / "out", *published(report | {"fingerprints": {"mamba": "ab"}}, tmp_path))
    assert result.exit_code == 2
    assert "another model" in result.output


@pytest.mark.parametrize("options", [("--scorers", "oracel"), ("--scorers", "lstm"), ("--checkpoint", "/nowhere")])
def test_what_cannot_be_done_is_exit_code_2(checkpoint: Path, tmp_path: Path, options: tuple[str, str]) -> None:
    """An unknown model, one without weights, no checkpoint: said in one line, without a traceback."""
    result = run(checkpoint, tmp_path, *options)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


def test_a_stored_operating_point_leaves_the_fingerprint(checkpoint: Path) -> None:
    """The states of a fleet survive a new threshold."""
    before = load_checkpoint(checkpoint)
    calibration = Calibration(1.5, -0.5, 0.4, 0.2, 0.3)
    store_calibration(checkpoint, calibration)
    after = load_checkpoint(checkpoint)
    assert after.calibration == calibration
    assert after.fingerprint() == before.fingerprint()
    store_calibration(checkpoint, before.calibration)


def test_alerts_alone_are_judged_by_the_services_machine(checkpoint: Path) -> None:
    """A model that never alarms misses its events, which the exit code says; the figures are of the alerts."""
    few = ("--vans", "2", "--days", "0.1", "--workers", "0", "--resamples", "100", "--json")
    result = CliRunner().invoke(app, ["evaluate", "--alerts", "--checkpoint", str(checkpoint), *few])
    assert result.exit_code in {0, 1}, result.output
    assert "false_alarms_per_vehicle_day" in result.output


def test_the_rule_of_alerts_is_that_of_the_settings() -> None:
    """Times from the settings of the service, as it would start."""
    rule = alert_rule(Settings(alert_for_s=7.0, stale_after_s=90.0), 3, 60.0)
    assert (rule.for_ms, rule.keep_firing_ms, rule.stale_after_ms) == (7_000, 300_000, 90_000)
    assert (rule.warmup_samples, rule.horizon_ms) == (3, 60_000)
