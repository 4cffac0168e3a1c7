"""A whole training run: data, prior, both stages, and a checkpoint; the operating point is the caller's to choose."""

import hashlib
import json
import logging
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels import MambaConfig
from model.checkpoint import Checkpoint, save_checkpoint
from model.dataset import TraceSource, build_sequences, fit_prior, open_sequences
from model.network import RiskNetwork
from model.normaliser import FleetPrior
from model.preprocess import VERSION, Preprocessor
from model.scoring import Calibration
from model.training.config import TrainingConfig
from model.training.loop import Progress, Scalars, Trainer
from model.training.ranks import Ranks

logger = logging.getLogger(__name__)

NOMINAL_INTERVAL_S = 5.0
PREPARED = "prior.json"


@dataclass(frozen=True, slots=True)
class Data:
    """What a run learns from and what it is judged on while it runs."""

    train: TraceSource
    validation: TraceSource


def prepare(data: Data, folder: Path, ranks: Ranks, workers: int, prior: FleetPrior | None = None) -> FleetPrior:
    """Preprocess both parts into `folder` unless they are there; one process does it, the others wait.

    Without a prior it is fitted to the training vehicles.
    """
    if ranks.first and prepared(folder) != identity(data, prior):
        fitted = prior or fit_prior(data.train, workers=workers)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PREPARED).unlink(missing_ok=True)
        preprocessor = Preprocessor(data.train.schema, fitted, NOMINAL_INTERVAL_S)
        for name, source in (("train", data.train), ("validation", data.validation)):
            build_sequences(source, preprocessor, range(len(source)), workers=workers, folder=folder / name)
        text = json.dumps({"data": identity(data, prior), "prior": asdict(fitted)})
        (folder / PREPARED).write_text(text)  # last: without it the folder is unfinished
    ranks.wait()
    return FleetPrior.from_json(json.loads((folder / PREPARED).read_text())["prior"])


def identity(data: Data, prior: FleetPrior | None) -> str:
    """A digest of what prepared data depend on: the sources' own descriptions and the preprocessing."""
    return hashlib.sha256(repr((data, prior, VERSION)).encode()).hexdigest()


def prepared(folder: Path) -> str | None:
    """The identity of the data prepared in a folder; None where there are none."""
    if not (folder / PREPARED).is_file():
        return None
    return str(json.loads((folder / PREPARED).read_text()).get("data"))


def train(
    data: Data,
    config: TrainingConfig,
    out: Path,
    *,
    ranks: Ranks,
    workers: int = 2,
    work: Path | None = None,
    resume: bool = False,
    network: dict[str, Any] | None = None,
    prior: FleetPrior | None = None,
    start: dict[str, Tensor] | None = None,
    on_step: Callable[[Progress, Scalars], None] | None = None,
) -> Checkpoint:
    """Train and save a checkpoint with plain calibration; `model.evaluation` chooses its operating point.

    Args:
        data: sources of one schema.
        config: of the run.
        out: folder of the checkpoint.
        ranks: this process's place.
        workers: processes that prepare the data.
        work: folder of prepared data and of points to resume from; `out / "work"` by default.
        resume: go on from the last point in `work`.
        network: sizes that differ from `MambaConfig`'s defaults.
        prior: of the vehicles' statistics, if not fitted to the training vehicles.
        start: weights to start from instead of random ones, of a network of the same sizes.
        on_step: told about progress.

    Raises:
        ValueError: `resume`, but the data in `work` are others.
        TrainingDivergedError: a gradient is not finite.
    """
    work = work or out / "work"
    if resume and prepared(work) != identity(data, prior):
        raise ValueError(f"{work} holds nothing of these data to resume from; train without --resume")
    ranks.wait()  # before anybody changes it
    prior = prepare(data, work, ranks, workers, prior)
    torch.manual_seed(config.seed)
    schema = data.train.schema
    sizes = MambaConfig(d_input=schema.d_input, n_channels=len(schema.channels), **(network or {}))
    initial = RiskNetwork(sizes)
    if start is not None:
        initial.load_state_dict(start)
    trainer = Trainer(
        initial,
        schema,
        open_sequences(work / "train"),
        open_sequences(work / "validation"),
        config,
        ranks,
        work,
    )
    if resume:
        trainer.resume()
        logger.info("resumed at step %d of %d", trainer.progress.step, config.total_steps)
    weights = trainer.run(on_step)
    best = RiskNetwork(sizes)
    # What is shipped is rounded; everything that is ever said about it is said of the rounded weights.
    best.load_state_dict({name: tensor.half().float().cpu() for name, tensor in weights.items()})
    provenance: dict[str, Any] = {
        "training": asdict(config),
        "steps": trainer.progress.step,
        "best_step": trainer.progress.best_step,
        "history": [
            {name: finite_or_none(value) for name, value in entry.items()} for entry in trainer.progress.history
        ],
        "processes": ranks.count,
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if ranks.device.type == "cuda" else "cpu",
    }
    checkpoint = Checkpoint(
        best, schema, prior, Calibration(), warmup_samples=config.warmup_samples, provenance=provenance
    )
    if ranks.first:
        save_checkpoint(checkpoint, out, dtype=torch.float16)
    ranks.wait()
    return checkpoint


def finite_or_none(value: float) -> float | None:
    """NaN, which JSON does not have, as null."""
    return value if math.isfinite(value) else None
