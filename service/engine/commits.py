"""From an advanced batch to what each vehicle asks of the store, and back: which journals are appended to, which begin anew."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from service.engine.advance import Advanced, Batch
from service.engine.context import EngineContext
from service.engine.history_packing import HistoryPacker
from service.engine.news import News, Newsroom, lines_of
from service.engine.residency import Residency
from service.engine.snapshots import fresh_nonce
from service.records.head import Heads
from service.records.journal import BASE_DTYPE, KEEP
from service.records.state_codec import Snapshot, SnapshotDtype, pack_snapshot
from service.records.whole import taken
from service.store.changes import Commit, Outcome, Rebase

logger = structlog.get_logger(__name__)

Longs = NDArray[np.int64]


def longest_replay(snapshot_every: int) -> int:
    """Samples that a journal may hold after its snapshot: beyond, the commit itself writes the state.

    One missed snapshot is made up for in the background; with `snapshot_every` 1 every commit writes through.
    """
    return 0 if snapshot_every == 1 else 2 * snapshot_every


@dataclass(frozen=True, slots=True)
class Plan:
    """Whose states a batch has to copy.

    Attributes:
        due: places of vehicles whose snapshot is due: as they are before this batch, in the background.
        written_through: places of vehicles whose state goes with this batch's commit.
    """

    due: Longs
    written_through: Longs


class Committer:
    """Makes commits of batches and settles their outcomes."""

    def __init__(
        self, context: EngineContext, newsroom: Newsroom, residency: Residency, packer: HistoryPacker | None
    ) -> None:
        self._layout = context.layout
        self._journals = context.journals
        self._newsroom = newsroom
        self._trends = context.trends
        self._residency = residency
        self._store = context.store
        self._metrics = context.metrics
        self._longest_replay = longest_replay(context.options.snapshot_every)
        self._snapshot_dtype: SnapshotDtype = context.options.snapshot_dtype
        kept = context.options.retention
        self._histories = None if kept is None else kept.layout
        self._packer = packer

    def plan(self, slots: Longs, before: Heads, accepted: NDArray[np.uint32], room: int) -> Plan:
        """Which states are wanted of vehicles (n,): their heads before the batch, their counts after it."""
        held = self._residency.bases["accepted"][slots].astype(np.int64)
        through = accepted.astype(np.int64) - held > self._longest_replay
        if self._residency.unbacked:
            through |= np.isin(slots, list(self._residency.unbacked))
        due = ~through & (before["accepted"].astype(np.int64) >= self._residency.due[slots])
        if due.any() and self._residency.rebases:
            due &= ~np.isin(slots, list(self._residency.rebases))
        return Plan(np.flatnonzero(due)[:room], np.flatnonzero(through))

    def commits(
        self,
        vehicle_ids: Sequence[str],
        batch: Batch,
        advanced: Advanced,
        plan: Plan,
        usable: NDArray[np.bool_],
        news: Sequence[News],
    ) -> list[Commit]:
        """What each usable vehicle asks of the store."""
        heads, entries = advanced.heads.tobytes(), advanced.entries.tobytes()
        width, size = self._layout.dtype.itemsize, self._journals.dtype.itemsize
        ends = (np.cumsum(batch.lengths) * size).tolist()
        alerts = lines_of(news)
        rebases = self._rebases(vehicle_ids, batch, advanced, plan)
        trends = self._trends.writes(advanced.closed)
        samples = self._samples(batch, advanced)
        found = [
            Commit(
                vehicle_id,
                expected,
                heads[i * width : (i + 1) * width],
                entries[begin:end],
                rebases.get(i),
                alerts.get(i, ""),
                trends.get(i, ()),
                samples[i] if samples else b"",
            )
            for i, (vehicle_id, expected, begin, end) in enumerate(
                zip(vehicle_ids, self._residency.versions(batch.slots), [0, *ends], ends, strict=False)
            )
        ]
        found = [self._shortened(commit) if i in rebases else commit for i, commit in enumerate(found)]
        return found if usable.all() else [commit for commit, fits in zip(found, usable, strict=True) if fits]

    def _samples(self, batch: Batch, advanced: Advanced) -> list[bytes]:
        """What each vehicle's history gets; nothing where none is kept."""
        if self._histories is None:
            return []
        heads, lengths = advanced.heads, batch.lengths
        ends = np.cumsum(lengths)
        firsts = (
            heads["accepted"].astype(np.int64) - ends
        )  # a vehicle's number less a row's place, the same for all its rows
        numbers = np.repeat(firsts, lengths) + np.arange(len(batch.samples))
        records = self._histories.records(np.repeat(heads["epoch"], lengths), numbers, batch.samples).tobytes()
        size = self._histories.dtype.itemsize
        cuts = (ends * size).tolist()
        return [records[begin:end] for begin, end in zip([0, *cuts], cuts, strict=False)]

    def _shortened(self, commit: Commit) -> Commit:
        """Without entries that neither a retry nor a replay will ask for: the commit brings the state itself."""
        rebase = commit.rebase
        if rebase is None or rebase.snapshot is None:
            return commit
        entries = commit.entries[-KEEP * self._journals.dtype.itemsize :]
        left = KEEP - len(entries) // self._journals.dtype.itemsize
        return commit._replace(entries=entries, rebase=rebase._replace(keep=min(rebase.keep, left)))

    def _rebases(self, vehicle_ids: Sequence[str], batch: Batch, advanced: Advanced, plan: Plan) -> dict[int, Rebase]:
        """New beginnings of journals, by place: where there was none to append to, and where the state goes along."""
        waiting = self._residency.rebases
        slots = batch.slots.tolist()
        found = {i: waiting[slot] for i, slot in enumerate(slots) if slot in waiting} if waiting else {}
        conv, ssm = advanced.after
        for place, i in enumerate(plan.written_through.tolist()):
            head, old = advanced.heads[i], self._residency.bases[slots[i]].tobytes()
            epoch, seq = int(head["epoch"]), int(head["seq"])
            base = self._journals.base(epoch, int(head["accepted"]), seq, fresh_nonce()).tobytes()
            before = found.get(i) or Rebase(b"", None, old, KEEP, self._store.snapshot_named_by(vehicle_ids[i], old))
            snapshot = Snapshot(self._layout.fingerprint, epoch, seq, conv[place], ssm[place])
            state = pack_snapshot(snapshot, self._snapshot_dtype)
            found[i] = before._replace(base=base, snapshot=state)
        return found

    async def commit(self, commits: list[Commit], usable: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Outcomes (vehicles,); those not usable count as lost and were never sent."""
        outcomes = np.full(len(usable), Outcome.LOST, np.int64)
        outcomes[usable] = await self._store.commit(commits)
        self._metrics.commit_conflicts.inc(int((outcomes[usable] == Outcome.LOST).sum()))
        return outcomes

    def settle(
        self,
        vehicle_ids: Sequence[str],
        batch: Batch,
        advanced: Advanced,
        commits: list[Commit],
        outcomes: NDArray[np.int64],
        news: Sequence[News],
    ) -> None:
        """Keep what was committed in the cache, drop what was not, tell of alerts that changed."""
        won = outcomes >= Outcome.WON
        owner = np.repeat(np.arange(len(won)), batch.lengths)
        if won.all():
            self._residency.keep(batch.slots, advanced.heads, batch.lengths, advanced.entries)
        else:
            rows = won[owner]
            self._residency.keep(
                batch.slots[won], taken(advanced.heads, won), batch.lengths[won], taken(advanced.entries, rows)
            )
            self._residency.drop([vehicle_ids[i] for i in np.flatnonzero(~won).tolist()], overtaken=True)
        for commit in commits:
            slot = None if commit.rebase is None else self._residency.slot(commit.vehicle_id)
            if commit.rebase is not None and slot is not None:  # None: it lost
                self._residency.rebased(slot, np.frombuffer(commit.rebase.base, BASE_DTYPE))
        if self._packer is not None:
            self._packer.add([vehicle_ids[i] for i in np.flatnonzero(outcomes == Outcome.WON_WITH_BLOCK).tolist()])
        for i in np.flatnonzero(outcomes == Outcome.WON_WITHOUT_JOURNAL).tolist():
            self._residency.lost_journal(int(batch.slots[i]))
            logger.error(
                "the journal is gone from the store; the next commit writes the state", vehicle_id=vehicle_ids[i]
            )
        self._newsroom.announce([one for one in news if won[one.place]])
