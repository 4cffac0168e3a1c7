"""The state engine: a batch of samples from verdict to commit. Redis holds the truth, the slots here are a cache.

A batch goes through these steps, in this order, and `StateEngine._attempt` reads as that list: load what is missing,
judge, advance (preprocess, step, score, alert: service/engine/advance.py), commit. Whoever loses the compare-and-set is dropped
from the cache and tried again from what the winner wrote.
"""

import time
from collections.abc import Callable, Mapping

import numpy as np
import structlog
from numpy.typing import NDArray

from model.checkpoint import Checkpoint
from model.runtime import ModelRuntime
from service.alerting.alerts import AlertPolicy
from service.alerting.explanation import Explainer
from service.engine.advance import Advance
from service.engine.applier import Applier, LeadLost
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
from service.engine.step_thread import StepThread
from service.engine.sweeper import Sweeper
from service.engine.trend import TrendLayout
from service.engine.turn import Turn
from service.engine.vehicle_transfer import VehicleTransfer
from service.engine.verdict import judge, refusals
from service.engine.work import (
    Fate,
    Fates,
    Judged,
    defer,
    in_order,
)
from service.errors import NOTHING_KNOWN, StoreUnavailable
from service.observe.metrics import Metrics
from service.observe.stages import Span, Stages
from service.records.head import HeadLayout, Heads
from service.records.journal import JournalLayout
from service.records.whole import copied, taken
from service.samples import RETRYABLE, Answers, Samples, Status
from service.store.store import Store

logger = structlog.get_logger(__name__)

MAX_ATTEMPTS = 5  # a vehicle whose commits are lost so often in a row is being fought over; its sender retries

LOST = (
    "the store has lost what was acknowledged from seq {first} on: send the samples from there again if you have them, "
    "then this one; or this one alone, to go on without them"
)

Longs = NDArray[np.int64]


class WentBack(Exception):
    """The store has forgotten acknowledged samples of vehicles; the last seq that it has of each."""

    def __init__(self, last_seqs: Mapping[str, int]) -> None:
        super().__init__()
        self.last_seqs = last_seqs


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
            step_thread=StepThread(),
            clock=clock,
        )
        self.context = context
        self._store, self._metrics, self._clock, self._claims = store, metrics, clock, context.claims
        self._max_future_skew_ms = 1000.0 * options.max_future_skew_s
        self._stages = Stages(metrics.stage_seconds, span)
        self._residency = Residency(context)
        self._snapshots = Snapshotter(context, self._residency)
        self._newsroom = Newsroom(context, Explainer(checkpoint.schema, checkpoint.prior))
        self._packer = None if options.retention is None else HistoryPacker(store)
        committer = Committer(context, self._newsroom, self._residency, self._packer)
        self._advance = Advance(context, self._stages)
        self._applier = Applier(
            context, self._stages, self._residency, self._snapshots, self._newsroom, committer, self._advance
        )
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

    async def apply(self, samples: Samples, turn: Turn | None = None) -> Answers:
        """Apply a batch of samples of any vehicles, each vehicle's in order; an answer for each row.

        Args:
            samples: the batch.
            turn: the batch's own; one that follows another has none but that one's vehicles.
        """
        turn, answers = turn or Turn(), Answers.blank(len(samples), Status.DEFERRED)
        failed: set[str] | None = None
        try:
            await self._apply(samples, turn, answers)
            retryable = np.flatnonzero(np.isin(answers.status, RETRYABLE)) if turn.ahead is not None else ()
            failed = {samples.vehicle_ids[row] for row in retryable}
        finally:
            turn.end(failed)
        self._measure(samples, answers)
        return answers

    async def _apply(self, samples: Samples, turn: Turn, answers: Answers) -> None:
        """Fill in the answers."""
        todo, attempts = self._without_rebuilding(samples, answers, np.arange(len(samples))), 0
        ids, lead = samples.vehicle_ids, turn.follows
        hold = self._claims.hold if lead is None or lead.is_over else self._claims.inherit
        async with hold(ids if len(todo) == len(samples) else [ids[row] for row in todo.tolist()]):
            while len(todo) and attempts < MAX_ATTEMPTS:
                part = samples if len(todo) == len(samples) else samples.take(todo)
                try:
                    if lead is None:
                        tried, fates = await self._attempt(part, turn if part is samples and not attempts else None)
                    elif (found := await self._follow(part, lead, turn if part is samples else None)) is not None:
                        lead, (tried, fates) = None, found
                    else:
                        todo, lead = await self._after(lead, samples, answers, todo), None
                        continue
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

    async def _after(self, lead: Turn, samples: Samples, answers: Answers, todo: Longs) -> Longs:
        """Wait until the batch before is over; rows of vehicles of which it left nothing to be sent again."""
        await lead.over()
        failed = lead.failed
        behind = np.array([failed is None or samples.vehicle_ids[row] in failed for row in todo.tolist()], np.bool_)
        defer(samples, answers, todo[behind], "an earlier sample was deferred")
        return todo[~behind]

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

    async def _attempt(self, samples: Samples, turn: Turn | None) -> tuple[Answers, Fates]:
        """One pass over the rows; answers, and what has to happen to each row. `turn`: that others may follow."""
        with self._stages.time("load"):
            runs = group(samples)
            fresh = await self._residency.load(runs.vehicle_ids)
            last_seqs = self._residency.went_back(runs.vehicle_ids)
            if last_seqs:
                raise WentBack(last_seqs)
            slots = self._residency.slots(runs.vehicle_ids)
        judged = self._judge(runs, slots, taken(self._residency.heads, slots))
        fates = await self._overtaken(runs, slots, judged.lengths, fresh)
        active = np.flatnonzero(judged.lengths)
        if len(active):
            fates[active] = await self._applier(self._applier.work(judged, active), turn)
        return in_order(judged, fates)

    async def _follow(self, samples: Samples, lead: Turn, turn: Turn | None) -> tuple[Answers, Fates] | None:
        """As `_attempt`, from what the batch before has not committed yet; None: that cannot be, or came to nothing.

        Nothing is awaited before the states' change is under way: whatever becomes of the slots comes after it.
        """
        ahead = lead.ahead
        if ahead is None or lead.is_settled:
            return None
        runs = group(samples)
        places = ahead.places_of(runs.vehicle_ids)
        judged = self._judge(runs, ahead.slots[places], taken(ahead.heads, places))
        if not judged.judgement.accepted.all():
            return None  # a refusal wants to be confirmed
        work = self._applier.work(judged, np.arange(len(places)))
        if len(work.plan.written_through):
            return None
        lead.followed = runs.vehicle_ids
        try:
            fates = await self._applier(work, turn, lead)
        except LeadLost:
            self._metrics.batches_ahead.labels("again").inc()
            return None
        self._metrics.batches_ahead.labels("kept").inc()
        return in_order(judged, fates)

    def _judge(self, runs: Runs, slots: Longs, before: Heads) -> Judged:
        """Verdicts on the rows, from heads (vehicles,) which stay as they are."""
        with self._stages.time("judge"):
            heads = copied(before)
            latest_ms = int(self._clock() * 1000.0 + self._max_future_skew_ms)
            judgement = judge(heads, self._residency.rings, slots, runs, latest_ms)
            answers = refusals(judgement, self._residency.rings, slots, runs)
        lengths = np.bincount(runs.owner[judgement.accepted], minlength=len(slots))
        return Judged(runs, slots, lengths, before, heads, judgement, answers)

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

    def _measure(self, samples: Samples, answers: Answers) -> None:
        """Size, lag and risk of a batch, into the metrics. Verdicts are counted where they are answered."""
        applied = answers.status == Status.APPLIED
        self._metrics.batch_size.observe(len(samples))
        self._metrics.event_lag.observe_all(np.maximum(0.0, self._clock() - samples.ts_ms[applied] / 1000.0))
        self._metrics.risk.observe_all(answers.risk[applied])
