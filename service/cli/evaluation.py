"""The work of `emberwatch evaluate`; apart from it because it needs the simulator's packages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from model.checkpoint import Checkpoint, load_checkpoint, store_calibration
from model.evaluation import AlertRule, split_fleet
from model.evaluation.agreement import Agreement, compare
from model.evaluation.bootstrap import SMALL_VANS
from model.evaluation.conditions import CONDITIONS, MAIN_CONDITIONS
from model.evaluation.evaluate import Evaluation, Plan, Workbench, evaluate
from model.evaluation.examples import Example, examples
from model.evaluation.figure_row import Row
from model.evaluation.markdown import MAIN
from model.evaluation.registry import NAMES, PRODUCT, QUICK, ScorerUnavailableError, make_scorer
from model.evaluation.report import (
    Published,
    ReportError,
    document,
    read_published,
    write_into,
    write_report,
)
from model.evaluation.scorer import Scorer
from model.evaluation.tables import shown
from model.scoring import Calibration
from service.cli.output import ANSWER_IS_NO, CANNOT_ASK, console

VANS = 240
CPU_GROUP, CUDA_GROUP = 8, 64  # vans scored side by side: the smaller, the livelier the progress bar


@dataclass(frozen=True, slots=True)
class Order:
    """What the command line asked for."""

    checkpoint: Path
    baselines: Path  # one folder each, by name
    out: Path
    vans: int | None
    days: float
    seed: int | None
    scorers: tuple[str, ...] | None
    workers: int
    resamples: int
    parts: Path | None
    document: Path | None
    published: Path
    quick: bool
    store: bool
    command: str


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it."""

    document: dict[str, Any]
    models: tuple[str, ...]
    agreements: list[Agreement]
    no_comparison: str  # why there is nothing to compare with; '' if there is


class Bar:
    """Progress in vans scored, one bar a stage."""

    def __init__(self) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self._progress = Progress(*columns, console=console)
        self._task: TaskID | None = None
        self._stage = ""

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def announce(self, stage: str, vans: int) -> None:
        """A stage begins."""
        self._stage = stage
        self._task = self._progress.add_task(stage, total=vans)

    def advance(self, model: str, vans: int) -> None:
        """A model has scored so many vans."""
        if self._task is not None:
            self._progress.update(self._task, advance=vans, description=f"{self._stage} {model}")


def carry_out(order: Order) -> Result:
    """Evaluate, write the report, and with `quick` hold it against the published one.

    Raises:
        CheckpointError, ReportError, ValueError, OSError: as their messages say.
    """
    model = load_checkpoint(order.checkpoint)
    reference, no_comparison = _reference(order.published, model) if order.quick else (None, "")
    given = _stored_points(model, reference) if order.quick else {}
    chosen = _scorers(order, given)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    group = CUDA_GROUP if device.type == "cuda" else CPU_GROUP
    with Bar() as bar:
        bench = Workbench(order.workers, group, order.parts, bar.announce, bar.advance)
        evaluation = evaluate(chosen, _plan(order, model), given, bench)
    data = document(evaluation, order.command, device)
    agreements = compare(data["rows"], _comparable(evaluation, reference), "test") if reference is not None else []
    data["agreement"] = [_agreement_json(agreement) for agreement in agreements]
    pictures = _examples(evaluation, chosen)
    write_report(evaluation, data, pictures, order.out)
    if order.document is not None:
        write_into(order.document, evaluation, data, pictures)
    if order.store and not order.quick and PRODUCT in evaluation.calibrations:
        # The threshold of surprise is chosen by a command of its own (model/evaluation/anomaly.py).
        chosen_now = replace(evaluation.calibrations[PRODUCT], anomaly_threshold=model.calibration.anomaly_threshold)
        store_calibration(order.checkpoint, chosen_now)
    return Result(data, evaluation.models, agreements, no_comparison)


def _plan(order: Order, model: Checkpoint) -> Plan:
    """Fleets and conditions; warm-up and horizon are the product's, for every model."""
    split = "quick" if order.quick else "test"
    vans = order.vans or (SMALL_VANS if order.quick else VANS)
    return Plan(
        split=split,
        fleet=split_fleet(split, vans, order.days, order.seed),
        validation=None if order.quick else split_fleet("validation", vans, order.days),
        conditions=MAIN_CONDITIONS if order.quick else CONDITIONS,
        rule=AlertRule(warmup_samples=model.warmup_samples, horizon_ms=round(1_000 * model.horizon_s)),
        resamples=order.resamples,
        # Worse telemetry is asked of the product; of the networks among the baselines it would take hours on a CPU.
        main_only=frozenset(NAMES) - {PRODUCT},
    )


def _reference(file: Path, model: Checkpoint) -> tuple[Published | None, str]:
    """The published report, or why it cannot be compared with."""
    try:
        published = read_published(file)
    except ReportError as error:
        return None, str(error)
    if published.fingerprints.get(PRODUCT) != model.risk_fingerprint():
        return None, f"{file} is the report of another model ({published.fingerprints.get(PRODUCT)})"
    return published, ""


def _comparable(evaluation: Evaluation, reference: Published) -> list[Row]:
    """The published rows of models that are the same ones here; of others, said aloud, there is nothing to compare."""
    same = {name for name, print_ in evaluation.fingerprints.items() if reference.fingerprints.get(name) == print_}
    for name in evaluation.models:
        if name not in same:
            console.print(f"[yellow]not compared:[/yellow] {name} was fitted anew since the published report")
    return [row for row in reference.rows if row["params"].get("model") in same]


def _stored_points(model: Checkpoint, reference: Published | None) -> dict[str, Calibration]:
    """The checkpoint's own operating point, and the baselines' from the published report."""
    stored = {} if reference is None else dict(reference.calibrations)
    return {**stored, PRODUCT: model.calibration}


def _scorers(order: Order, given: Mapping[str, Calibration]) -> list[Scorer]:
    """The models asked for; of those that nobody named, whichever can be made here, and said aloud which cannot.

    Raises:
        ValueError: a model that was named cannot be made, or has no operating point, or none is left.
    """
    names = order.scorers or (QUICK if order.quick else NAMES)
    chosen: list[Scorer] = []
    for name in names:
        why_not = ""
        if order.quick and name not in given:
            why_not = f"{name} has no operating point: no published report gives it one"
        else:
            try:
                chosen.append(make_scorer(name, order.checkpoint, order.baselines))
            except ScorerUnavailableError as error:
                why_not = str(error)
        if why_not and order.scorers is not None:
            raise ValueError(why_not)
        if why_not:
            console.print(f"[yellow]left out:[/yellow] {why_not}", highlight=False)
    if not chosen:
        raise ValueError("there is no model to evaluate")
    return chosen


def _examples(evaluation: Evaluation, scorers: Sequence[Scorer]) -> list[Example]:
    product = next((scorer for scorer in scorers if scorer.name == PRODUCT), None)
    return [] if product is None else examples(evaluation, product)


def _agreement_json(agreement: Agreement) -> dict[str, Any]:
    return {
        "name": agreement.name,
        "model": agreement.model,
        "channels": agreement.channels,
        "value": agreement.here["value"],
        "published": agreement.published["value"],
        "lo": agreement.published["small_lo"],
        "hi": agreement.published["small_hi"],
        "agrees": agreement.agrees,
    }


def show(result: Result) -> None:
    """The main tables on the terminal, and beside each figure whether the published report agrees."""
    agreements = {(a.name, a.model, a.channels): a for a in result.agreements}
    columns = ["model", "channels", "figure", "value (95 % interval)"]
    table = Table(*columns, *(("published", f"{SMALL_VANS} of its vans show", "agrees") if agreements else ()))
    rows = {(row["name"], row["params"]["model"], row["params"]["channels"]): row for row in _main_rows(result)}
    for model in result.models:
        for channels in (9, 6):
            for name, title in MAIN.items():
                row = rows.get((name, model, channels))
                if row is None:
                    continue
                agreement = agreements.get((name, model, channels))
                table.add_row(model, str(channels), title, shown(row), *(_verdict(agreement) if agreements else ()))
    console.print(table)


def _main_rows(result: Result) -> list[Row]:
    return [
        row
        for row in result.document["rows"]
        if row["params"]["condition"] == "nominal"
        and row["params"]["split"] != "validation"
        and "fault" not in row["params"]
    ]


def _verdict(agreement: Agreement | None) -> tuple[str, str, str]:
    if agreement is None:
        return "-", "-", "-"
    low, high = agreement.published["small_lo"], agreement.published["small_hi"]
    span = "-" if low is None else f"{low:g} to {high:g}"
    return shown(agreement.published), span, {True: "yes", False: "NO", None: "nothing to measure"}[agreement.agrees]


def conclude(result: Result) -> None:
    """Exit code 1 if a figure disagrees with the published report, 2 if there is none to compare with."""
    if result.no_comparison:
        console.print(f"[red]emberwatch:[/red] nothing to compare with: {result.no_comparison}", highlight=False)
        raise typer.Exit(CANNOT_ASK)
    compared = [agreement for agreement in result.agreements if agreement.agrees is not None]
    differ = [agreement for agreement in compared if not agreement.agrees]
    if not compared:
        console.print("[red]emberwatch:[/red] nothing to compare with: no figure is in both reports", highlight=False)
        raise typer.Exit(CANNOT_ASK)
    if differ:
        console.print(f"{len(differ)} of {len(compared)} figures disagree with the published report")
        raise typer.Exit(ANSWER_IS_NO)
    console.print(f"all {len(compared)} figures agree with the published report")
