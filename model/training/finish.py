"""Temporary: stands in until the module that calibrates and chooses thresholds is merged."""

from pathlib import Path

import torch

from model.checkpoint import Checkpoint, save_checkpoint
from model.dataset import TraceSource


def finish(
    checkpoint: Checkpoint, validation: TraceSource, out: Path, device: torch.device
) -> dict[str, float | None]:
    """Save the checkpoint as it is."""
    del validation, device
    save_checkpoint(checkpoint, out, dtype=torch.float16)
    return {}
