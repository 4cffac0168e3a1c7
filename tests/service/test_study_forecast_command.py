"""`emberwatch study forecast` as typed, on a small file of minute bars as they are distributed."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from model.studies.forecast.bars import generated
from service.cli import app

ROWS = 10_800  # enough blocks in the test part for intervals
MODELS = ["persistence", "autoregression", "mamba2", "transformer"]


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Minute bars in a CSV file, with a hole of ten minutes."""
    lines = [
        f"{1_736_121_600 + 60 * i},{','.join(f'{x:.6f}' for x in bar)}" for i, bar in enumerate(generated(ROWS, 1))
    ]
    del lines[500:510]
    file = tmp_path_factory.mktemp("bars") / "btcusd_1-min.csv"
    file.write_text("\n".join(["Timestamp,Open,High,Low,Close,Volume", *lines]) + "\n")
    return file


def run(out: Path, *options: str) -> Result:
    """Two steps of training on short windows."""
    small = ("--steps", "2", "--context", "128", "--horizons", "1,5", "--resamples", "40")
    return CliRunner().invoke(app, ["study", "forecast", *small, "--out", str(out), *options])


def test_a_small_file_gives_a_whole_report(bars: Path, tmp_path: Path) -> None:
    """Data, splits, seeds, every figure of every contender with its interval, plots, and who won."""
    result = run(tmp_path, "--data", str(bars))
    assert result.exit_code == 0, result.output
    data = json.loads((tmp_path / "report.json").read_text())
    assert data["data"]["rows on the grid"] == ROWS
    assert [split["rows"] for split in data["splits"].values()] == [6_480, 1_620, 2_700]
    assert len(data["verdicts"]) == 2
    found = {
        (r["name"], r["params"].get("model"), r["params"].get("feature"), r["params"].get("steps")): r
        for r in data["rows"]
    }
    for model in MODELS:
        for feature in ("Open", "High", "Low", "Close", "Volume"):
            for steps in (1, 5):
                for name in ("skill", "mse", "rmse", "mae", "mape", "r2"):
                    figure = found[name, model, feature, steps]
                    assert figure["lo"] <= figure["hi"]
    assert found["skill", "persistence", "Close", 5]["value"] == 0.0
    assert found["r2", "persistence", "Close", 1]["value"] > 0.9  # which is why the headline is skill
    page = (tmp_path / "report.md").read_text()
    assert "an R2 near one says that a series is smooth, not that it was\nforecast" in page
    assert {file.name for file in tmp_path.glob("*.svg")} == {"skill.svg", "example.svg"}


def test_bad_data_ends_with_row_and_column(bars: Path, tmp_path: Path) -> None:
    """Exit code 2, one line, nothing written; so do settings that describe no run."""
    lines = bars.read_text().splitlines()
    lines[7] = lines[7].rsplit(",", 1)[0] + ",much"
    broken = tmp_path / "broken.csv"
    broken.write_text("\n".join(lines) + "\n")
    result = run(tmp_path / "out", "--data", str(broken))
    assert result.exit_code == 2
    assert "row 8, column Volume: 'much' is not a number" in result.output.replace("\n", "")
    assert not (tmp_path / "out").exists()
    for options in ((), ("--data", str(bars), "--bars", "900"), ("--bars", "900", "--horizons", "0")):
        assert run(tmp_path / "out", *options).exit_code == 2
