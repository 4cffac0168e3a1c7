"""`python -m model.drift_reference`: what inputs and scores looked like in training, for model/drift.py.

Inputs are those of vans of the training fleet (half of them faulty, as trained); scores are of the validation fleet, in
which faults are as rare as in life, because alert thresholds were chosen there.
"""

import argparse
import math
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.checkpoint import SHIPPED, Checkpoint, CheckpointError, load_checkpoint
from model.dataset import TraceSource, preprocess_traces
from model.drift import Distribution, DriftReference
from model.evaluation.mamba import MambaScorer
from model.training.sources import simulated

DAYS = 14.0
CELL = 0.5  # about so far apart are edges, in standard deviations or logits,
FINE = 0.02  # each where, to this precision, values are rarest:
LEAST_MASS = 0.002  # a parked fleet's z-scores are nearly one number, and an edge through it would measure noise
CLIP = 8.0


def bins_of(values: NDArray[np.floating]) -> Distribution:
    """Bins of a sample (n,) of z-scores or logits: edges in the gaps between its heaps, none of a bin with nearly nothing."""
    n_cells, per_cell = round(2 * CLIP / CELL), round(CELL / FINE)
    heights, grid = np.histogram(np.clip(values, -CLIP, CLIP), n_cells * per_cell, (-CLIP, CLIP))
    edges: list[float] = []
    below = np.concatenate([[0], np.cumsum(heights)]) / len(values)
    kept = 0.0
    for cell in range(n_cells):
        lowest = cell * per_cell + int(np.argmin(heights[cell * per_cell : (cell + 1) * per_cell]))
        if below[lowest] - kept >= LEAST_MASS and 1.0 - below[lowest] >= LEAST_MASS:
            edges.append(float(f"{grid[lowest]:.5g}"))
            kept = float(below[lowest])
    if not edges:
        raise ValueError("values that are all alike have no distribution to compare with")
    counts = np.bincount(np.searchsorted(edges, values, side="left"), minlength=len(edges) + 1)
    return Distribution(tuple(edges), tuple(float(f"{n / len(values):.6f}") for n in counts))


def reference_of(
    checkpoint: Checkpoint, training: TraceSource, validation: TraceSource, command: str
) -> DriftReference:
    """The reference from vans of a training fleet (inputs) and of a validation fleet (scores), all of them in memory.

    Raises:
        ValueError: a channel is absent in all vans, or always the same.
    """
    n, names = len(checkpoint.schema.channels), [channel.name for channel in checkpoint.schema.channels]
    seen: list[list[NDArray[np.float32]]] = [[] for _ in names]
    preprocessor = checkpoint.preprocessor()
    for van in range(len(training)):
        sequences = preprocess_traces(preprocessor, [training.trace(van)])
        inputs = sequences.inputs[0, : sequences.lengths[0]]
        for i in range(n):
            seen[i].append(inputs[inputs[:, n + i] != 0, i].copy())
    channels = {name: bins_of(np.concatenate(parts)) for name, parts in zip(names, seen, strict=True)}
    scorer = MambaScorer(checkpoint)
    logits = np.concatenate([scorer.score([validation.trace(van)])[0] for van in range(len(validation))])
    calibration = checkpoint.calibration
    score = bins_of(calibration.slope * logits + calibration.intercept)
    risks = tuple(float(f"{1.0 / (1.0 + math.exp(-edge)):.5g}") for edge in score.edges)
    return DriftReference(checkpoint.fingerprint(), command, channels, Distribution(risks, score.shares))


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m model.drift_reference", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="folder; the reference is written into it")
    parser.add_argument("--vans", type=int, default=24, help="of the training fleet")
    parser.add_argument("--validation-vans", type=int, default=16, help="of the validation fleet")
    parser.add_argument("--days", type=float, default=DAYS)
    options = parser.parse_args(arguments)
    command = shlex.join(["python", "-m", "model.drift_reference", *(sys.argv[1:] if arguments is None else arguments)])
    data = simulated(options.vans, options.days, seed=0, validation_vans=options.validation_vans)
    try:
        checkpoint = load_checkpoint(options.checkpoint)
        reference_of(checkpoint, data.train, data.validation, command).save(options.checkpoint)
    except (CheckpointError, ValueError) as error:
        sys.stderr.write(f"drift_reference: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
