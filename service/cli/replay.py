"""`emberwatch replay`: stream a recorded drive into a running service."""

import math
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from model.recordings import FORMATS, Recording, RecordingError, read_recording
from service.cli.options import ApiKeyOption
from service.cli.output import ANSWER_IS_NO, console, print_json, refusing
from service.client import Client, ClientError, Tally, wire_samples


def replay(
    file: Annotated[Path, typer.Argument(help="The recording; .gz is read as it is.")],
    form: Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")],
    vehicle: Annotated[str, typer.Option(help="Vehicle id to send it as.")],
    url: Annotated[str, typer.Option(help="Base URL of the service.")] = "http://127.0.0.1:8000",
    speed: Annotated[str, typer.Option(help="'max', or a factor of real time such as 60.")] = "max",
    batch: Annotated[int, typer.Option(min=1, help="Samples in one request.")] = 100,
    key: ApiKeyOption = None,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Stream a recorded drive; the row number is the seq, so that a replay after a failure repeats nothing.

    Exit code 1 if any sample was neither applied nor a duplicate.
    """
    with refusing(RecordingError, ClientError, ValueError):
        pace = None if speed == "max" else float(speed)
        if pace is not None and not 0 < pace < math.inf:
            raise ValueError(f"--speed must be 'max' or a positive factor, got {speed}")
        recording = read_recording(file, form)
        with Client(url, key) as client:
            started = time.perf_counter()
            tally = stream(client, vehicle, recording, batch, pace)
            elapsed = time.perf_counter() - started
    summary: dict[str, Any] = {
        "file": str(file),
        "vehicle": vehicle,
        "rows": len(recording.ts_ms),
        **{status: tally.statuses[status] for status in ("applied", "duplicate", "late", "invalid", "conflict")},
        "retries": tally.retries,
        "highest_risk": tally.highest_risk,
        "seconds": round(elapsed, 3),
        "samples_per_second": round(len(recording.ts_ms) / elapsed, 1),
        "refusals": tally.refusals,
    }
    if as_json:
        print_json(summary)
    else:
        for name, value in summary.items():
            console.print(f"{name:>20}  {value}", highlight=False)
    if sum(tally.statuses[status] for status in ("applied", "duplicate")) != len(recording.ts_ms):
        raise typer.Exit(ANSWER_IS_NO)


def stream(client: Client, vehicle: str, recording: Recording, batch: int, pace: float | None) -> Tally:
    """Send a recording in order, `batch` samples a request, at `pace` times real time (None: as fast as it goes)."""
    tally = Tally()
    samples = list(wire_samples(recording))
    started, first_ms = time.monotonic(), int(recording.ts_ms[0])
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(vehicle, total=len(samples))
        for start in range(0, len(samples), batch):
            part = samples[start : start + batch]
            if pace is not None:
                due = started + (part[-1]["ts"] - first_ms) / 1000.0 / pace
                time.sleep(max(0.0, due - time.monotonic()))
            client.send(vehicle, part, tally)
            progress.advance(task, len(part))
    return tally
