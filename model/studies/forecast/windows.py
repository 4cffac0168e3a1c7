"""From a series to what is learned from and what is judged: splits in time, windows, targets.

A target is how far a feature will have moved from its held z-score so many steps later, in units of its typical move in
the training part: always zero for persistence, and every feature and horizon weighs the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from model.studies.forecast.scales import Scales
from model.studies.forecast.series import Segment, Series
from model.training.sampler import Batch

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SHARES = {"train": 0.6, "validation": 0.15, "test": 0.25}
WHOLE_FILES = 8  # from so many files on, none is cut
WARMUP = 64  # steps of a segment before the first one that is judged


@dataclass(frozen=True, slots=True)
class Piece:
    """A segment of one split, as z-scores."""

    source: str
    z: Floats  # (length, n_features); NaN: not measured
    held: Floats  # (length, n_features): the last measured, 0 before the first

    @property
    def present(self) -> Bools:
        """(length, n_features) measured."""
        return ~np.isnan(self.z)

    def __len__(self) -> int:
        return len(self.z)


def split_in_time(series: Series) -> dict[str, list[Segment]]:
    """Training, validation and test part, in this order: whole files where there are many, else cut where the shares end.

    Raises:
        ValueError: too few rows for three parts.
    """
    lengths = np.array([len(segment.values) for segment in series.segments])
    ends = np.cumsum(lengths)
    cuts = np.round(np.cumsum(list(SHARES.values())) * ends[-1]).astype(np.int64)
    if len(series.sources) >= WHOLE_FILES:
        last = {segment.source: end for segment, end in zip(series.segments, ends, strict=True)}
        borders = np.array([0, *last.values()])
        cuts = borders[np.abs(borders[:, None] - cuts).argmin(axis=0)]
    parts: dict[str, list[Segment]] = {name: [] for name in SHARES}
    first = 0
    for name, cut in zip(SHARES, cuts, strict=True):
        for segment, end in zip(series.segments, ends, strict=True):
            start = end - len(segment.values)
            own = segment.values[max(first - start, 0) : max(cut - start, 0)]
            if len(own):
                parts[name].append(Segment(segment.source, own))
        first = cut
    short = [name for name, part in parts.items() if not any(len(segment.values) > 2 * WARMUP for segment in part)]
    if short:
        raise ValueError(
            f"{ends[-1]} rows are too few: no segment of the {', '.join(short)} part is longer than {2 * WARMUP}"
        )
    return parts


def as_pieces(segments: Sequence[Segment], scales: Scales) -> list[Piece]:
    """Z-scores, the last one held where none was measured."""
    pieces = []
    for segment in segments:
        z = scales.z(segment.values)
        last = np.maximum.accumulate(np.where(np.isnan(z), -1, np.arange(len(z))[:, None]), axis=0)
        held = np.where(last >= 0, np.take_along_axis(z, np.maximum(last, 0), axis=0), 0.0)
        pieces.append(Piece(segment.source, z, held))
    return pieces


def moves(piece: Piece, horizons: Sequence[int]) -> Floats:
    """(length, n_horizons, n_features) z-score so many steps later minus the held one; NaN where either was not measured."""
    out = np.full((len(piece), len(horizons), piece.z.shape[1]), np.nan)
    for h, steps in enumerate(horizons):
        if len(piece) > steps:
            out[:-steps, h] = piece.z[steps:] - piece.held[:-steps]
    return np.where(piece.present[:, None], out, np.nan)


def typical_moves(pieces: Sequence[Piece], horizons: Sequence[int]) -> Floats:
    """(n_horizons, n_features) root of the mean squared move; 1 where nothing ever moves."""
    every = np.concatenate([moves(piece, horizons) for piece in pieces])
    squares = np.where(np.isnan(every), 0.0, every**2).sum(axis=0) / np.maximum((~np.isnan(every)).sum(axis=0), 1)
    return np.where(squares > 0, np.sqrt(squares), 1.0)


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch that a network sees from a zero state."""

    piece: int
    start: int
    stop: int
    judged: int  # the first step that no earlier window judges


def windows(pieces: Sequence[Piece], context: int, stride: int) -> list[Window]:
    """Windows of `context` steps, a new one each `stride`; the last ends with its piece, a short piece is one window."""
    found = []
    for i, piece in enumerate(pieces):
        last = max(len(piece) - context, 0)
        judged = WARMUP
        for start in [*range(0, last, stride), last]:
            stop = min(start + context, len(piece))
            if stop > judged:
                found.append(Window(i, start, stop, judged))
            judged = max(judged, stop)
    return found


@dataclass(frozen=True, slots=True)
class Task:
    """What every contender is asked: pieces of one split, horizons, and the units of the targets."""

    pieces: Sequence[Piece]
    horizons: tuple[int, ...]
    unit: Floats  # (n_horizons, n_features)
    context: int
    stride: int

    @property
    def n_targets(self) -> int:
        """Horizons times features."""
        return int(self.unit.size)

    @property
    def d_input(self) -> int:
        """Width of a network's inputs: the held z-scores once for every horizon, then what was measured."""
        return self.n_targets + self.n_features

    @property
    def n_features(self) -> int:
        """Features of the series."""
        return int(self.unit.shape[1])

    def windows(self) -> list[Window]:
        """See `windows`."""
        return windows(self.pieces, self.context, self.stride)

    def targets(self, piece: Piece) -> Floats:
        """(length, n_targets) moves in their units; NaN where there is none."""
        return (moves(piece, self.horizons) / self.unit).reshape(len(piece), -1)


class Rows:
    """Inputs and targets of all pieces of a task on a device, one behind the other, from which windows are taken."""

    def __init__(self, task: Task, device: torch.device) -> None:
        lengths = [len(piece) for piece in task.pieces]
        self._starts = np.concatenate(([0], np.cumsum(lengths)[:-1])).astype(np.int64)
        self._nothing = sum(lengths)  # the row of zeros that pads short windows
        total = self._nothing + 1
        inputs = np.zeros((total, task.d_input), np.float32)
        targets = np.full((total, task.n_targets), np.nan, np.float32)
        for start, piece in zip(self._starts, task.pieces, strict=True):
            own = slice(start, start + len(piece))
            inputs[own, : task.n_targets] = np.tile(piece.held, len(task.horizons))
            inputs[own, task.n_targets :] = piece.present
            targets[own] = task.targets(piece)  # which may lie behind a window's end
        known = ~np.isnan(targets)
        tensors = (inputs, np.where(known, targets, 0.0).astype(np.float32), known)
        self._inputs, self._targets, self._known = (torch.from_numpy(array).to(device) for array in tensors)

    def batch(self, chosen: Sequence[Window]) -> Batch:
        """Windows side by side, zeros behind the shorter ones; each starts from the zero state."""
        pieces, starts, stops = (np.array([getattr(w, name) for w in chosen]) for name in ("piece", "start", "stop"))
        offsets = np.arange((stops - starts).max())
        rows = np.where(
            offsets < (stops - starts)[:, None], (self._starts[pieces] + starts)[:, None] + offsets, self._nothing
        )
        device = self._inputs.device
        at = torch.from_numpy(rows.ravel()).to(device)
        x, z, present = (
            every.index_select(0, at).unflatten(0, rows.shape) for every in (self._inputs, self._targets, self._known)
        )
        nothing = torch.zeros(rows.shape, device=device)
        return Batch(
            inputs=x, ratio=torch.ones_like(nothing), z=z, present=present,
            label=nothing, counted=nothing.bool(), fresh=torch.ones(len(chosen), dtype=torch.bool, device=device),
        )  # fmt: skip


class WindowSampler:
    """Draws windows of the training part with equal odds."""

    def __init__(self, task: Task, batch: int, seed: int, device: torch.device) -> None:
        self._rows, self._batch = Rows(task, device), batch
        self._windows = task.windows()
        self._rng = np.random.default_rng(seed)

    def draw(self) -> Batch:
        """See `model.baselines.stateful_training.Draws`."""
        picks = self._rng.choice(len(self._windows), self._batch, replace=len(self._windows) < self._batch)
        return self._rows.batch([self._windows[i] for i in picks])


def described(parts: Mapping[str, Sequence[Segment]]) -> dict[str, dict[str, str | float]]:
    """Sizes of each split."""
    return {
        name: {
            "rows": float(sum(len(s.values) for s in part)),
            "segments": float(len(part)),
            "files": float(len({s.source for s in part})),
            "first": part[0].source,
            "last": part[-1].source,
            "not measured, % of values": 100.0
            * float(np.mean(np.concatenate([np.isnan(s.values).ravel() for s in part]))),
        }
        for name, part in parts.items()
    }
