"""Scorers by name: the product's own and the baselines."""

import importlib
from pathlib import Path

import torch

from model.checkpoint import SHIPPED, load_checkpoint
from model.evaluation.mamba import MambaScorer
from model.evaluation.scorer import Scorer

PRODUCT = MambaScorer.name
NEURAL = ("lstm", "transformer")
TRAINED = ("lightgbm", *NEURAL)
NAMES = (PRODUCT, "temperature_rule", "gaussian", *TRAINED, "oracle")
QUICK = (PRODUCT, "temperature_rule", "gaussian", "lightgbm")


class ScorerUnavailableError(RuntimeError):
    """The scorer cannot be made here; the message says what is missing."""


def make_scorer(name: str, checkpoint: Path = SHIPPED, device: torch.device | None = None) -> Scorer:
    """A scorer, ready to score.

    Raises:
        ScorerUnavailableError: its package or its weights are missing.
        ValueError: no scorer has that name.
        CheckpointError: the checkpoint of the product's model cannot be used.
    """
    if name not in NAMES:
        raise ValueError(f"scorers are {', '.join(NAMES)}, got {name!r}")
    if name == PRODUCT:
        return MambaScorer(load_checkpoint(checkpoint), device)
    try:
        baselines = importlib.import_module("model.baselines")
        scorer: Scorer = baselines.make(name)
    except (ImportError, FileNotFoundError) as error:
        raise ScorerUnavailableError(f"{name}: {error}") from error
    return scorer
