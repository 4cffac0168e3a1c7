"""The page says plainly which targets were met, by how much others were missed, and who won."""

from dataclasses import replace

import pytest

from model.evaluation.evaluate import Evaluation, Plan
from model.evaluation.figure_row import Row
from model.evaluation.markdown import page
from model.evaluation.tables import shown
from model.fleet import FleetConfig
from model.scoring import Calibration

EVALUATION = Evaluation(
    plan=Plan("test", FleetConfig(n_vehicles=3, seed=3000), FleetConfig(n_vehicles=3, seed=2000)),
    calibrations={name: Calibration() for name in ("mamba", "lightgbm", "lstm", "oracle")},
    fingerprints={},
    judged=(),
)
HEAD = {"command": "emberwatch evaluate", "date": "2026-11-22", "commit": "abc", "device": "cpu"}


def row(name: str, model: str, value: float | None, width: float = 0.01, channels: int = 9) -> Row:
    """One figure of a main table."""
    params = {"model": model, "channels": channels, "split": "test", "condition": "nominal", "seed": 3000}
    low, high = (None, None) if value is None else (value - width, value + width)
    return {"name": name, "params": params, "value": value, "unit": "1", "lo": low, "hi": high}


def verdict(rows: list[Row], target: str) -> str:
    """Last cell of the target's line."""
    text = page(EVALUATION, rows, HEAD, [], "")
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {target}")]
    return line.split("|")[-2].strip()


@pytest.mark.parametrize(
    ("name", "target", "value", "expected"),
    [
        ("auroc", "AUROC with nine channels at least", 0.96, "met"),
        ("auroc", "AUROC with nine channels at least", 0.94, "missed by 0.01"),
        ("event_recall", "events caught at least", 0.9, "met"),
        ("false_alarms_per_vehicle_day", "false alarms per vehicle-day at most", 0.025, "missed by 0.005"),
        ("lead_time_median", "median lead time at least", 44.0, "missed by 1"),
        ("ece", "calibration error at most", 0.004, "met"),
        ("event_recall", "events caught at least", None, "not measured"),
    ],
)
def test_a_target_is_met_or_missed_by_so_much(name: str, target: str, value: float | None, expected: str) -> None:
    """On either side of the bound, and on it."""
    assert verdict([row(name, "mamba", value)], target) == expected


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ({"lightgbm": 0.90, "lstm": 0.92}, "met"),
        ({"lightgbm": 0.97, "lstm": 0.92}, "lightgbm wins by 0.0100"),
        ({"lightgbm": 0.90, "lstm": 0.945}, "intervals overlap with lstm"),
        ({"lightgbm": 0.90}, "no neural baseline was judged"),
        ({"lightgbm": 0.90, "lstm": 0.92, "oracle": 0.99}, "met"),  # the oracle is a ceiling, not a rival
        ({}, "not measured"),
    ],
)
def test_the_best_baseline_is_named(others: dict[str, float], expected: str) -> None:
    """The product's AUROC is 0.96, give or take 0.01."""
    rows = [row("auroc", "mamba", 0.96), *(row("auroc", name, value) for name, value in others.items())]
    assert verdict(rows, "AUROC with 9 channels above") == expected


def test_figures_are_shown_with_their_interval() -> None:
    """Or without, where there is none; a figure that does not exist is a dash."""
    assert shown(row("auroc", "mamba", 0.96)) == "0.9600 (0.9500 to 0.9700)"
    assert shown(row("auroc", "mamba", None)) == "-"
    assert shown({"name": "events", "params": {}, "value": 12.0}) == "12.000"


def test_every_figure_says_where_it_is_from() -> None:
    """Command, date, commit, device, seeds and resamples are on the page."""
    text = page(replace(EVALUATION), [], HEAD, [], "")
    for word in ("emberwatch evaluate", "2026-11-22", "abc", "seed 3000", "seed 2000", "1000 resamples"):
        assert word in text
