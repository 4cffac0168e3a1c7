"""The study from a file to a report."""

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from model.studies.forecast import bars
from model.studies.forecast.contenders import Autoregression, Contender, NetworkSizes, Persistence, trained
from model.studies.forecast.judging import judge, units_of, weights_of
from model.studies.forecast.pages import Outcome, Trace, report
from model.studies.forecast.scales import Scales, fit_scales
from model.studies.forecast.series import Segment, Series, read_series
from model.studies.forecast.windows import WARMUP, Task, as_pieces, described, split_in_time, typical_moves
from model.studies.report import StudyReport
from model.training.config import TrainingConfig

logger = logging.getLogger(__name__)

Floats = NDArray[np.float64]
NETWORKS = ("mamba2", "transformer")
SHOWN = 400  # steps of the example


@dataclass(frozen=True, slots=True)
class Settings:
    """One run.

    Raises:
        ValueError: neither a file nor generated bars, or both; horizons that are no forecast.
    """

    data: Path | None = None  # file or folder
    bars: int = 0  # generated minute bars instead
    columns: tuple[str, ...] = ()  # features; () takes a bar's five, or every column but the time
    time: str | None = None  # column of the time
    log: tuple[str, ...] = ()  # features of which the logarithm is taken
    log1p: tuple[str, ...] = ()
    step_s: float | None = None  # seconds between rows; None takes the median
    horizons: tuple[int, ...] = (1, 10, 60)  # steps ahead
    context: int = 2_048  # steps of a window
    overlap: float = 0.75  # of neighbouring windows
    steps: int = 320  # of each network's training
    batch: int = 2  # windows in a step
    learning_rate: float = 2e-3
    sizes: NetworkSizes = field(default_factory=NetworkSizes)
    seed: int = 0
    resamples: int = 1_000

    def __post_init__(self) -> None:
        if (self.data is None) == (self.bars == 0):
            raise ValueError("give either --data FILE or --bars NUMBER")
        if not self.horizons or min(self.horizons) < 1 or len(set(self.horizons)) < len(self.horizons):
            raise ValueError(f"horizons must be different numbers of steps, at least 1, got {self.horizons}")
        if self.context < 2 * WARMUP or not 0.0 <= self.overlap < 1.0:
            raise ValueError(f"context must be at least {2 * WARMUP} steps and overlap in [0, 1)")

    @property
    def stride(self) -> int:
        """Steps between the starts of neighbouring windows."""
        return max(1, round(self.context * (1.0 - self.overlap)))

    @property
    def kinds(self) -> dict[str, str] | None:
        """Transforms by feature; None leaves the choice to the loader."""
        named = {**dict.fromkeys(self.log, "log"), **dict.fromkeys(self.log1p, "log1p")}
        return named or None

    def training(self) -> TrainingConfig:
        """Of either network."""
        return TrainingConfig(
            seed=self.seed, length=self.context, batch=self.batch, pretrain_steps=0, finetune_steps=self.steps,
            learning_rate=self.learning_rate, warmup_steps=max(1, self.steps // 10), validate_every=max(1, min(self.steps // 4, 80)),
            average_decay=0.98,
        )  # fmt: skip


def enlarged(settings: Settings) -> Settings:
    """The sizes meant for a GPU: longer training on larger batches, attention over the whole window."""
    sizes = replace(settings.sizes, attention=settings.context)
    return replace(settings, steps=4_000, batch=32, sizes=sizes)


def read(settings: Settings) -> Series:
    """What the settings name."""
    if settings.data is not None:
        return read_series(settings.data, settings.columns, settings.time, settings.kinds, settings.step_s)
    values = bars.generated(settings.bars, settings.seed)
    return Series(bars.COLUMNS, bars.KINDS, 60.0, (Segment("generated", values),))


def run(settings: Settings, device: torch.device) -> StudyReport:
    """Read, split, train, judge.

    Raises:
        OwnDataError: rows that cannot be used.
        ValueError: too few rows, or a feature that never changes.
        FloatingPointError: a network's training diverged.
    """
    series = read(settings)
    parts = split_in_time(series)
    scales = fit_scales([segment.values for segment in parts["train"]], series.names, series.kinds)
    pieces = {name: as_pieces(part, scales) for name, part in parts.items()}
    unit = typical_moves(pieces["train"], settings.horizons)
    tasks = {
        name: Task(own, settings.horizons, unit, settings.context, settings.stride) for name, own in pieces.items()
    }
    contenders: dict[str, Contender] = {"persistence": Persistence()}
    seconds: dict[str, float] = {}
    started = time.monotonic()
    autoregression = Autoregression(tasks["train"], tasks["validation"])
    contenders["autoregression"] = autoregression
    seconds["autoregression"] = time.monotonic() - started
    logger.info("autoregression of order %d", autoregression.order)
    parameters = {}
    for name in NETWORKS:
        started = time.monotonic()
        forecast, _ = trained(name, settings.sizes, tasks["train"], tasks["validation"], settings.training(), device)
        contenders[name] = forecast
        parameters[name] = sum(p.numel() for p in forecast.network.parameters())
        seconds[name] = time.monotonic() - started
        logger.info("%s trained in %.0f s", name, seconds[name])
    return _report(
        settings, series, parts, tasks["test"], scales, contenders, parameters, seconds, autoregression.order
    )


def _report(
    settings: Settings,
    series: Series,
    parts: Mapping[str, list[Segment]],
    test: Task,
    scales: Scales,
    contenders: Mapping[str, Contender],
    parameters: Mapping[str, int],
    seconds: Mapping[str, float],
    order: int,
) -> StudyReport:
    moved = {name: contender.moves(test) for name, contender in contenders.items()}
    judged = {name: judge(test, scales, own) for name, own in moved.items()}
    outcome = Outcome(
        names=series.names,
        step_s=series.step_s,
        horizons=settings.horizons,
        judged=judged,
        weights=weights_of(len(next(iter(judged.values())).sums), settings.resamples),
        resampled=units_of(test)[1],
        parameters=parameters,
        seconds=seconds,
        order=order,
        trace=_trace(test, scales, moved),
    )
    return report(outcome, settings_as_json(settings), _described(series, settings), described(parts), settings.seed)


def _trace(test: Task, scales: Scales, moved: Mapping[str, list[Floats]]) -> Trace:
    """The middle of the longest piece, at the farthest horizon."""
    index = int(np.argmax([len(piece) for piece in test.pieces]))
    piece, steps = test.pieces[index], test.horizons[-1]
    first = max(WARMUP, (len(piece) - SHOWN) // 2)
    own = slice(first, min(first + SHOWN, len(piece) - steps))
    shape = test.unit.shape

    def values(forecast: Floats) -> Floats:
        moves = (forecast.reshape(-1, *shape) * test.unit)[own, -1]
        return scales.values(piece.held[own] + moves)

    truth = scales.values(piece.z[own.start + steps : own.stop + steps])
    return Trace(
        piece.source, first + steps, steps, truth, {name: values(own_moves[index]) for name, own_moves in moved.items()}
    )


def _described(series: Series, settings: Settings) -> dict[str, str | float]:
    rows = sum(len(segment.values) for segment in series.segments)
    return {
        "from": str(settings.data.name if settings.data else "generated bars"),
        "features": ", ".join(
            f"{name} ({series.kinds[name]})" if series.kinds.get(name, "none") != "none" else name
            for name in series.names
        ),
        "files": float(len(series.sources)),
        "segments": float(len(series.segments)),
        "rows on the grid": float(rows),
        "step, s": series.step_s,
        "span, h": rows * series.step_s / 3600.0,
    }


def settings_as_json(settings: Settings) -> dict[str, object]:
    """As report.json holds them."""
    return {**asdict(settings), "data": None if settings.data is None else settings.data.name}
