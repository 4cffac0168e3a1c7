"""`emberwatch study capacity --service`: days from the trend of a running service."""

from pathlib import Path

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from model.studies.capacity.day_file import read_history
from service.cli import app
from tests.processes import ServiceProcess

START_MS = 1_783_296_000_000  # 2026-07-06T00:00Z, a midnight


def test_days_of_a_running_service_are_kept(
    service: ServiceProcess, http: httpx.Client, vehicle: str, tmp_path: Path
) -> None:
    """Two days sent, two days written, beside those of an earlier run; the energy is that of the samples."""
    drives = [90 <= i % 288 < 110 for i in range(576)]
    charge = 90.0 + np.cumsum([-1.0 if d else (1.0 if 200 <= i % 288 < 220 else 0.0) for i, d in enumerate(drives)])
    for start in range(0, 576, 288):
        some = slice(start, start + 288)
        columns = {
            "ts": [START_MS + 300_000 * i + 1_000 for i in range(576)][some], "latitude": [48.1] * 288,
            "longitude": [0.1] * 288, "speed": [12.0 if d else 0.0 for d in drives][some],
            "state_of_charge": charge.tolist()[some],
        }  # fmt: skip
        sent = http.post(f"/v1/vehicles/{vehicle}/telemetry", json={"columns": columns}).json()
        assert sent["applied"] == 288
    command = [
        "study",
        "capacity",
        "--service",
        service.url,
        "--zone",
        "UTC",
        "--out",
        str(tmp_path),
        "--resamples",
        "10",
    ]
    for arguments in (command, [*command, "--history", str(tmp_path / "days.csv")]):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        days = read_history(tmp_path / "days.csv")
        ours = days.vehicle_id == vehicle
        assert days.day[ours].tolist() == [20_640, 20_641]
        # The trend holds what the model's channels hold: z-scores turned back, good to a few thousandths here.
        assert days.values["used_kwh"][ours].tolist() == pytest.approx([10.0, 10.0], abs=0.3)
        assert days.values["charged_kwh"][ours].tolist() == pytest.approx([10.0, 10.0], abs=0.3)
        assert days.values["distance_km"][ours].tolist() == pytest.approx([72.0, 72.0], rel=0.05)
        assert np.isfinite(days.values["risk_max"][ours]).all()
    assert "No forecast: there are" in (tmp_path / "report.md").read_text()


def test_a_service_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """Exit code 2."""
    result = CliRunner().invoke(app, ["study", "capacity", "--service", "http://127.0.0.1:9", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "no answer from http://127.0.0.1:9" in result.output
