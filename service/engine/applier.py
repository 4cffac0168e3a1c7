"""Carries out what a batch asks for: the network, the commit, and what becomes of the cache after it."""

import numpy as np
from numpy.typing import NDArray

from service.engine.advance import Advance, Batch
from service.engine.commits import Committer
from service.engine.context import EngineContext
from service.engine.news import Newsroom
from service.engine.residency import Residency
from service.engine.snapshots import Snapshotter
from service.engine.turn import Ahead, Turn
from service.engine.work import Fate, Fates, Judged, Work, appends, fill_in, refuse_not_finite
from service.observe.stages import Stages
from service.records.whole import taken
from service.store.changes import Outcome

Longs = NDArray[np.int64]


class LeadLost(Exception):
    """The batch that this one followed did not win."""


class Applier:
    """Advances and commits work; slots that ran ahead of the store are forgotten whatever happens."""

    def __init__(
        self,
        context: EngineContext,
        stages: Stages,
        residency: Residency,
        snapshots: Snapshotter,
        newsroom: Newsroom,
        committer: Committer,
        advance: Advance,
    ) -> None:
        self._advance = advance
        self._stages = stages
        self._residency = residency
        self._snapshots = snapshots
        self._newsroom = newsroom
        self._committer = committer
        self._claims = context.claims
        self._clock = context.clock

    def work(self, judged: Judged, active: Longs) -> Work:
        """What is to be done for the vehicles at the places `active`, of which rows were accepted."""
        runs, judgement = judged.runs, judged.judgement
        rows = np.flatnonzero(judgement.accepted)
        everybody, every_row = len(active) == len(judged.slots), len(rows) == len(runs.order)
        before = judged.before if everybody else taken(judged.before, active)
        heads = judged.heads if everybody else taken(judged.heads, active)
        slots = judged.slots[active]
        plan = self._committer.plan(slots, before, heads["accepted"], self._snapshots.room)
        batch = Batch(
            before=before,
            heads=heads,
            slots=slots,
            lengths=judged.lengths[active],
            samples=runs.samples if every_row else runs.samples.take(rows),
            seqs=judgement.seq[rows],
            heard_ms=int(self._clock() * 1000.0),
            copy_before=plan.due,
            copy_after=plan.written_through,
        )
        vehicle_ids = runs.vehicle_ids if everybody else [runs.vehicle_ids[i] for i in active.tolist()]
        return Work(judged, vehicle_ids, rows, batch, plan, whole=everybody and every_row)

    async def __call__(self, work: Work, turn: Turn | None, lead: Turn | None = None) -> Fates:
        """Advance and commit; the fates of the vehicles. Answers are filled in.

        Args:
            work: what is to be done.
            turn: that others may follow; None: nobody may.
            lead: from whose uncommitted heads and states this begins.

        Raises:
            LeadLost: `lead` did not win; nothing was committed, and the vehicles are not in the cache.
        """
        batch, plan, vehicle_ids = work.batch, work.plan, work.vehicle_ids
        try:
            advanced = await self._advance(batch)
            if lead is not None:
                await won_by(lead)
            self._snapshots.hand_over(
                [vehicle_ids[i] for i in plan.due.tolist()],
                batch.slots[plan.due],
                taken(batch.before, plan.due),
                advanced.before,
            )
            owner = np.repeat(np.arange(len(vehicle_ids)), batch.lengths)
            usable = np.ones(len(vehicle_ids), np.bool_)
            usable[owner[~advanced.finite]] = False
            with self._stages.time("pack"):
                news = await self._newsroom(vehicle_ids, batch, advanced) if advanced.transitions else []
                commits = self._committer.commits(vehicle_ids, batch, advanced, plan, usable, news)
            if turn is not None and work.whole and usable.all() and not self._claims.contended and appends(commits):
                turn.leads(Ahead(vehicle_ids, batch.slots, advanced.heads))
            with self._stages.time("commit"):
                outcomes = await self._committer.commit(commits, usable)
        except BaseException:
            self._forget(vehicle_ids, turn, lead)
            raise
        won = outcomes >= Outcome.WON
        self._committer.settle(vehicle_ids, batch, advanced, commits, outcomes, news)
        if turn is not None:
            self._settle(turn, won=bool(won.all() and (outcomes != Outcome.WON_WITHOUT_JOURNAL).all()))
        fill_in(work, advanced, won[owner])
        refuse_not_finite(work, owner, advanced.finite)
        return np.select([won, outcomes == Outcome.UNKNOWN], [Fate.DONE, Fate.UNKNOWN], Fate.AGAIN).astype(np.int8)

    def _settle(self, turn: Turn, *, won: bool) -> None:
        """A follower's states are of no use if this batch did not win, or if the follower has failed."""
        if not won or turn.spoiled:
            self._residency.drop(turn.followed, overtaken=True)
        turn.settle(won=won)

    def _forget(self, vehicle_ids: list[str], turn: Turn | None, lead: Turn | None) -> None:
        """After a failure: the slots of these vehicles ran ahead of the store."""
        if lead is not None and not lead.is_settled:
            lead.spoiled = True  # it needs the slots' heads until then
        elif lead is None or lead.won:  # else they were dropped when it was settled, and may be back by now
            self._residency.drop(vehicle_ids, overtaken=True)
        if turn is not None:
            turn.settle(won=False)


async def won_by(lead: Turn) -> None:
    """Wait for it. Raises LeadLost."""
    if not await lead.settled():
        raise LeadLost
