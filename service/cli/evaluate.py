"""`emberwatch evaluate`: how good the model is, against baselines, on simulated fleets that it never saw."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from model.checkpoint import SHIPPED, CheckpointError
from service.cli.output import console, print_json, refusing, train_extra


def evaluate(
    checkpoint: Annotated[Path, typer.Option(help="Folder of the model.")] = SHIPPED,
    baselines: Annotated[
        Path | None, typer.Option(help="Folder of fitted baselines, one folder each [baselines/ of the checkpoint].")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for report.json, report.md and plots.")] = Path("evaluation"),
    vans: Annotated[int | None, typer.Option(min=1, help="Vans of each fleet [240; --quick 24].")] = None,
    days: Annotated[float, typer.Option(min=0.1, help="Length of each trace.")] = 14.0,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the fleet judged [3000; --quick 4000].")] = None,
    scorers: Annotated[str | None, typer.Option(help="Models, comma-separated [all there are].")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that simulate; 0: none but this one.")] = 1,
    resamples: Annotated[int, typer.Option(min=100, help="Bootstrap resamples of the vans.")] = 1_000,
    parts: Annotated[Path | None, typer.Option(help="Folder of finished parts, to resume or to merge runs.")] = None,
    document: Annotated[Path | None, typer.Option(help="Page of the docs to write the report into as well.")] = None,
    published: Annotated[
        Path | None, typer.Option(help="Report that --quick is held against [report.json of the checkpoint].")
    ] = None,
    *,
    quick: Annotated[bool, typer.Option("--quick", help="Repeat the published main tables on a small fleet.")] = False,
    alerts: Annotated[
        bool, typer.Option("--alerts", help="The alerts alone: the service's own machine, times and thresholds.")
    ] = False,
    store: Annotated[bool, typer.Option("--store", help="Write the operating point into the checkpoint.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Evaluate the model and its baselines on simulated fleets (docs/evaluation.md).

    Operating points are chosen on the validation fleet; figures are of the test fleet, which is of other vans and later
    weeks. With --quick: six and nine channels, a small fleet of another seed, stored thresholds, held against the
    published report; exit code 1 if a figure disagrees with it, 2 if there is none to compare with. With --alerts: what an
    operator would have been told of the test fleet, by the service's alert machine at the stored thresholds; exit code 1 if
    fewer than 90 % of the events had an open alert when they started, or there were more than 0.02 false alarms per
    vehicle-day.
    """
    command = shlex.join(["emberwatch", *sys.argv[1:]])
    if alerts:
        with train_extra(), refusing(CheckpointError, ValueError, OSError):
            from service.cli import evaluate_alerts  # noqa: PLC0415  (an extra)

            report = evaluate_alerts.judge_alerts(
                checkpoint, command, vans=vans, days=days, seed=seed, workers=workers, resamples=resamples
            )
        if as_json:
            print_json(report)
        evaluate_alerts.show_alerts(report)
        return
    with train_extra(), refusing(CheckpointError, ValueError, OSError):
        from service.cli import evaluation  # noqa: PLC0415  (an extra)

        order = evaluation.Order(
            checkpoint=checkpoint,
            baselines=baselines or checkpoint / "baselines",
            out=out,
            vans=vans,
            days=days,
            seed=seed,
            scorers=None if scorers is None else tuple(scorers.split(",")),
            workers=workers,
            resamples=resamples,
            parts=parts,
            document=document,
            published=published or checkpoint / "report.json",
            quick=quick,
            store=store,
            command=command,
        )
        result = evaluation.carry_out(order)
    if as_json:
        print_json(result.document)
    evaluation.show(result)
    console.print(f"written to {out}", highlight=False)
    if quick:
        evaluation.conclude(result)
