"""The state engine: a batch of samples from verdict to commit. Redis holds the truth, the slots here are a cache.

A batch goes through these steps, in this order, and `StateEngine._attempt` reads as that list:
load what is missing, judge, preprocess, step, score, alert, commit. Whoever loses the compare-and-set is dropped from
the cache and tried again from what the winner wrote.
"""

import asyncio
import logging
import math
import secrets
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from model.checkpoint import Checkpoint
from model.preprocess import Features
from model.runtime import ModelRuntime, StepScores
from model.scoring import surprise
from service.alerts import RULE, AlertPolicy, Transition, advance_alerts, alert_record
from service.errors import StoreUnavailable
from service.head import HeadLayout, Heads, Phase, read_version, record_accepted
from service.metrics import Metrics
from service.residency import Residency
from service.state_codec import Snapshot, pack_snapshot
from service.store import ABSENT, Commit, Outcome, Store, version_of
from service.verdict import Answer, Status, judge, number_or_none
from service.wire import Sample

logger = structlog.get_logger(__name__)

MAX_ATTEMPTS = 5  # a vehicle whose commits are lost so often in a row is being fought over; its sender retries


@dataclass(frozen=True, slots=True)
class Advanced:
    """A step of a batch that the store has not seen yet."""

    heads: Heads  # (batch,) after the samples
    transitions: list[Transition]
    states: tuple[NDArray[np.float32], NDArray[np.float32]]  # conv and ssm, (batch, n_layer, d_inner, ...)


class StateEngine:
    """Applies batches of samples, at most one per vehicle, exactly once each."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        runtime: ModelRuntime,
        store: Store,
        metrics: Metrics,
        *,
        policy: AlertPolicy,
        n_slots: int,
        max_future_skew_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.fingerprint = checkpoint.fingerprint()
        self.layout = HeadLayout(checkpoint.preprocessor(), self.fingerprint)
        self.policy = policy
        self._preprocessor = checkpoint.preprocessor()
        self._max_hold_ratio = checkpoint.config.max_hold_ratio
        self._runtime = runtime
        self._store = store
        self._metrics = metrics
        self._residency = Residency(n_slots, self.layout, runtime, store, metrics)
        self._max_future_skew_ms = 1000.0 * max_future_skew_s
        self._clock = clock
        self._lock = asyncio.Lock()  # slots and heads have one user at a time, across awaits too
        self._step_thread = ThreadPoolExecutor(1, "step")

    def close(self) -> None:
        """End the step thread."""
        self._step_thread.shutdown()

    async def apply(self, samples: list[Sample]) -> list[Answer]:
        """Apply a batch of samples of distinct vehicles; an answer for each, in order."""
        answers: dict[int, Answer] = {}
        reason = f"other workers changed the vehicle {MAX_ATTEMPTS} times in a row"
        async with self._lock:
            try:
                for _ in range(MAX_ATTEMPTS):
                    todo = [i for i in range(len(samples)) if i not in answers]
                    if not todo:
                        break
                    tried = await self._attempt([samples[i] for i in todo])
                    answers |= {i: answer for i, answer in zip(todo, tried, strict=True) if answer is not None}
            except StoreUnavailable as error:
                # Whether the last commit arrived is not known: forget, and find out from the store on the retry.
                self._residency.drop([sample.vehicle_id for sample in samples])
                logger.warning("batch deferred", size=len(samples), reason=error.detail)
                reason = error.detail
        result = [
            answers.get(i) or Answer(Status.DEFERRED, seq=sample.seq, reason=reason) for i, sample in enumerate(samples)
        ]
        self._measure(samples, result)
        return result

    async def reset(self, vehicle_id: str) -> int:
        """Begin the vehicle's next session with a zero state; its epoch.

        Raises:
            StoreUnavailable: nothing was changed, or that is not known.
        """
        async with self._lock:
            for _ in range(MAX_ATTEMPTS):
                self._residency.drop([vehicle_id])
                before = (await self._store.heads([vehicle_id]))[0]
                version = read_version(before or b"")
                epoch = 1 if version is None else version.epoch + 1
                head = self.layout.new_session(epoch)
                head["nonce"] = secrets.randbits(64) | 1
                phase, closing = self._closing_alert(vehicle_id, before)
                commit = Commit(
                    vehicle_id,
                    expected=ABSENT if before is None else version_of(before),
                    head=head.tobytes(),
                    snapshot=None,
                    ts_ms=int(self._clock() * 1000),
                    risk=0.0,
                    alert=closing,
                    forget_alert=phase is Phase.PENDING,
                )
                if (await self._store.commit([commit]))[0] == Outcome.WON:
                    if closing is not None:
                        self._metrics.alert_transitions.labels(RULE, "resolved").inc()
                    self._metrics.state_resets.labels("session").inc()
                    logger.info("session reset", vehicle_id=vehicle_id, epoch=epoch)
                    return epoch
                self._metrics.commit_conflicts.inc()
        raise StoreUnavailable(f"other workers changed {vehicle_id} {MAX_ATTEMPTS} times in a row")

    def _closing_alert(self, vehicle_id: str, before: bytes | None) -> tuple[Phase, dict[str, Any] | None]:
        """Phase of the session that ends, and its firing alert as resolved (None if none was firing)."""
        try:
            head = self.layout.unpack(before or b"")[0]
        except ValueError:
            return Phase.INACTIVE, None  # no session, or another layout's: its alert machine cannot be read
        alert, phase = head["alert"], Phase(int(head["alert"]["phase"]))
        if phase is not Phase.FIRING:
            return phase, None
        closing = Transition(0, "resolved", int(alert["first_crossed_ms"]), int(alert["fired_ms"]))
        ts_ms = int(head["last_ts_ms"])
        return phase, alert_record(self.policy, vehicle_id, head, closing, ts_ms=ts_ms, fingerprint=self.fingerprint)

    async def _attempt(self, samples: list[Sample]) -> list[Answer | None]:
        """One pass over the batch; None where another worker was faster and the sample has to be tried again."""
        answers: list[Answer | None] = [None] * len(samples)
        fresh = await self._residency.load([sample.vehicle_id for sample in samples])
        refused, accepted = self._judge(samples)
        for i in await self._confirmed(samples, refused, fresh):
            answers[i] = refused[i]
        if not accepted:
            return answers

        batch = [samples[i] for i in accepted]
        vehicle_ids = [sample.vehicle_id for sample in batch]
        slots = self._residency.slots(vehicle_ids)
        expected = [self._residency.version(slot) for slot in slots]
        try:
            advanced = await self._advance(batch, slots)
            commits = self._commits(batch, expected, advanced)
            outcomes = await self._commit_finite(commits)
        except BaseException:
            self._residency.drop(vehicle_ids)  # their slots ran ahead of the store
            raise
        for row, (i, outcome) in enumerate(zip(accepted, outcomes, strict=True)):
            if outcome == Outcome.WON:
                self._residency.keep(int(slots[row]), advanced.heads[row])
                answers[i] = self._applied(advanced.heads[row])
            else:
                self._residency.drop([vehicle_ids[row]])
                self._metrics.commit_conflicts.inc(outcome == Outcome.LOST)
            if outcome is None:
                answers[i] = self._not_finite(batch[row])
        for transition in advanced.transitions:
            if outcomes[transition.row] == Outcome.WON:
                self._announce(commits[transition.row], transition)
        return answers

    async def _commit_finite(self, commits: list[Commit]) -> list[int | None]:
        """An outcome for each; None for those that the model gave no finite risk, which are never stored."""
        finite = [i for i, commit in enumerate(commits) if math.isfinite(commit.risk)]
        won = await self._store.commit([commits[i] for i in finite])
        outcomes: list[int | None] = [None] * len(commits)
        for i, outcome in zip(finite, won, strict=True):
            outcomes[i] = outcome
        return outcomes

    def _not_finite(self, sample: Sample) -> Answer:
        """The answer to a sample that the model cannot take."""
        logger.error("risk is not finite, sample refused", vehicle_id=sample.vehicle_id, ts_ms=sample.ts_ms)
        return Answer(Status.INVALID, seq=sample.seq, reason="the model gives no finite risk for this sample")

    def _judge(self, samples: list[Sample]) -> tuple[dict[int, Answer], list[int]]:
        """Refusals and stored answers by place, and the places of the samples to apply."""
        latest_ms = self._clock() * 1000.0 + self._max_future_skew_ms
        slots = self._residency.slots([sample.vehicle_id for sample in samples])
        refused: dict[int, Answer] = {}
        accepted = []
        for i, sample in enumerate(samples):
            answer = judge(self._residency.heads[slots[i]], sample, latest_ms)
            if answer is None:
                accepted.append(i)
            else:
                refused[i] = answer
        return refused, accepted

    async def _confirmed(self, samples: list[Sample], refused: dict[int, Answer], fresh: set[str]) -> list[int]:
        """Places whose refusal holds; those judged by a cached head are checked against the store first."""
        doubtful = [i for i in refused if samples[i].vehicle_id not in fresh]
        if not doubtful:
            return list(refused)
        vehicle_ids = [samples[i].vehicle_id for i in doubtful]
        versions = await self._store.versions(vehicle_ids)
        slots = self._residency.slots(vehicle_ids)
        stale = [
            i
            for i, slot, version in zip(doubtful, slots, versions, strict=True)
            if version != self._residency.version(slot)
        ]
        self._residency.drop([samples[i].vehicle_id for i in stale])
        return [i for i in refused if i not in stale]

    async def _advance(self, batch: list[Sample], slots: NDArray[np.int64]) -> Advanced:
        """Preprocess, step, score and run the alert machines; nothing but the slots' states is changed."""
        heads = self._residency.heads[slots]  # a copy: the cache changes after the commit
        ts_ms = np.array([sample.ts_ms for sample in batch], np.int64)
        signals = np.stack([sample.signals for sample in batch])
        features = self._preprocessor.advance(heads["preprocess"], ts_ms, signals)
        nats = surprise(features.z, features.present, heads["forecast_mean"], heads["forecast_log_scale"])
        heads["surprise"] = np.where(features.ratio <= self._max_hold_ratio, nats, np.nan)

        loop = asyncio.get_running_loop()
        scores, states = await loop.run_in_executor(self._step_thread, self._step, slots, features)
        heads["risk"] = scores.risk
        heads["forecast_mean"] = scores.forecast_mean
        heads["forecast_log_scale"] = scores.forecast_log_scale

        transitions = advance_alerts(self.policy, heads, ts_ms, scores.risk)
        # Without a seq on the wire a sample takes the next number, so that the version moves with every sample.
        seqs = np.array(
            [last + 1 if s.seq is None else s.seq for s, last in zip(batch, heads["seq"].tolist(), strict=True)]
        )
        record_accepted(heads, batch, seqs)
        heads["fingerprint"] = self.layout.fingerprint_bytes
        heads["nonce"] = [secrets.randbits(64) | 1 for _ in batch]
        return Advanced(heads, transitions, states)

    def _step(
        self, slots: NDArray[np.int64], features: Features
    ) -> tuple[StepScores, tuple[NDArray[np.float32], NDArray[np.float32]]]:
        """The network's part, off the event loop."""
        started = time.perf_counter()
        scores = self._runtime.step(slots, features)
        self._metrics.step_duration.observe(time.perf_counter() - started)
        return scores, self._runtime.read(slots)

    def _commits(self, batch: Sequence[Sample], expected: list[bytes], advanced: Advanced) -> list[Commit]:
        """What each vehicle of the batch asks of the store."""
        alerts = {transition.row: transition for transition in advanced.transitions}
        conv, ssm = advanced.states
        commits = []
        for row, sample in enumerate(batch):
            head = advanced.heads[row]
            snapshot = Snapshot(self.fingerprint, int(head["epoch"]), int(head["seq"]), conv[row], ssm[row])
            change = alerts.get(row)
            lapsed = change is not None and change.to == "lapsed"
            alert = (
                None
                if change is None or lapsed
                else alert_record(
                    self.policy, sample.vehicle_id, head, change, ts_ms=sample.ts_ms, fingerprint=self.fingerprint
                )
            )
            commits.append(
                Commit(
                    sample.vehicle_id,
                    expected=expected[row],
                    head=head.tobytes(),
                    snapshot=pack_snapshot(snapshot),
                    ts_ms=sample.ts_ms,
                    risk=float(head["risk"]),
                    alert=alert,
                    forget_alert=lapsed,
                )
            )
        return commits

    def _applied(self, head: np.void) -> Answer:
        """The answer to a sample that is now part of the state."""
        return Answer(
            Status.APPLIED,
            seq=int(head["seq"]),
            risk=number_or_none(float(head["risk"])),
            surprise=number_or_none(float(head["surprise"])),
            phase=Phase(int(head["alert"]["phase"])),
            warming_up=int(head["samples"]) <= self.policy.warmup_samples,
        )

    def _announce(self, commit: Commit, transition: Transition) -> None:
        """Count and log one committed change of an alert."""
        self._metrics.alert_transitions.labels(RULE, transition.to).inc()
        if commit.alert is not None:
            level = logging.WARNING if transition.to == "firing" else logging.INFO
            logger.log(level, "alert", **commit.alert)

    def _measure(self, samples: list[Sample], answers: list[Answer]) -> None:
        """Size, lag and risk of a batch, into the metrics. Verdicts are counted where they are answered."""
        now_ms = self._clock() * 1000.0
        self._metrics.batch_size.observe(len(samples))
        for sample, answer in zip(samples, answers, strict=True):
            if answer.status is Status.APPLIED:
                self._metrics.event_lag.observe(max(0.0, (now_ms - sample.ts_ms) / 1000.0))
                self._metrics.risk.observe(answer.risk or 0.0)
