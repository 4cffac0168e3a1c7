"""The model's part of a batch: from accepted samples to new heads, journal entries and alerts. Nothing is stored here."""

import asyncio
import secrets
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.preprocess import Features
from model.runtime import StepScores
from model.scoring import surprise
from service.alerting.alerts import Transition, advance_alerts
from service.engine.context import EngineContext
from service.engine.trend import Closed
from service.observe.stages import Stages
from service.records.checksum import seal
from service.records.head import Heads
from service.records.journal import Entries
from service.samples import Samples

BRIEF_ROWS = 32  # the compiled step takes about 20 us for each

Longs = NDArray[np.int64]
Singles = NDArray[np.float32]
States = tuple[NDArray[np.float32], NDArray[np.float32]]  # conv and ssm, (vehicles, n_layer, d_inner, ...)


@dataclass(frozen=True, slots=True)
class Advanced:
    """A batch after the network, before the store.

    Attributes:
        heads: (vehicles,) after the samples, sealed.
        entries: (rows,) of the journals, sealed.
        warming_up: (rows,) no alert could be raised yet.
        transitions: of alerts, in the order of their rows.
        forecast_mean, forecast_log_scale: (rows, n_channels) of each row, made before it.
        closed: bins of the trend.
        finite: (rows,) whether the model gave a finite risk.
        before: states of the vehicles `copy_before` before their samples.
        after: states of the vehicles `copy_after` after them.
    """

    heads: Heads
    entries: Entries
    warming_up: NDArray[np.bool_]
    transitions: list[Transition]
    forecast_mean: Singles
    forecast_log_scale: Singles
    closed: Closed
    finite: NDArray[np.bool_]
    before: States
    after: States


@dataclass(frozen=True, slots=True)
class Batch:
    """What is to be applied: `lengths` rows of each vehicle, vehicle after vehicle, all of them accepted.

    Attributes:
        before: (vehicles,) heads as committed.
        heads: (vehicles,) working copies that have taken in order, count and intervals already.
        slots: (vehicles,).
        lengths: (vehicles,), at least 1.
        samples: (rows,).
        seqs: (rows,) their numbers.
        heard_ms: when they came, epoch milliseconds.
        copy_before, copy_after: places of vehicles whose states are wanted.
    """

    before: Heads
    heads: Heads
    slots: Longs
    lengths: Longs
    samples: Samples
    seqs: Longs
    heard_ms: int
    copy_before: Longs
    copy_after: Longs


class Advance:
    """Carries batches through the network. Slots' states change here and nowhere else, on the one step thread.

    Few rows are stepped where we are if that thread is idle: they take less than handing them over and waiting for the
    interpreter's lock again, which the event loop keeps for up to 5 ms while it is busy.
    """

    def __init__(self, context: EngineContext, stages: Stages) -> None:
        self._preprocessor = context.checkpoint.preprocessor()
        self._max_hold_ratio = context.checkpoint.config.max_hold_ratio
        self._runtime = context.runtime
        self._layout = context.layout
        self._journals = context.journals
        self._trends = context.trends
        self._policy = context.policy
        self._limits = context.policy.packed()
        self._nominal_ms = 1000.0 * context.checkpoint.config.nominal_interval_s
        self._metrics = context.metrics
        self._stages = stages
        self._step_thread = context.step_thread
        self._is_brief = context.runtime.backend == "cpu"

    async def __call__(self, batch: Batch) -> Advanced:
        """Preprocess, step, score, run the alert machines; `batch.heads` are changed in place."""
        heads, samples = batch.heads, batch.samples
        with self._stages.time("preprocess"):
            features = self._preprocessor.advance_runs(
                heads["preprocess"], batch.lengths, samples.ts_ms, samples.signals
            )
        if self._is_brief and len(samples) <= BRIEF_ROWS and self._step_thread.is_idle():
            scores, before, after = self._step(batch, features)
        else:
            loop = asyncio.get_running_loop()
            scores, before, after = await loop.run_in_executor(
                self._step_thread, self._stages.carried(self._step), batch, features
            )
        with self._stages.time("alert"):
            mean, log_scale = self._forecasts(batch, scores)
            nats = surprise(features.z, features.present, mean, log_scale)
            nats = np.where(features.ratio <= self._max_hold_ratio, nats, np.nan)
            gap_ms = np.rint(features.ratio * self._nominal_ms).astype(np.int64)
            course = advance_alerts(
                self._limits, heads, batch.lengths, samples.ts_ms, gap_ms, scores.risk, nats.astype(np.float64)
            )
            closed = self._trends.advance(
                batch.before, heads, batch.lengths, samples, features, scores, nats, course.phase
            )
            ends = np.cumsum(batch.lengths)
            behind = np.repeat(ends, batch.lengths) - np.arange(len(samples))  # 1: the vehicle's last row
            seen = np.repeat(heads["samples"].astype(np.int64) + batch.lengths, batch.lengths) - behind + 1
            entries = self._entries(batch, features, scores, nats, course.phase)
            self._finish_heads(batch, scores, nats, ends - 1)
        if self._metrics.drift is not None:
            self._metrics.drift.observe(features.z, features.present, scores.risk)
        return Advanced(
            heads=heads,
            entries=entries,
            warming_up=seen <= self._policy.warmup_samples,
            transitions=course.transitions,
            forecast_mean=mean,
            forecast_log_scale=log_scale,
            closed=closed,
            finite=np.isfinite(scores.risk),
            before=before,
            after=after,
        )

    def _step(self, batch: Batch, features: Features) -> tuple[StepScores, States, States]:
        """The network's part, off the event loop."""
        with self._stages.time("step"), self._metrics.step_duration.time():
            began = time.thread_time()
            before = self._runtime.read(batch.slots[batch.copy_before])
            if len(features.ratio) == len(batch.slots):
                scores = self._runtime.step(batch.slots, features)
            else:
                scores = self._runtime.scan(batch.slots, batch.lengths, features)
            after = self._runtime.read(batch.slots[batch.copy_after])
            self._metrics.step_cpu.inc(time.thread_time() - began)
            return scores, before, after

    def _forecasts(self, batch: Batch, scores: StepScores) -> tuple[Singles, Singles]:
        """(rows, n_channels) means and log-scales made before each row: the head's for a vehicle's first, else the row's before."""
        firsts = np.cumsum(batch.lengths) - batch.lengths
        mean, log_scale = np.roll(scores.forecast_mean, 1, axis=0), np.roll(scores.forecast_log_scale, 1, axis=0)
        mean[firsts], log_scale[firsts] = batch.heads["forecast_mean"], batch.heads["forecast_log_scale"]
        return mean, log_scale

    def _entries(
        self,
        batch: Batch,
        features: Features,
        scores: StepScores,
        nats: NDArray[np.float64],
        phase: NDArray[np.uint8],
    ) -> Entries:
        """The journal's entries, sealed; the rows of one vehicle share the nonce of their commit."""
        batch.heads["nonce"] = np.frombuffer(secrets.token_bytes(8 * len(batch.heads)), np.uint64) | np.uint64(1)
        entries = self._journals.entries(len(batch.samples))
        entries["seq"], entries["ts_ms"], entries["digest"] = batch.seqs, batch.samples.ts_ms, batch.samples.digest
        entries["nonce"] = np.repeat(batch.heads["nonce"], batch.lengths)
        entries["risk"], entries["surprise"], entries["phase"] = scores.risk, nats, phase
        entries["ratio"], entries["inputs"] = features.ratio, features.inputs
        seal(entries)
        return entries

    def _finish_heads(self, batch: Batch, scores: StepScores, nats: NDArray[np.float64], lasts: Longs) -> None:
        """What the heads say after each vehicle's last row."""
        heads = batch.heads
        heads["risk"], heads["surprise"] = scores.risk[lasts], nats[lasts]
        heads["forecast_mean"], heads["forecast_log_scale"] = (
            scores.forecast_mean[lasts],
            scores.forecast_log_scale[lasts],
        )
        heads["heard_ms"] = batch.heard_ms
        heads["samples"] += batch.lengths.astype(np.uint32)
        heads["fingerprint"] = self._layout.fingerprint_bytes
        seal(heads)
