"""Scorers by name: the product's own and the baselines."""

import hashlib
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model.checkpoint import load_checkpoint
from model.evaluation.mamba import MambaScorer
from model.evaluation.scorer import Scorer
from model.fleet import VehicleTrace

PRODUCT = MambaScorer.name
NEURAL = ("lstm", "transformer")
TRAINED = ("lightgbm", *NEURAL)
NAMES = (PRODUCT, "temperature_rule", "gaussian", *TRAINED, "oracle")
QUICK = (PRODUCT, "temperature_rule", "gaussian", "lightgbm")


class ScorerUnavailableError(RuntimeError):
    """The scorer cannot be made here; the message says what is missing."""


def make_scorer(name: str, checkpoint: Path, baselines: Path, device: torch.device | None = None) -> Scorer:
    """A scorer, ready to score.

    Args:
        name: one of NAMES.
        checkpoint: folder of the product's model.
        baselines: folder with one folder for each fitted baseline, by name.
        device: for the product's model; by default CUDA where there is one.

    Raises:
        ScorerUnavailableError: its package or its weights are missing.
        ValueError: no scorer has that name.
        CheckpointError: the checkpoint of the product's model cannot be used.
    """
    if name not in NAMES:
        raise ValueError(f"scorers are {', '.join(NAMES)}, got {name!r}")
    if name == PRODUCT:
        return MambaScorer(load_checkpoint(checkpoint), device)
    if not (baselines / name).is_dir():
        raise ScorerUnavailableError(f"{name}: no fitted baseline in {baselines / name}")
    try:
        module = importlib.import_module("model.baselines")
    except ImportError as error:
        raise ScorerUnavailableError(f"{name}: {error}") from error
    try:
        return FittedBaseline(name, module.load(baselines / name), _digest(baselines / name))
    except module.BaselineError as error:
        raise ScorerUnavailableError(f"{name}: {error}") from error


@dataclass(frozen=True, slots=True)
class FittedBaseline:
    """A baseline with what tells one fit from another."""

    name: str
    baseline: Scorer
    fingerprint: str

    def score(self, traces: Sequence[VehicleTrace]) -> list[NDArray[np.float32]]:
        """See `Scorer`."""
        return self.baseline.score(traces)


def _digest(folder: Path) -> str:
    """32 hex digits over the files of a fitted baseline."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()[:32]
