"""What a fleet operator has today: the hotter of pack and motor against thresholds, lightly smoothed.

It knows no load, no ambient and no past beyond the smoothing.
"""

import itertools
import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from model.baselines.protocol import COLUMN, Bools, Floats, Millis, Singles
from model.baselines.selection import TUNING_STRIDE, over_fleet, spread
from model.dataset import Trace, TraceSource
from model.evaluation.exact import weighted_auroc
from model.jit import entry_point

logger = logging.getLogger(__name__)

HOLD_MS = 600_000  # a reading older than ten minutes is no reading
ABSENT = -20.0  # score where neither temperature is known: below anything that was measured
TUNING_VEHICLES = 240
SMOOTHING_S = (0.0, 60.0, 300.0, 900.0)
PACK_LIMITS_C = tuple(np.arange(25.0, 60.1, 2.5).tolist())
PACK_SCALES_K = (1.0, 2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True, slots=True)
class RuleConfig:
    """Score = max((motor - motor_limit) / motor_scale, (pack - pack_limit) / pack_scale).

    Only the pack's limit and scale relative to the motor's change the order of scores, so the motor's are fixed.
    """

    smoothing_s: float = 60.0  # time constant
    motor_limit_c: float = 110.0
    motor_scale_k: float = 10.0
    pack_limit_c: float = 40.0
    pack_scale_k: float = 4.0


@entry_point
def smoothed(ts_ms: Millis, values: Floats, time_constant_s: float, hold_ms: int) -> Floats:
    """(L,) exponential average of the readings so far; NaN before the first and when the last is older than hold_ms."""
    out = np.full(values.size, np.nan)
    state, seen_ms = np.nan, 0
    for i in range(values.size):
        if not np.isnan(values[i]):
            fresh = np.isnan(state) or time_constant_s <= 0.0 or ts_ms[i] - seen_ms > hold_ms
            share = 1.0 if fresh else 1.0 - np.exp(-(ts_ms[i] - seen_ms) / 1_000.0 / time_constant_s)
            state = values[i] if fresh else state + share * (values[i] - state)
            seen_ms = ts_ms[i]
        if not np.isnan(state) and ts_ms[i] - seen_ms <= hold_ms:
            out[i] = state
    return out


def temperatures(trace: Trace, smoothing_s: float) -> Floats:
    """(2, L) motor and pack, smoothed, NaN where unknown."""
    columns = (COLUMN["motor_temperature"], COLUMN["pack_temperature"])
    return np.stack(
        [smoothed(trace.ts_ms, trace.signals[:, c].astype(np.float64), smoothing_s, HOLD_MS) for c in columns]
    )


def rule_score(config: RuleConfig, motor_c: Floats, pack_c: Floats) -> Floats:
    """Score of smoothed temperatures of any shape."""
    motor = (motor_c - config.motor_limit_c) / config.motor_scale_k
    pack = (pack_c - config.pack_limit_c) / config.pack_scale_k
    score: Floats = np.maximum(np.fmax(np.fmax(motor, pack), ABSENT), ABSENT)
    return score


def tuning_rows(smoothing_s: tuple[float, ...], trace: Trace, _vehicle: int) -> tuple[Singles, Bools]:
    """Temperatures (len(smoothing_s), 2, n) and labels (n,) at the tuning instants of one van."""
    rows = np.flatnonzero(trace.valid[::TUNING_STRIDE]) * TUNING_STRIDE
    smooth = np.stack([temperatures(trace, s)[:, rows] for s in smoothing_s]).astype(np.float32)
    return smooth, trace.label[rows]


class TemperatureRule:
    """The rule with its numbers."""

    name = "temperature_rule"

    def __init__(self, config: RuleConfig | None = None) -> None:
        self.config = config or RuleConfig()

    def fit(self, train: TraceSource, validation: TraceSource, *, seed: int = 0, workers: int = 1) -> None:
        """Take the point of the grid with the best AUROC over the training fleet; nothing is random."""
        del validation, seed
        parts = over_fleet(train, spread(len(train), TUNING_VEHICLES), partial(tuning_rows, SMOOTHING_S), workers)
        smooth = np.concatenate([part[0] for part in parts], axis=2).astype(np.float64)
        label = np.concatenate([part[1] for part in parts])
        best = -np.inf
        for (i, smoothing_s), limit, scale in itertools.product(enumerate(SMOOTHING_S), PACK_LIMITS_C, PACK_SCALES_K):
            config = RuleConfig(smoothing_s=smoothing_s, pack_limit_c=limit, pack_scale_k=scale)
            auroc = weighted_auroc(rule_score(config, *smooth[i]), label)
            if auroc > best:
                best, self.config = auroc, config
        logger.info("temperature rule: %s, AUROC %.4f on the training fleet", self.config, best)

    def score(self, traces: Sequence[Trace]) -> list[Singles]:
        """One score per sample of each trace."""
        return [
            rule_score(self.config, *temperatures(trace, self.config.smoothing_s)).astype(np.float32)
            for trace in traces
        ]

    def save(self, folder: Path) -> None:
        """Write `baseline.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        text = {"name": self.name, "config": asdict(self.config)}
        (folder / "baseline.json").write_text(json.dumps(text, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "TemperatureRule":
        """Inverse of `save`."""
        return cls(RuleConfig(**json.loads((folder / "baseline.json").read_text())["config"]))
