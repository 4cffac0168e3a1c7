"""`emberwatch state`: the recurrent state of one vehicle."""

from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import numpy as np
import typer

from model.checkpoint import SHIPPED, CheckpointError, load_checkpoint
from model.recordings import FORMATS, RecordingError, read_recording
from model.runtime import recompute
from service.cli.output import ANSWER_IS_NO, console, print_json, refusing
from service.client import Client, ClientError
from service.state_codec import StateCodecError, unpack_snapshot

app = typer.Typer(help="The recurrent state of one vehicle.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """The recurrent state of one vehicle."""


@app.command()
def verify(
    vehicle: Annotated[str, typer.Argument(help="Vehicle id.")],
    file: Annotated[Path, typer.Argument(help="The recording that was streamed, from its first row.")],
    form: Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")] = "leafspy",
    url: Annotated[str, typer.Option(help="Base URL of the service.")] = "http://127.0.0.1:8000",
    checkpoint: Annotated[Path, typer.Option(help="Folder of the model in service.")] = SHIPPED,
    tolerance: Annotated[float, typer.Option(help="Largest relative error of the state (promise 1).")] = 1e-4,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Recompute a state offline, by the float64 scan over the same file, and compare it with what the service holds.

    Rows up to the state's seq are used, so it works in mid-stream too. Exit code 1 if the error is above the tolerance.
    """
    with refusing(RecordingError, ClientError, CheckpointError, StateCodecError):
        recording = read_recording(file, form)
        model = load_checkpoint(checkpoint)
        with Client(url) as client:
            held = unpack_snapshot(client.content(f"/v1/vehicles/{quote(vehicle, safe='')}/state"))
        if held.fingerprint != model.fingerprint():
            raise StateCodecError(f"the service runs model {held.fingerprint}, {checkpoint} is {model.fingerprint()}")
        if not 0 <= held.seq < len(recording.ts_ms):
            raise StateCodecError(f"the state is at seq {held.seq}, the file has rows 0 to {len(recording.ts_ms) - 1}")
        rows = slice(0, held.seq + 1)
        truth = recompute(model, recording.ts_ms[rows], recording.signals[rows])
    errors = {"ssm_state": relative_error(held.ssm, truth.ssm), "conv_state": relative_error(held.conv, truth.conv)}
    agrees = all(error <= tolerance for error in errors.values())  # never true of NaN
    comparison = {
        "vehicle": vehicle,
        "epoch": held.epoch,
        "seq": held.seq,
        "samples": held.seq + 1,
        "relative_error": errors,
        "tolerance": tolerance,
        "agrees": agrees,
    }
    if as_json:
        print_json(comparison)
    else:
        for name, value in comparison.items():
            console.print(f"{name:>16}  {value}", highlight=False)
    if not agrees:
        raise typer.Exit(ANSWER_IS_NO)


def relative_error(value: np.ndarray, truth: np.ndarray) -> float:
    """Norm of the difference over the norm of the truth."""
    return float(np.linalg.norm(value.astype(np.float64) - truth) / np.linalg.norm(truth))
