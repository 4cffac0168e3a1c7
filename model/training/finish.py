"""The end of a run: calibrate on the validation vehicles, choose the operating point, save, and say how good it is."""

from dataclasses import replace
from pathlib import Path

import torch

from model.checkpoint import Checkpoint, save_checkpoint
from model.dataset import TraceSource
from model.evaluation import choose_calibration, figures_of_vans, scored
from model.evaluation.mamba import MambaScorer
from model.scoring import Calibration

GROUP = 16  # vehicles scored side by side


def finish(checkpoint: Checkpoint, validation: TraceSource, out: Path, device: torch.device) -> dict[str, float | None]:
    """Choose the operating point on the validation vehicles and save the checkpoint with it.

    Returns:
        Figures on those same vehicles, hence optimistic; `emberwatch evaluate` judges on others. Without a positive and
        a negative instant nothing can be calibrated: the checkpoint keeps its plain calibration and the figures are
        empty.
    """
    scorer = MambaScorer(checkpoint, device)
    vans = []
    for start in range(0, len(validation), GROUP):
        traces = [validation.trace(i) for i in range(start, min(start + GROUP, len(validation)))]
        vans += [scored(trace, score) for trace, score in zip(traces, scorer.score(traces), strict=True)]
    figures: dict[str, float | None] = {}
    calibration = Calibration()
    if any((van.label & van.valid).any() for van in vans):
        calibration = choose_calibration(vans)
        figures = figures_of_vans(vans, calibration)
    provenance = {**checkpoint.provenance, "validation": figures}
    save_checkpoint(replace(checkpoint, calibration=calibration, provenance=provenance), out, dtype=torch.float16)
    return figures
