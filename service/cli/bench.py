"""`emberwatch bench`: how fast it is here, beside its peers, once it has proved correct."""

from typing import Annotated, Any

import typer
from rich.table import Table

from model.benchmarks import StepBenchmark, measure_step
from service.cli.output import ANSWER_IS_NO, console, print_json, refusing

app = typer.Typer(help="Measure this machine; nothing is measured that did not prove correct first.")


@app.callback()
def bench() -> None:
    """Keeps `step` a subcommand while it is the only one."""


@app.command("step")
def step(
    device: Annotated[list[str] | None, typer.Option(help="cpu or cuda; may be repeated [both].")] = None,
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Vehicles; may be repeated [the targets'].")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each contender.")] = 25,
    threads: Annotated[int, typer.Option(min=0, help="Of the processor; 0: torch's number.")] = 0,
    *,
    compiled: Annotated[bool, typer.Option("--compile/--no-compile", help="torch.compile as a peer (slow).")] = True,
    scan: Annotated[bool, typer.Option("--scan/--no-scan", help="Scans from stored states.")] = True,
    train: Annotated[bool, typer.Option("--train/--no-train", help="The training step, on CUDA.")] = True,
    sweep: Annotated[bool, typer.Option("--sweep", help="Also time other ways of cutting the CUDA step.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure step, scan and training step of every backend and peer that runs here.

    Exit code 1 if a check failed: what is wrong is not timed.
    """
    with refusing(ValueError, RuntimeError):
        devices = tuple(device or ("cpu", "cuda"))
        if unknown := set(devices) - {"cpu", "cuda"}:
            raise ValueError(f"device must be cpu or cuda, got {', '.join(sorted(unknown))}")
        report = measure_step(
            StepBenchmark(
                devices=devices, batches=tuple(batch or ()), rounds=rounds, threads=threads, compiled=compiled,
                scan=scan, train=train, sweep=sweep,
            )
        )  # fmt: skip
    if as_json:
        print_json(report)
    else:
        console.print(table(report["rows"]))
    if not report["correct"]:
        raise typer.Exit(ANSWER_IS_NO)


def table(rows: list[dict[str, Any]]) -> Table:
    """The report for people."""
    found = Table("what", "backend", "batch", "length", "time", "floor", "peer", "times as fast")
    for row in rows:
        params = row["params"]
        found.add_row(
            row["name"], params["backend"], str(params["batch"]), str(params["length"]),
            f"{row['value']:.1f} {row['unit']}", "" if row["floor"] is None else f"{row['floor']:.1f}",
            str(row["peer"] or ""), str(row["ratio"] or ""),
        )  # fmt: skip
    return found
