"""The work of `emberwatch evaluate --alerts`: what an operator would have been told of a simulated fleet."""

from pathlib import Path
from typing import Any

import torch
import typer
from rich.table import Table

from model.checkpoint import load_checkpoint
from model.evaluation import AlertRule, split_fleet
from model.evaluation.conditions import MAIN_CONDITIONS
from model.evaluation.evaluate import Plan, Workbench, evaluate
from model.evaluation.registry import PRODUCT, make_scorer
from model.evaluation.report import document
from model.evaluation.tables import shown
from service.cli.evaluation import CPU_GROUP, CUDA_GROUP, VANS, Bar
from service.cli.output import ANSWER_IS_NO, console
from service.settings import Settings

RECALL, FALSE_ALARMS = "event_recall", "false_alarms_per_vehicle_day"
TARGETS = {RECALL: 0.90, FALSE_ALARMS: 0.02}
FIGURES = {
    RECALL: "events with an open alert when they start",
    "event_recall_within_horizon": "of them, by an alert of the last 2 h",
    FALSE_ALARMS: "false alarms per vehicle-day",
    "lead_time_median": "median lead, min",
}


def alert_rule(settings: Settings, warmup_samples: int, horizon_s: float) -> AlertRule:
    """The service's own times, as these settings have them."""
    return AlertRule(
        for_ms=round(1_000 * settings.alert_for_s),
        keep_firing_ms=round(1_000 * settings.alert_keep_firing_s),
        stale_after_ms=round(1_000 * settings.stale_after_s),
        warmup_samples=warmup_samples,
        horizon_ms=round(1_000 * horizon_s),
    )


def judge_alerts(
    checkpoint: Path, command: str, *, vans: int | None, days: float, seed: int | None, workers: int, resamples: int
) -> dict[str, Any]:
    """The report: the product's alerts on the test fleet, at the thresholds in the checkpoint, by the service's machine.

    Raises:
        CheckpointError, ValueError: as their messages say.
    """
    model = load_checkpoint(checkpoint)
    plan = Plan(
        split="test",
        fleet=split_fleet("test", vans or VANS, days, seed),
        validation=None,
        conditions=MAIN_CONDITIONS,
        rule=alert_rule(Settings(), model.warmup_samples, model.horizon_s),
        resamples=resamples,
    )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with Bar() as bar:
        bench = Workbench(workers, CUDA_GROUP if device.type == "cuda" else CPU_GROUP, None, bar.announce, bar.advance)
        scorer = make_scorer(PRODUCT, checkpoint, checkpoint / "baselines")
        evaluation = evaluate([scorer], plan, {PRODUCT: model.calibration}, bench)
    data = document(evaluation, command, device)
    data["rows"] = [row for row in data["rows"] if row["name"] in FIGURES]
    return data


def show_alerts(data: dict[str, Any]) -> None:
    """The figures on the terminal; exit code 1 if a target is missed with all channels."""
    table = Table("channels", "kind of fault", "figure", "value (95 % interval)", "target")
    missed = []
    for row in data["rows"]:
        name, of = row["name"], row["params"]
        fault, nine = of.get("fault"), of["channels"] == 9
        target = TARGETS.get(name) if fault is None and nine else None
        table.add_row(
            str(of["channels"]), fault or "all vans", FIGURES[name], shown(row), "" if target is None else f"{target:g}"
        )
        if target is not None and row["value"] is not None:
            far = row["value"] < target if name == RECALL else row["value"] > target
            missed += [FIGURES[name]] if far else []
    console.print(table)
    if missed:
        console.print(f"missed: {', '.join(missed)}", highlight=False)
        raise typer.Exit(ANSWER_IS_NO)
