"""The state engine: a batch of samples from verdict to commit. Redis holds the truth, the slots here are a cache.

A batch goes through these steps, in this order, and `StateEngine._attempt` reads as that list: load what is missing,
judge, advance (preprocess, step, score, alert: service/engine/advance.py), commit. Whoever loses the compare-and-set is dropped
from the cache and tried again from what the winner wrote.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import IntEnum

import numpy as np
import structlog
from numpy.typing import NDArray

from model.checkpoint import Checkpoint
from model.runtime import ModelRuntime
from service.alerting.alerts import AlertPolicy
from service.alerting.explanation import Explainer
from service.engine.advance import Advance, Advanced, Batch
from service.engine.claims import Claims
from service.engine.commits import Committer
from service.engine.context import EngineContext, EngineOptions
from service.engine.history_packing import HistoryPacker
from service.engine.news import Newsroom
from service.engine.rebuild import WAIT, Rebuilder, Rebuilding
from service.engine.residency import Residency
from service.engine.runs import Runs, group
from service.engine.sessions import Sessions
from service.engine.snapshots import Snapshotter
from service.engine.state_access import Exported, StateAccess
from service.engine.sweeper import Sweeper
from service.engine.trend import TrendLayout
from service.engine.vehicle_transfer import VehicleTransfer
from service.engine.verdict import NOWHERE, Judgement, judge, refusals
from service.errors import NOTHING_KNOWN, StoreUnavailable
from service.observe.metrics import Metrics
from service.observe.stages import Span, Stages
from service.records.head import HeadLayout, Heads
from service.records.journal import JournalLayout
from service.records.whole import copied, taken
from service.samples import Answers, Samples, Status
from service.store.changes import Outcome
from service.store.store import Store

logger = structlog.get_logger(__name__)

MAX_ATTEMPTS = 5  # a vehicle whose commits are lost so often in a row is being fought over; its sender retries

LOST = (
    "the store has lost what was acknowledged from seq {first} on: send the samples from there again if you have them, "
    "then this one; or this one alone, to go on without them"
)

Longs = NDArray[np.int64]
Bools = NDArray[np.bool_]
Fates = NDArray[np.int8]


class WentBack(Exception):
    """The store has forgotten acknowledged samples of vehicles; the last seq that it has of each."""

    def __init__(self, last_seqs: Mapping[str, int]) -> None:
        super().__init__()
        self.last_seqs = last_seqs


class Fate(IntEnum):
    """What has to happen to a vehicle, or to a row of it, after an attempt."""

    DONE = 0  # answered
    AGAIN = 1  # another worker was faster
    UNKNOWN = 2  # its part of the store did not answer: to be deferred


class StateEngine:
    """Applies batches of samples, exactly once each. Batches of other vehicles may be under way at the same time."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        runtime: ModelRuntime,
        store: Store,
        metrics: Metrics,
        policy: AlertPolicy,
        options: EngineOptions,
        clock: Callable[[], float] = time.time,
        span: Span | None = None,
    ) -> None:
        preprocessor, fingerprint = checkpoint.preprocessor(), checkpoint.fingerprint()
        layout = HeadLayout(preprocessor, fingerprint)
        context = EngineContext(
            checkpoint=checkpoint,
            runtime=runtime,
            fingerprint=fingerprint,
            layout=layout,
            journals=JournalLayout(checkpoint.config.d_input),
            trends=TrendLayout(layout, checkpoint.schema, checkpoint.prior),
            policy=policy,
            options=options,
            store=store,
            metrics=metrics,
            claims=Claims(),
            step_thread=ThreadPoolExecutor(1, "step"),
            clock=clock,
        )
        self.context = context
        self._store, self._metrics, self._clock, self._claims = store, metrics, clock, context.claims
        self._max_future_skew_ms = 1000.0 * options.max_future_skew_s
        self._stages = Stages(metrics.stage_seconds, span)
        self._residency = Residency(context)
        self._snapshots = Snapshotter(context, self._residency)
        self._advance = Advance(context, self._stages)
        self._newsroom = Newsroom(context, Explainer(checkpoint.schema, checkpoint.prior))
        self._packer = None if options.retention is None else HistoryPacker(store)
        self._committer = Committer(context, self._newsroom, self._residency, self._packer)
        self._sessions = Sessions(context, self._newsroom, self._residency)
        self._rebuilder = None if options.retention is None else Rebuilder(context, self._residency, options.retention)
        if self._rebuilder is not None:
            self._residency.without_state = self._rebuilder.ask
        self._states = StateAccess(context, self._residency)
        self.sweeper = Sweeper(context, self._newsroom, self._residency)
        self.transfer = VehicleTransfer(context, self._states, self._residency)

    async def close(self) -> None:
        """Write the snapshots in hand and end the step thread."""
        await self._snapshots.close()
        if self._packer is not None:
            await self._packer.close()
        if self._rebuilder is not None:
            await self._rebuilder.close()
        self.context.step_thread.shutdown()

    async def apply(self, samples: Samples) -> Answers:
        """Apply a batch of samples of any vehicles, each vehicle's in order; an answer for each row."""
        answers = Answers.blank(len(samples), Status.DEFERRED)
        todo, attempts = self._without_rebuilding(samples, answers, np.arange(len(samples))), 0
        ids = samples.vehicle_ids
        async with self._claims.hold(ids if len(todo) == len(samples) else [ids[row] for row in todo.tolist()]):
            while len(todo) and attempts < MAX_ATTEMPTS:
                try:
                    tried, fates = await self._attempt(samples if len(todo) == len(samples) else samples.take(todo))
                except StoreUnavailable as error:
                    todo = self._defer_unreachable(samples, answers, todo, error)
                    continue
                except Rebuilding:
                    todo = self._without_rebuilding(samples, answers, todo)
                    continue
                except WentBack as error:
                    todo = self._ask_for_the_lost(samples, answers, todo, error.last_seqs)
                    continue
                attempts += 1
                answers.put(todo, tried)
                defer(samples, answers, todo[fates == Fate.UNKNOWN], NOTHING_KNOWN)
                todo = todo[fates == Fate.AGAIN]
        defer(samples, answers, todo, f"other workers changed the vehicle {MAX_ATTEMPTS} times in a row")
        self._measure(samples, answers)
        return answers

    def _defer_unreachable(self, samples: Samples, answers: Answers, todo: Longs, error: StoreUnavailable) -> Longs:
        """Give up the rows of vehicles whose store does not answer; the others, of which nothing was done yet."""
        unreachable = np.array([samples.vehicle_ids[row] in error.vehicle_ids for row in todo.tolist()], np.bool_)
        if not unreachable.any():
            unreachable[:] = True  # all of it
        # Whether the last commit arrived is not known: forget, and find out from the store on the retry.
        given_up = [samples.vehicle_ids[row] for row in todo[unreachable].tolist()]
        self._residency.drop(list(dict.fromkeys(given_up)), overtaken=True)
        logger.warning("samples deferred", size=len(given_up), of=len(samples), reason=error.detail)
        defer(samples, answers, todo[unreachable], error.detail)
        return todo[~unreachable]

    def _without_rebuilding(self, samples: Samples, answers: Answers, todo: Longs) -> Longs:
        """Rows but for those of vehicles whose states are being scanned, which are deferred."""
        waiting = {} if self._rebuilder is None else self._rebuilder.waiting
        if not waiting:
            return todo
        early = np.array([samples.vehicle_ids[row] in waiting for row in todo.tolist()], np.bool_)
        defer(samples, answers, todo[early], WAIT)
        return todo[~early]

    def _ask_for_the_lost(self, samples: Samples, answers: Answers, todo: Longs, last_seqs: Mapping[str, int]) -> Longs:
        """Rows but for those that would go on after a gap of samples that were acknowledged; said once, the retry is taken."""
        firsts = {samples.vehicle_ids[row]: int(samples.seq[row]) for row in reversed(todo.tolist())}
        behind = {name: last for name, last in last_seqs.items() if firsts[name] > last + 1}
        early = np.array([samples.vehicle_ids[row] in behind for row in todo.tolist()], np.bool_)
        for row in todo[early].tolist():
            defer(samples, answers, np.array([row]), LOST.format(first=behind[samples.vehicle_ids[row]] + 1))
        return todo[~early]

    async def reset(self, vehicle_id: str) -> int:
        """Begin the vehicle's next session with a zero state; its epoch.

        Raises:
            StoreUnavailable: nothing was changed, or that is not known.
        """
        async with self._claims.hold([vehicle_id]):
            for _ in range(MAX_ATTEMPTS):
                epoch = await self._sessions.begin(vehicle_id)
                if epoch is not None:
                    return epoch
                self._metrics.commit_conflicts.inc()
        raise StoreUnavailable(f"other workers changed {vehicle_id} {MAX_ATTEMPTS} times in a row")

    def is_cached(self, vehicle_id: str) -> bool:
        """Whether the vehicle is in this worker's cache."""
        return self._residency.slot(vehicle_id) is not None

    async def state(self, vehicle_id: str) -> Exported | None:
        """The state after the vehicle's last committed sample; None if it was never heard of.

        Raises:
            StoreUnavailable.
        """
        async with self._claims.hold([vehicle_id]):
            return await self._states.export(vehicle_id)

    async def _attempt(self, samples: Samples) -> tuple[Answers, Fates]:
        """One pass over the rows; answers, and what has to happen to each row."""
        with self._stages.time("load"):
            runs = group(samples)
            fresh = await self._residency.load(runs.vehicle_ids)
            last_seqs = self._residency.went_back(runs.vehicle_ids)
            if last_seqs:
                raise WentBack(last_seqs)
            slots = self._residency.slots(runs.vehicle_ids)
        with self._stages.time("judge"):
            before = taken(self._residency.heads, slots)
            heads = copied(before)
            latest_ms = int(self._clock() * 1000.0 + self._max_future_skew_ms)
            judgement = judge(heads, self._residency.rings, slots, runs, latest_ms)
            answers = refusals(judgement, self._residency.rings, slots, runs)
        lengths = np.bincount(runs.owner[judgement.accepted], minlength=len(slots))
        fates = await self._overtaken(runs, slots, lengths, fresh)
        active = np.flatnonzero(lengths)
        if len(active):
            fates[active] = await self._apply_accepted(runs, active, slots, lengths, before, heads, judgement, answers)
        of_rows = np.where(answers.status == Status.INVALID, Fate.DONE, fates[runs.owner])
        if (runs.lengths == 1).all():
            return answers, of_rows
        ordered, ordered_fates = Answers.blank(len(samples), Status.DEFERRED), np.empty_like(of_rows)
        ordered.put(runs.order, answers)
        ordered_fates[runs.order] = of_rows
        return ordered, ordered_fates

    async def _overtaken(self, runs: Runs, slots: Longs, lengths: Longs, fresh: set[str]) -> Fates:
        """Fates (vehicles,): AGAIN if nothing is to be applied, by a cached head that turns out to be behind the store's.

        Where something is applied, the commit itself compares.
        """
        fates = np.full(len(slots), Fate.DONE, np.int8)
        doubtful = [i for i in np.flatnonzero(lengths == 0).tolist() if runs.vehicle_ids[i] not in fresh]
        if not doubtful:
            return fates
        names = [runs.vehicle_ids[i] for i in doubtful]
        cached, stored = self._residency.versions(slots[doubtful]), await self._store.versions(names)
        for i, name, known in zip(doubtful, names, cached, strict=True):
            if name not in stored:
                fates[i] = Fate.UNKNOWN
            elif stored[name] != known:
                fates[i] = Fate.AGAIN
        self._residency.drop([runs.vehicle_ids[i] for i in np.flatnonzero(fates).tolist()], overtaken=True)
        return fates

    async def _apply_accepted(
        self,
        runs: Runs,
        active: Longs,
        slots: Longs,
        lengths: Longs,
        before: Heads,
        heads: Heads,
        judgement: Judgement,
        answers: Answers,
    ) -> Fates:
        """Advance and commit the vehicles `active`; their fates. Answers are filled in."""
        rows = np.flatnonzero(judgement.accepted)
        everybody = len(active) == len(slots)
        vehicle_ids = runs.vehicle_ids if everybody else [runs.vehicle_ids[i] for i in active.tolist()]
        if not everybody:
            before = taken(before, active)
        plan = self._committer.plan(slots[active], before, heads["accepted"][active], self._snapshots.room)
        batch = Batch(
            before=before,
            heads=heads if everybody else taken(heads, active),
            slots=slots[active],
            lengths=lengths[active],
            samples=runs.samples if len(rows) == len(runs.order) else runs.samples.take(rows),
            seqs=judgement.seq[rows],
            heard_ms=int(self._clock() * 1000.0),
            copy_before=plan.due,
            copy_after=plan.written_through,
        )
        try:
            advanced = await self._advance(batch)
            self._snapshots.hand_over(
                [vehicle_ids[i] for i in plan.due.tolist()],
                batch.slots[plan.due],
                before[plan.due],
                advanced.before,
            )
            owner = np.repeat(np.arange(len(active)), batch.lengths)
            usable = np.ones(len(active), np.bool_)
            usable[owner[~advanced.finite]] = False
            with self._stages.time("pack"):
                news = await self._newsroom(vehicle_ids, batch, advanced) if advanced.transitions else []
                commits = self._committer.commits(vehicle_ids, batch, advanced, plan, usable, news)
            with self._stages.time("commit"):
                outcomes = await self._committer.commit(commits, usable)
        except BaseException:
            self._residency.drop(vehicle_ids, overtaken=True)  # their slots ran ahead of the store
            raise
        won = outcomes >= Outcome.WON
        self._committer.settle(vehicle_ids, batch, advanced, commits, outcomes, news)
        self._answer(rows, advanced, won[owner], answers, judgement)
        self._refuse_not_finite(rows, owner, advanced.finite, runs, answers)
        return np.select([won, outcomes == Outcome.UNKNOWN], [Fate.DONE, Fate.UNKNOWN], Fate.AGAIN).astype(np.int8)

    def _answer(self, rows: Longs, advanced: Advanced, won: Bools, answers: Answers, judgement: Judgement) -> None:
        """The answers to rows that are now part of a state, and to those that repeat them."""
        at, entries = rows[won], taken(advanced.entries, won)
        answers.status[at] = Status.APPLIED
        answers.seq[at], answers.phase[at] = entries["seq"], entries["phase"]
        answers.risk[at], answers.surprise[at] = entries["risk"], entries["surprise"]
        answers.warming_up[at] = advanced.warming_up[won]
        repeats = np.flatnonzero((judgement.twin != NOWHERE) & (answers.status == Status.DUPLICATE))
        for name in ("risk", "surprise", "phase"):
            column = getattr(answers, name)
            column[repeats] = column[judgement.twin[repeats]]

    def _refuse_not_finite(self, rows: Longs, owner: Longs, finite: Bools, runs: Runs, answers: Answers) -> None:
        """Refuse the first row of each vehicle that the model cannot take; the vehicle's others are tried without it."""
        bad = np.flatnonzero(~finite)
        if not len(bad):
            return
        firsts = rows[bad[np.unique(owner[bad], return_index=True)[1]]]
        for row in firsts.tolist():
            vehicle_id, ts_ms = runs.samples.vehicle_ids[row], int(runs.samples.ts_ms[row])
            logger.error("risk is not finite, sample refused", vehicle_id=vehicle_id, ts_ms=ts_ms)
        answers.seq[firsts] = runs.samples.seq[firsts]
        answers.refuse(firsts.tolist(), Status.INVALID, "the model gives no finite risk for this sample")

    def _measure(self, samples: Samples, answers: Answers) -> None:
        """Size, lag and risk of a batch, into the metrics. Verdicts are counted where they are answered."""
        applied = answers.status == Status.APPLIED
        self._metrics.batch_size.observe(len(samples))
        self._metrics.event_lag.observe_all(np.maximum(0.0, self._clock() - samples.ts_ms[applied] / 1000.0))
        self._metrics.risk.observe_all(answers.risk[applied])


def defer(samples: Samples, answers: Answers, rows: Longs, reason: str) -> None:
    """These rows are to be sent again."""
    answers.seq[rows] = samples.seq[rows]
    answers.refuse(rows.tolist(), Status.DEFERRED, reason)
