"""The report as a page: tables, the targets met and missed, and the plots."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.evaluation.evaluate import Evaluation
from model.evaluation.figure_row import Row
from model.evaluation.registry import NEURAL, PRODUCT
from model.evaluation.tables import shown, table

MAIN = {
    "auroc": "AUROC",
    "auprc": "average precision",
    "f2": "F2",
    "event_recall": "events caught",
    "false_alarms_per_vehicle_day": "false alarms per vehicle-day",
    "lead_time_median": "median lead, min",
    "ece": "calibration error",
}
MORE = {
    "precision": "precision",
    "recall": "recall",
    "brier": "Brier",
    "ece_equal_mass": "calibration error, equal mass",
    "event_recall_within_horizon": "events caught by an alert of the last 2 h",
}
BY_FAULT = ("event_recall", "lead_time_median", "false_alarms_per_vehicle_day", "auroc")


class Table:
    """Rows by name and params."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = {self._key(row["name"], row["params"]): row for row in rows}

    @staticmethod
    def _key(name: str, params: dict[str, Any]) -> tuple[Any, ...]:
        return name, *(params.get(key) for key in ("model", "channels", "split", "condition", "fault", "against"))

    def find(self, name: str, **params: Any) -> Row | None:
        """The row with exactly these params (the seed aside)."""
        return self._rows.get(self._key(name, {"condition": "nominal", **params}))

    def cell(self, name: str, **params: Any) -> str:
        """Figure and interval, or a dash."""
        row = self.find(name, **params)
        return "-" if row is None else shown(row)


@dataclass(frozen=True, slots=True)
class Target:
    """What issue and design ask of one figure on the test split."""

    text: str
    name: str
    channels: int
    bound: float
    at_least: bool


TARGETS = (
    Target("AUROC with nine channels at least 0.95", "auroc", 9, 0.95, at_least=True),
    Target("AUROC with six channels at least 0.91", "auroc", 6, 0.91, at_least=True),
    Target("events caught at least 0.90", "event_recall", 9, 0.90, at_least=True),
    Target("false alarms per vehicle-day at most 0.02", "false_alarms_per_vehicle_day", 9, 0.02, at_least=False),
    Target("median lead time at least 45 minutes", "lead_time_median", 9, 45.0, at_least=True),
    Target("calibration error at most 0.01", "ece", 9, 0.01, at_least=False),
)


def verdict(target: Target, row: Row | None) -> str:
    """Whether a figure meets its target, and by how much it does not."""
    if row is None or row["value"] is None:
        return "not measured"
    gap = row["value"] - target.bound if target.at_least else target.bound - row["value"]
    return "met" if gap >= 0 else f"missed by {-gap:.3g}"


def page(evaluation: Evaluation, rows: Sequence[Row], head: dict[str, Any], plots: Sequence[Path], folder: str) -> str:
    """The report's text without a title; `folder` is where the plots are, as seen from the page."""
    find = Table(rows)
    split = evaluation.plan.split
    parts = [_provenance(evaluation, find, head)]
    if PRODUCT in evaluation.models:
        parts.append("## Targets\n\n" + _targets(find, evaluation))
    for channels, word in ((9, "Nine"), (6, "Six")):
        if any(evaluation.find(model, channels) for model in evaluation.models):
            parts.append(f"## {word} channels\n\n" + _models(find, evaluation.models, channels, split, MAIN))
            parts.append(_models(find, evaluation.models, channels, split, MORE))
    differences = _differences(find, evaluation)
    if differences:
        parts.append("## The same vans, model against model\n\n" + differences)
    parts.append("## Under worse conditions\n\n" + _conditions(find, evaluation))
    parts.append("## By kind of fault\n\n" + _faults(find, evaluation, rows))
    parts.append("## Operating points\n\n" + _operating_points(evaluation))
    titles = {
        "reliability": "Reliability",
        "precision-recall": "Precision and recall over instants",
        "lead-time": "Lead time",
        "examples": "A caught event, a missed one and a false alarm (red: event; green: alert fires; dashed: thresholds)",
    }
    parts += [f"![{titles[path.stem]}]({folder}{path.name})" for path in plots]
    return "\n\n".join(parts) + "\n"


def _provenance(evaluation: Evaluation, find: Table, head: dict[str, Any]) -> str:
    plan, validation = evaluation.plan, evaluation.plan.validation
    model = evaluation.models[0]
    numbers = {
        name: find.find(name, model=model, channels=9, split=plan.split)
        for name in ("instants", "events", "vehicle_days", "positive_share")
    }
    counts = ", ".join(
        f"{(row['value'] * 100):.3f} % of instants positive"
        if name == "positive_share"
        else f"{row['value']:,.0f} {name.replace('_', '-')}"
        for name, row in numbers.items()
        if row is not None
    )
    chosen = (
        "Operating points: as stored."
        if validation is None
        else f"Operating points: chosen on {validation.n_vehicles} vans of seed {validation.seed}."
    )
    return (
        f"Command: `{head['command']}`  \nDate: {head['date']}, commit {head['commit']}, {head['device']}.\n\n"
        f"Split `{plan.split}`: {plan.fleet.n_vehicles} vans x {plan.fleet.days:g} days, seed {plan.fleet.seed}; "
        f"{counts}. {chosen} Intervals: 95 %, {plan.resamples} resamples of the vans (seed {plan.resample_seed})."
    )


def _targets(find: Table, evaluation: Evaluation) -> str:
    split = evaluation.plan.split
    body = []
    for target in TARGETS:
        row = find.find(target.name, model=PRODUCT, channels=target.channels, split=split)
        body.append([target.text, "-" if row is None else shown(row), verdict(target, row)])
    body += [_above_baselines(find, evaluation, channels) for channels in (9, 6)]
    return table(("target", "measured", "verdict"), body)


def _above_baselines(find: Table, evaluation: Evaluation, channels: int) -> list[str]:
    """Whether the product's AUROC is above every baseline's, clear of the best neural one's interval."""
    split = evaluation.plan.split
    others = {
        model: row
        for model in evaluation.models
        if model not in {PRODUCT, "oracle"}
        and (row := find.find("auroc", model=model, channels=channels, split=split)) is not None
        and row["value"] is not None
    }
    own = find.find("auroc", model=PRODUCT, channels=channels, split=split)
    text = f"AUROC with {channels} channels above every baseline, clear of the best neural one's interval"
    if own is None or own["value"] is None or not others:
        return [text, "-", "not measured"]
    best = max(others, key=lambda model: others[model]["value"])
    verdicts = []
    if others[best]["value"] >= own["value"]:
        verdicts.append(f"{best} wins by {others[best]['value'] - own['value']:.4f}")
    neural = [model for model in NEURAL if model in others]
    if neural:
        rival = max(neural, key=lambda model: others[model]["value"])
        if own["lo"] <= others[rival]["hi"]:
            verdicts.append(f"intervals overlap with {rival}")
    else:
        verdicts.append("no neural baseline was judged")
    return [text, f"best baseline: {best} {shown(others[best])}", "; ".join(verdicts) or "met"]


def _models(find: Table, models: Sequence[str], channels: int, split: str, names: dict[str, str]) -> str:
    body = [
        [model, *(find.cell(name, model=model, channels=channels, split=split) for name in names)] for model in models
    ]
    return table(("model", *names.values()), body)


def _differences(find: Table, evaluation: Evaluation) -> str:
    body = []
    for channels in (9, 6):
        for model in evaluation.models:
            cell = find.cell(
                "auroc_difference", model=PRODUCT, channels=channels, split=evaluation.plan.split, against=model
            )
            if cell != "-":
                body.append([f"{PRODUCT} minus {model}", str(channels), cell])
    return table(("difference of AUROC", "channels", "paired, 95 % interval"), body) if body else ""


def _conditions(find: Table, evaluation: Evaluation) -> str:
    split = evaluation.plan.split
    names = ("auroc", "event_recall", "false_alarms_per_vehicle_day", "lead_time_median", "ece")
    body = []
    for condition in evaluation.plan.conditions:
        where = condition.name if condition.channels == 9 else "six channels"
        for model in evaluation.models:
            if evaluation.find(model, condition.channels, condition.name) is None:
                continue
            cells = [
                find.cell(name, model=model, channels=condition.channels, split=split, condition=condition.name)
                for name in names
            ]
            body.append([where, model, *cells])
    return table(("condition", "model", *(MAIN[name] for name in names)), body)


def _faults(find: Table, evaluation: Evaluation, rows: Sequence[Row]) -> str:
    model = PRODUCT if PRODUCT in evaluation.models else evaluation.models[0]
    kinds = list(dict.fromkeys(row["params"]["fault"] for row in rows if "fault" in row["params"]))
    body = []
    for kind in kinds:
        params = {"model": model, "channels": 9, "split": evaluation.plan.split, "fault": kind}
        counts = [row for name in ("vans", "events") if (row := find.find(name, **params)) is not None]
        body.append(
            [kind, *(f"{row['value']:.0f}" for row in counts), *(find.cell(name, **params) for name in BY_FAULT)]
        )
    head = ("fault", "vans", "events", "caught", "median lead, min", "false alarms per vehicle-day", "AUROC")
    return f"Of {model}, nine channels; the other models' are in report.json.\n\n" + table(head, body)


def _operating_points(evaluation: Evaluation) -> str:
    body = [
        [
            model,
            *(
                f"{value:.4g}"
                for value in (c.slope, c.intercept, c.alert_threshold, c.resolve_threshold, c.f2_threshold)
            ),
        ]
        for model, c in evaluation.calibrations.items()
    ]
    return table(("model", "slope", "intercept", "alert at", "resolve below", "F2 at"), body)
