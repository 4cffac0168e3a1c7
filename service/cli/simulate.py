"""`emberwatch simulate`: write a simulated fleet to Parquet."""

import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from service.cli.output import console, print_json, refusing, train_extra


class Detail(StrEnum):
    """What is written of each van."""

    WIRE = "wire"
    LABELS = "labels"
    TRUTH = "truth"


def simulate(
    out: Annotated[Path, typer.Option(help="Folder for one Parquet file per van.")],
    vans: Annotated[int, typer.Option(min=1, help="Vans in the fleet.")] = 240,
    days: Annotated[float, typer.Option(min=0.01, help="Length of each trace.")] = 14.0,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same fleet.")] = 0,
    faulty_share: Annotated[float, typer.Option(min=0, max=1, help="Vans that develop a fault.")] = 0.3,
    detail: Annotated[
        Detail, typer.Option(help="Signals only, with labels, or with hidden temperatures.")
    ] = Detail.LABELS,
    processes: Annotated[int, typer.Option(min=1, help="Vans simulated side by side.")] = 2,
    *,
    as_json: Annotated[bool, typer.Option("--json", help="Print a summary as JSON.")] = False,
) -> None:
    """Simulate a fleet of vans with faults, labelled from true temperatures (docs/simulator.md).

    `--detail wire` files can be streamed with `emberwatch replay --format parquet`.
    """
    with refusing(ValueError, OSError), train_extra():
        from model.fleet import FleetConfig  # noqa: PLC0415  (an extra)
        from model.fleet.parquet import write_fleet  # noqa: PLC0415  (an extra)

        config = FleetConfig(n_vehicles=vans, days=days, seed=seed, faulty_share=faulty_share)
        started = time.perf_counter()
        with Progress(console=console) as progress:
            task = progress.add_task("vans", total=vans)
            paths = write_fleet(
                config,
                out,
                lambda done, _: progress.update(task, completed=done),
                detail=detail.value,
                processes=processes,
            )
    elapsed = time.perf_counter() - started
    summary = {
        "folder": str(out),
        "vans": len(paths),
        "samples_per_van_before_losses": config.n_samples,
        "bytes": sum(path.stat().st_size for path in paths),
        "seconds": round(elapsed, 1),
    }
    if as_json:
        print_json(summary)
    else:
        for name, value in summary.items():
            console.print(f"{name:>30}  {value}", highlight=False)
