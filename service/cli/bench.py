"""`emberwatch bench`: how fast it is here, beside its peers, once it has proved correct."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from model.benchmarks import StepBenchmark, measure_step
from service.benchmark.alerts import AlertOptions, measure_alerts
from service.benchmark.ingest import measure_ingest
from service.benchmark.ingest_options import JOURNAL, WRITE_THROUGH, IngestOptions
from service.benchmark.lanes import LoadError
from service.benchmark.processes import ProcessError, ending_with_us
from service.benchmark.report_tables import ReportError, filled, markdown, read_report
from service.cli.output import ANSWER_IS_NO, console, print_json, refusing, train_extra

app = typer.Typer(help="Measure this machine; nothing is measured that did not prove correct first.")


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


@app.command("ingest")
def ingest(
    vans: Annotated[int, typer.Option(min=1, max=100_000, help="The fleet; all are in the service's cache.")] = 240,
    batch: Annotated[
        int | None, typer.Option(min=1, max=20_000, help="Vans in a request [all, 1,000 at most].")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Of each measurement; the median counts.")] = 5,
    round_s: Annotated[float, typer.Option(min=0.1, max=10.0, help="About how long a round lasts.")] = 3.0,
    in_flight: Annotated[int, typer.Option(min=1, max=16, help="Batches on their way at once.")] = 2,
    connections: Annotated[int, typer.Option(min=1, help="Single samples on their way at once.")] = 64,
    server_cores: Annotated[int, typer.Option(min=1, help="For the service; store and client get the others.")] = 1,
    mode: Annotated[list[str] | None, typer.Option(help=f"{JOURNAL} or {WRITE_THROUGH} [both].")] = None,
    setting: Annotated[list[str] | None, typer.Option(help="name=value of the service; may be repeated.")] = None,
    folder: Annotated[Path | None, typer.Option(help="For the stores' files, gigabytes [a temporary one].")] = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure a service on one core, with store (everysec) and client on the others: batches, single posts, store traffic.

    Exit code 1 if the service gave a wrong state, did not apply a sample or did not answer: then nothing is reported.
    """
    with refusing(ValueError, ProcessError):
        modes = tuple(mode or (JOURNAL, WRITE_THROUGH))
        if unknown := set(modes) - {JOURNAL, WRITE_THROUGH}:
            raise ValueError(f"mode must be {JOURNAL} or {WRITE_THROUGH}, got {', '.join(sorted(unknown))}")
        options = IngestOptions(
            vans=vans, batch=batch, rounds=rounds, round_s=round_s, in_flight=in_flight, connections=connections,
            server_cores=server_cores, modes=modes, settings=dict(pair(text) for text in setting or ()), folder=folder,
        )  # fmt: skip
        try:
            with ending_with_us():
                report = measure_ingest(options, lambda line: console.print(line, highlight=False))
        except LoadError as error:
            console.print(f"[red]emberwatch:[/red] {escape(str(error))}", highlight=False)
            raise typer.Exit(ANSWER_IS_NO) from error
    console.print(profile(report["rows"]), highlight=False, soft_wrap=True)
    console.print(figures(report["rows"]), highlight=False, soft_wrap=True)
    if as_json:
        print_json(report)


@app.command("alerts")
def alerts(
    vans: Annotated[int, typer.Option(min=1, max=1_000, help="Each sends one sample in every batch.")] = 240,
    alerts_per_s: Annotated[float, typer.Option(min=0.1, help="Vans that fire beside the load.")] = 5.0,
    listeners: Annotated[int, typer.Option(min=0, max=5_000, help="To GET /v1/alerts/stream.")] = 1_000,
    pages: Annotated[int, typer.Option(min=0, max=1_000, help="Open pages, which ask and listen as a browser's.")] = 50,
    rounds: Annotated[int, typer.Option(min=1, help="Of each measurement; the median counts.")] = 3,
    round_s: Annotated[float, typer.Option(min=1.0, max=20.0, help="About how long a round lasts.")] = 5.0,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure the way from a sample to the webhook under load, and what listeners and open pages cost ingest.

    Exit code 1 if a sample was not applied, an alert did not arrive or a listener did not hear what the others heard.
    """
    with refusing(ProcessError):
        options = AlertOptions(vans, alerts_per_s, listeners, pages, rounds, round_s)
        try:
            with ending_with_us():
                report = measure_alerts(options, lambda line: console.print(line, highlight=False))
        except LoadError as error:
            console.print(f"[red]emberwatch:[/red] {escape(str(error))}", highlight=False)
            raise typer.Exit(ANSWER_IS_NO) from error
    for row in report["rows"]:
        console.print(
            f"{row['name']:<24} {row['value']:12,.1f} {row['unit']:<10} [{row['lo']:,.1f} to {row['hi']:,.1f}]"
            f"  {' '.join(f'{name}={value}' for name, value in row['params'].items())}",
            highlight=False,
        )
    if as_json:
        print_json(report)


@app.command("show")
def show(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Reports of any benchmark, evaluation or load test.")
    ] = None,
    plots: Annotated[Path | None, typer.Option(help="Folder for latencies and stages as SVG (extra train).")] = None,
    into: Annotated[
        Path | None, typer.Option(help="Document whose parts `<!-- report FILE -->` are made anew.")
    ] = None,
) -> None:
    """Print reports as Markdown, draw them, or write them into a document."""
    with refusing(ReportError, OSError):
        reports = {file: read_report(file) for file in files or ()}
        if into is not None:
            into.write_text(filled(into))
    for file, report in reports.items():
        typer.echo(markdown(report))
        if plots is not None:
            with train_extra("a plot"):
                from service.benchmark.report_plots import draw  # noqa: PLC0415  (matplotlib is an extra)
            for path in draw(report, plots, file.stem):
                console.print(f"wrote {path}", highlight=False)


def pair(text: str) -> tuple[str, str]:
    """`name=value` in two. Raises ValueError."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(f"a setting is name=value, got {text}")
    return name, value


def profile(rows: list[dict[str, Any]]) -> str:
    """Where the time of one sample goes, by the service's own clocks; stages may contain each other, and waiting."""
    stages = [row for row in rows if row["name"] == "stage_time"]
    stages.sort(key=lambda row: (row["params"]["mode"], -row["value"]))
    return "\n".join(
        f"{r['params']['mode']:<14} {r['params']['stage']:<50} {r['value']:10.2f} us/sample" for r in stages
    )


def figures(rows: list[dict[str, Any]]) -> str:
    """The report for people."""
    return "\n".join(
        f"{r['params']['mode']:<14} {r['name']:<24} {r['value']:12,.1f} {r['unit']:<10} [{r['lo']:,.1f} to {r['hi']:,.1f}]"
        + ("" if r["ratio"] is None else f"  {r['ratio']:.1f} x as good as {r['peer']}")
        for r in rows
        if r["name"] != "stage_time"
    )


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
