"""`emberwatch state`: vehicles as files, and whether what is held is right."""

import asyncio
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import Progress

from model.checkpoint import SHIPPED, Checkpoint, CheckpointError, load_checkpoint
from model.recordings import FORMATS, RecordingError, read_recording
from model.runtime import recompute
from service.cli.options import ApiKeyOption
from service.cli.output import ANSWER_IS_NO, console, print_json, refusing
from service.cli.vehicle_files import Moved, export_vehicles, files_in, import_files, listed_vehicles, state_path
from service.client import Client, ClientError
from service.engine.rehydrate import Rehydrator
from service.engine.stored_check import Broken, broken_vehicles
from service.errors import ServiceError
from service.observe.metrics import Metrics
from service.records.head import HeadLayout
from service.records.journal import JournalLayout
from service.records.state_codec import StateCodecError
from service.records.vehicle_export import Export, ExportError, unpack_export
from service.settings import Settings
from service.store.embedded_store import socket_of
from service.store.store import Store
from service.store.store_check import StoreMisconfigured

app = typer.Typer(help="Vehicles as files, and whether what is held is right.", no_args_is_help=True)

Url = Annotated[str, typer.Option(help="Base URL of the service.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
HERE = "http://127.0.0.1:8000"
SHOWN = 20  # refusals printed for people; --json has all


@app.command("export")
def export(
    folder: Annotated[Path, typer.Argument(help="Where the files go, one per vehicle.")],
    vehicles: Annotated[list[str] | None, typer.Argument(help="Vehicle ids [all].")] = None,
    url: Url = HERE,
    key: ApiKeyOption = None,
    *,
    as_json: AsJson = False,
) -> None:
    """Write vehicles to files from which their streams go on elsewhere, bit for bit.

    Each file is one moment of its vehicle. Exit code 1 if one could not be exported; vehicles without a state are skipped
    and listed.
    """
    with refusing(ClientError, OSError), Client(url, key) as client, Progress(console=console) as progress:
        wanted = vehicles or listed_vehicles(client)
        task = progress.add_task("export", total=len(wanted))
        moved = export_vehicles(client, wanted, folder, lambda: progress.advance(task))
    if vehicles:
        moved.refused |= moved.skipped  # who was asked for by name is missed
        moved.skipped.clear()
    report(moved, "exported", as_json=as_json)


@app.command("import")
def import_(
    paths: Annotated[list[Path], typer.Argument(help="Files from `state export`, or folders of them.")],
    url: Url = HERE,
    key: ApiKeyOption = None,
    *,
    replace: Annotated[
        bool, typer.Option("--replace", help="Also where the service is further than the file: takes samples back.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Put exported vehicles into a service of the same model.

    Exit code 1 if one was refused: damaged, of another model, or further in the service than in the file. The others are
    imported all the same, and importing a file twice does no harm.
    """
    with refusing(ClientError, OSError), Client(url, key) as client, Progress(console=console) as progress:
        files = files_in(paths)
        task = progress.add_task("import", total=len(files))
        moved = import_files(client, files, lambda: progress.advance(task), replace=replace)
    report(moved, "imported", as_json=as_json)


def report(moved: Moved, verb: str, *, as_json: bool) -> None:
    """Tell what was moved; exit code 1 if something was refused."""
    if as_json:
        print_json(moved.to_json(verb))
    else:
        console.print(f"{len(moved.done)} {verb}, {moved.n_bytes / 1e6:.1f} MB", highlight=False)
        for word, reasons in (("without state", moved.skipped), ("refused", moved.refused)):
            for name, why in list(reasons.items())[:SHOWN]:
                console.print(f"{word}: {name}: {why}", highlight=False, markup=False, soft_wrap=True)
            if len(reasons) > SHOWN:
                console.print(f"{word}: {len(reasons) - SHOWN} more; --json lists them all", highlight=False)
    if moved.refused:
        raise typer.Exit(ANSWER_IS_NO)


@app.command()
def verify(
    vehicle: Annotated[str | None, typer.Argument(help="Vehicle id [all, in the store].")] = None,
    file: Annotated[Path | None, typer.Argument(help="The recording that was streamed, from its first row.")] = None,
    form: Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")] = "leafspy",
    url: Url = HERE,
    key: ApiKeyOption = None,
    store: Annotated[str | None, typer.Option(help="redis:// or unix:// URL [EMBERWATCH_STORE].")] = None,
    checkpoint: Annotated[Path, typer.Option(help="Folder of the model in service.")] = SHIPPED,
    tolerance: Annotated[float, typer.Option(help="Largest relative error of the state (promise 1).")] = 1e-4,
    *,
    as_json: AsJson = False,
) -> None:
    """Check one vehicle against its recording, or every vehicle in the store against its checksums.

    With VEHICLE and FILE: recompute the state by the float64 scan over the same file and compare it with what the service
    holds; rows up to the state's seq are used, so it works in mid-stream too. Exit code 1 if the error is above the
    tolerance.

    Without: read head, journal and snapshot of every vehicle straight from the store and check that they are whole, of this
    model, and lead from one to the other. Exit code 1 if a vehicle could not go on from what is stored.
    """
    if (vehicle is None) != (file is None):
        raise typer.BadParameter("give both VEHICLE and FILE, or neither")
    with refusing(
        RecordingError, ClientError, CheckpointError, StateCodecError, ExportError, ServiceError, StoreMisconfigured,
        ValueError,
    ):  # fmt: skip
        model = load_checkpoint(checkpoint)
        if vehicle is None or file is None:
            broken, n = asyncio.run(check_store(store, model))
            found: dict[str, Any] = {
                "vehicles": n,
                "broken": [{"vehicle_id": b.vehicle_id, "kind": b.kind, "reason": b.reason} for b in broken],
                "agrees": not broken,
            }
        else:
            recording = read_recording(file, form)  # a wrong file is said before anybody is asked
            with Client(url, key) as client:
                held = unpack_export(client.content(state_path(vehicle)))
            found = comparison(model, held, recording, tolerance)
    if as_json:
        print_json(found)
    else:
        for name, value in found.items():
            console.print(f"{name:>16}  {value}", highlight=False)
    if not found["agrees"]:
        raise typer.Exit(ANSWER_IS_NO)


def comparison(model: Checkpoint, export_: Export, recording: Any, tolerance: float) -> dict[str, Any]:
    """What a vehicle's state is beside the offline scan.

    Raises:
        StateCodecError: another model's, or the recording does not have its samples.
    """
    held = export_.snapshot()
    if held.fingerprint != model.fingerprint():
        raise StateCodecError(f"the service runs model {held.fingerprint}, not {model.fingerprint()}")
    if not 0 <= held.seq < len(recording.ts_ms):
        raise StateCodecError(f"the state is at seq {held.seq}, the file has rows 0 to {len(recording.ts_ms) - 1}")
    rows = slice(0, held.seq + 1)
    truth = recompute(model, recording.ts_ms[rows], recording.signals[rows])
    errors = {"ssm_state": relative_error(held.ssm, truth.ssm), "conv_state": relative_error(held.conv, truth.conv)}
    return {
        "vehicle": export_.vehicle_id,
        "epoch": held.epoch,
        "seq": held.seq,
        "samples": held.seq + 1,
        "relative_error": errors,
        "tolerance": tolerance,
        "agrees": all(error <= tolerance for error in errors.values()),  # never true of NaN
    }


def relative_error(value: np.ndarray, truth: np.ndarray) -> float:
    """Norm of the difference over the norm of the truth."""
    return float(np.linalg.norm(value.astype(np.float64) - truth) / np.linalg.norm(truth))


async def check_store(url: str | None, model: Checkpoint) -> tuple[list[Broken], int]:
    """Vehicles that could not go on, and how many were looked at.

    Raises:
        ValueError: there is no store to look at.
        StoreUnavailable, StoreMisconfigured.
    """
    settings = Settings()
    url = url or settings.store
    if url == "embedded":
        url = socket_of(settings.data_dir)
    journals = JournalLayout(model.config.d_input)
    partitions = settings.partitions
    store = Store(
        url, partitions, settings.store_timeout_s, Metrics().store_duration, entry_bytes=journals.dtype.itemsize
    )
    looked = 0
    with Progress(console=console) as progress:
        try:
            await store.check()
            task = progress.add_task("verify", total=await store.roll.count())

            def advance(n: int) -> None:
                nonlocal looked
                looked += n
                progress.advance(task, n)

            rehydrator = Rehydrator(HeadLayout(model.preprocessor(), model.fingerprint()), journals)
            return await broken_vehicles(store, rehydrator, advance), looked
        finally:
            await store.close()
