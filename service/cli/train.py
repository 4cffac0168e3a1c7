"""`emberwatch train`: a checkpoint from a simulated fleet or from a user's own recordings."""

import logging
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from service.cli.output import console, print_json, refusing, train_extra

DEFAULT_STEPS = 1_000


class Block(StrEnum):
    """Kind of Mamba block."""

    MAMBA1 = "mamba1"
    MAMBA2 = "mamba2"


def train(
    out: Annotated[Path, typer.Option(help="Folder of the checkpoint; its `work` holds data and points to resume.")],
    data: Annotated[
        Path | None, typer.Option(help="Folder of your own recordings, one CSV or Parquet file per vehicle.")
    ] = None,
    events: Annotated[Path | None, typer.Option(help="CSV or Parquet file: vehicle_id, start, end (optional).")] = None,
    channels: Annotated[
        Path | None, typer.Option(help="JSON file of signals and channels, if they are not a van's (docs/training.md).")
    ] = None,
    vans: Annotated[int, typer.Option(min=8, help="Vans to simulate, without --data.")] = 240,
    validation_vans: Annotated[
        int | None, typer.Option(min=1, help="Vans to simulate for validation [a quarter of --vans].")
    ] = None,
    days: Annotated[float, typer.Option(min=0.1, help="Days to simulate of each van.")] = 14.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the simulated fleet and of the training.")] = 0,
    length: Annotated[int, typer.Option(min=16, help="Samples of a training sequence.")] = 34_560,
    batch: Annotated[int, typer.Option(min=1, help="Sequences in a step, per process.")] = 16,
    pretrain_steps: Annotated[int, typer.Option(min=0, help="Steps of forecast only.")] = 200,
    finetune_steps: Annotated[int, typer.Option(min=1, help="Steps of risk and forecast.")] = DEFAULT_STEPS,
    learning_rate: Annotated[float, typer.Option(min=0, help="At the end of the warm-up.")] = 2e-3,
    warmup_steps: Annotated[int, typer.Option(min=1, help="Steps until the learning rate is reached.")] = 100,
    validate_every: Annotated[int, typer.Option(min=1, help="Steps between validations.")] = 100,
    d_model: Annotated[int, typer.Option(min=1, help="Width of the network.")] = 128,
    n_layer: Annotated[int, typer.Option(min=1, help="Mamba blocks.")] = 4,
    d_state: Annotated[int, typer.Option(min=1, help="State size per inner channel.")] = 64,
    block: Annotated[
        Block, typer.Option(help="mamba2 has no step in C++ or CUDA: torch serves it (docs/training.md).")
    ] = Block.MAMBA1,
    head_dim: Annotated[int, typer.Option(min=1, help="With mamba2: inner channels that share one decay.")] = 64,
    workers: Annotated[int, typer.Option(min=1, help="Processes that prepare the data.")] = 2,
    *,
    start_from: Annotated[
        Path | None, typer.Option(help="Checkpoint whose weights to start from, of the same sizes and channels.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last saved point.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Train, calibrate on validation vehicles, and save a checkpoint that `emberwatch serve --checkpoint` takes.

    Several GPUs: `torchrun --nproc-per-node 2 --no-python emberwatch train --out ...`.
    """
    with refusing(ValueError, OSError, ArithmeticError), train_extra():
        from model.checkpoint import load_checkpoint  # noqa: PLC0415  (slow to import)
        from model.training import Ranks, TrainingConfig  # noqa: PLC0415  (an extra)
        from model.training.finish import finish  # noqa: PLC0415  (an extra)
        from model.training.run import Data  # noqa: PLC0415  (an extra)
        from model.training.run import train as run  # noqa: PLC0415  (an extra)
        from model.training.sources import recorded, simulated  # noqa: PLC0415  (an extra)
        from model.training.watch import Watch  # noqa: PLC0415  (an extra)

        if (data is None) != (events is None):
            raise ValueError("--data and --events go together: without events there is nothing to warn of")
        if channels is not None and data is None:
            raise ValueError("--channels describes the recordings in --data; a simulated van has its own")
        config = TrainingConfig(
            seed=seed, length=length, batch=batch, pretrain_steps=pretrain_steps, finetune_steps=finetune_steps,
            learning_rate=learning_rate, warmup_steps=warmup_steps, validate_every=validate_every,
        )  # fmt: skip
        ranks = Ranks()
        logging.basicConfig(level=logging.INFO if ranks.first else logging.ERROR, format="%(asctime)s %(message)s")

        def open_sources() -> Data:
            if data is None or events is None:
                return simulated(vans, days, seed, validation_vans)
            return recorded(data, events, channels, workers=workers)

        sources = ranks.from_first(open_sources)
        first = load_checkpoint(start_from) if start_from is not None else None
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, disable=not ranks.first) as progress:
            watch = Watch(out / "tensorboard", progress, config) if ranks.first else None
            checkpoint = run(
                sources, config, out, ranks=ranks, workers=workers, resume=resume, on_step=watch,
                network={
                    "d_model": d_model, "n_layer": n_layer, "d_state": d_state, "block": block.value, "head_dim": head_dim,
                },
                prior=first.prior if first is not None else None,
                start=first.network.state_dict() if first is not None else None,
            )  # fmt: skip
        figures = finish(checkpoint, sources.validation, out, ranks.device) if ranks.first else {}
        ranks.close()
    if ranks.first and as_json:
        print_json(figures)
    elif ranks.first:
        for name, value in figures.items():
            console.print(f"{name:>30}  {value}", highlight=False)
