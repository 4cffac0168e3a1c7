"""Which vehicle's head and state sit in which slot of this worker's cache. Everything here can be dropped at any time."""

import asyncio
import zlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
import structlog
from numpy.typing import NDArray

from service.engine.context import EngineContext
from service.engine.rehydrate import Rehydrator, Restored, put_states
from service.errors import StoreUnavailable
from service.records.head import VERSION, Heads
from service.records.journal import BASE_DTYPE, KEEP, Entries, Rings, empty_rings, remember
from service.records.whole import put, taken
from service.samples import NO_SEQ
from service.store.changes import ABSENT, NO_BASE, Rebase, Stored

logger = structlog.get_logger(__name__)

FIRST_SLOT = 1  # slot 0 is the pool's dummy
LOADED_TOGETHER = 32  # vehicles: between two such groups, batches of others get their turn at the processor

Slots = NDArray[np.int64]


class Residency:
    """Vehicle to slot, least recently used first, and what is known of each by slot.

    Attributes:
        heads: (n_slots,) as committed.
        rings: (n_slots, KEEP) answers to the last samples.
        bases: (n_slots,) BASE_DTYPE of the journals.
        due: (n_slots,) samples of the session from which on a snapshot is due.
        rebases: by slot, what the next commit must do to a journal that it cannot append to.
        unbacked: slots whose state is right but cannot be had from the store: the next commit has to write it.
        without_state: told of vehicles whose stored states are of no use instead of starting them cold; has to raise.
    """

    def __init__(self, context: EngineContext) -> None:
        n_slots = context.options.n_slots
        self.heads: Heads = np.zeros(n_slots, context.layout.dtype)
        self.rings: Rings = empty_rings(n_slots)
        self.bases = np.zeros(n_slots, BASE_DTYPE)
        self.due = np.zeros(n_slots, np.int64)
        self.rebases: dict[int, Rebase] = {}
        self.unbacked: set[int] = set()
        self.without_state: Callable[[list[str]], None] | None = None
        self._rehydrator = Rehydrator(context.layout, context.journals)
        self._runtime = context.runtime
        self._store = context.store
        self._metrics = context.metrics
        self._claims = context.claims
        self._step_thread = context.step_thread
        self._snapshot_every = context.options.snapshot_every
        self._versions = [ABSENT] * n_slots
        self._stagger = np.zeros(n_slots, np.int64)
        self._overtaken: dict[str, tuple[int, int]] = {}
        self._went_back: dict[str, int] = {}
        self._slots: OrderedDict[str, int] = OrderedDict()
        self._free = list(range(n_slots - 1, FIRST_SLOT - 1, -1))
        context.metrics.slots_capacity.set(len(self._free))

    def slots(self, vehicle_ids: Sequence[str]) -> Slots:
        """Slots (batch,) of resident vehicles."""
        return np.fromiter(map(self._slots.__getitem__, vehicle_ids), np.int64, len(vehicle_ids))

    def slot(self, vehicle_id: str) -> int | None:
        """The slot of a vehicle if it is resident."""
        return self._slots.get(vehicle_id)

    def versions(self, slots: Slots) -> list[bytes]:
        """What the store holds as these vehicles' versions, as far as is known here."""
        return [self._versions[slot] for slot in slots.tolist()]

    def keep(self, slots: Slots, heads: Heads, lengths: Slots, entries: Entries) -> None:
        """Take over what was just committed: heads (vehicles,) and their new entries, `lengths` of each."""
        put(self.heads, slots, heads)
        versions = heads.view(np.uint8).reshape(len(heads), heads.dtype.itemsize)[:, : VERSION.size].tobytes()
        for i, slot in enumerate(slots.tolist()):
            self._versions[slot] = versions[i * VERSION.size : (i + 1) * VERSION.size]
        self._remember(slots, heads, lengths, entries)

    def renew(self, vehicle_id: str, before: bytes, head: Heads) -> None:
        """Take over a head (1,) that was committed beside the stream, if the vehicle is here as it was before it."""
        slot = self._slots.get(vehicle_id)
        if slot is None or self._versions[slot] != before:
            return
        if any((self.heads[slot][name] != head[name][0]).any() for name in ("fingerprint", "samples")):
            self.drop([vehicle_id])  # its state was begun anew here, which the store has not heard of: once more
        else:
            self.heads[slot], self._versions[slot] = head[0], head.tobytes()[: VERSION.size]

    def _remember(self, slots: Slots, heads: Heads, lengths: Slots, entries: Entries) -> None:
        """Keep the answers of each vehicle's last samples, of which its head counts the last."""
        ends = np.cumsum(lengths)
        behind = np.repeat(ends, lengths) - np.arange(len(entries))  # 1: the vehicle's last
        numbers = np.repeat(heads["accepted"].astype(np.int64), lengths) - behind
        recent = behind <= KEEP
        remember(self.rings, np.repeat(slots, lengths)[recent], numbers[recent], taken(entries, recent))

    def rebased(self, slot: int, base: NDArray[np.void]) -> None:
        """The journal of this slot's vehicle has a new base, (1,)."""
        self.bases[slot] = base[0]
        # A fleet may begin in one batch; its snapshots shall not come in one.
        early = 0 if base["nonce"][0] else int(self._stagger[slot])
        self.due[slot] = int(base["accepted"][0]) + self._snapshot_every - early
        self.rebases.pop(slot, None)
        self.unbacked.discard(slot)

    def lost_journal(self, slot: int) -> None:
        """The store has no journal any more to which this slot's vehicle could append."""
        self.rebases[slot] = Rebase(b"", None, NO_BASE, 0, None)
        self.unbacked.add(slot)

    def drop(self, vehicle_ids: Sequence[str], *, overtaken: bool = False) -> None:
        """Forget vehicles; the truth is in the store. `overtaken`: which may have another version, see `_fill`."""
        for vehicle_id in vehicle_ids:
            slot = self._slots.pop(vehicle_id, None)
            if slot is not None:
                if overtaken:
                    self._overtaken[vehicle_id] = progress(self.heads[slot])
                self.rebases.pop(slot, None)
                self.unbacked.discard(slot)
                self._free.append(slot)
        self._metrics.slots_used.set(len(self._slots))

    async def load(self, vehicle_ids: Sequence[str], *, cold: bool = False) -> set[str]:
        """Bring vehicles, which the caller holds, into the cache; which ones were not there.

        Args:
            vehicle_ids: distinct.
            cold: begin with a zero state where there is no usable one, whatever `without_state` says.

        Raises:
            StoreUnavailable: not all were brought in; it names the others.
            ServiceError: of `without_state`; all others were brought in.
        """
        missing = [vehicle_id for vehicle_id in vehicle_ids if vehicle_id not in self._slots]
        for vehicle_id in vehicle_ids if len(missing) < len(vehicle_ids) else ():
            if vehicle_id in self._slots:
                self._slots.move_to_end(vehicle_id)
        new: list[str] = []
        lost: list[str] = []
        unreachable: list[str] = []
        for first in range(0, len(missing), LOADED_TOGETHER):
            group = missing[first : first + LOADED_TOGETHER]
            reached = await self._store.load_reachable(group)
            take_cold = cold or self.without_state is None
            lost += await self._bring(list(reached), list(reached.values()), take_cold=take_cold)
            new += [vehicle_id for vehicle_id, stored in reached.items() if stored is None]
            unreachable += [vehicle_id for vehicle_id in group if vehicle_id not in reached]
        for vehicle_id in new:
            # Who has sent nothing before makes room first: ids that come but once cannot take the fleet's slots.
            self._slots.move_to_end(vehicle_id, last=False)
        self.drop(lost)
        if unreachable:
            raise StoreUnavailable.of(unreachable)
        if lost and self.without_state is not None:
            self.without_state(lost)
        return set(missing)

    async def _bring(self, vehicle_ids: list[str], found: list[Stored | None], *, take_cold: bool) -> list[str]:
        """Put a few vehicles that were not in the cache into it; those that were not filled in because they are cold."""
        if not vehicle_ids:
            return []
        slots = self._claim(vehicle_ids)
        self._metrics.slots_used.set(len(self._slots))
        try:
            loop = asyncio.get_running_loop()
            restored = await loop.run_in_executor(self._step_thread, self._restore, vehicle_ids, slots, found)
        except BaseException:
            self.drop(vehicle_ids)
            raise
        lost: list[str] = []
        for vehicle_id, slot, vehicle in zip(vehicle_ids, slots.tolist(), restored, strict=True):
            if vehicle.reset is not None and not take_cold and int(vehicle.head["accepted"][0]):
                lost.append(vehicle_id)
            else:
                self.fill(vehicle_id, slot, vehicle)
        return lost

    def _restore(self, vehicle_ids: list[str], slots: Slots, found: list[Stored | None]) -> list[Restored]:
        """The heavy part, on the thread that has the states to itself."""
        restored = [
            self._rehydrator.restore(stored, None if stored is None else self._store.snapshot_key(vehicle_id, stored))
            for vehicle_id, stored in zip(vehicle_ids, found, strict=True)
        ]
        put_states(self._runtime, slots, restored)
        return restored

    def claim(self, vehicle_id: str) -> int:
        """A slot for a vehicle that the caller holds and will `fill` or `drop`."""
        return int(self._claim([vehicle_id])[0])

    def fill(self, vehicle_id: str, slot: int, restored: Restored) -> None:
        """Everything but the state; a state that had to be given up is told aloud."""
        self.heads[slot] = restored.head[0]
        self._versions[slot] = restored.version
        self.rings[slot]["seq"] = NO_SEQ
        one = np.array([slot])
        self._remember(one, restored.head, np.array([len(restored.answered)]), restored.answered)
        self._stagger[slot] = zlib.crc32(vehicle_id.encode()) % self._snapshot_every
        self.rebased(slot, restored.base)
        if restored.rebase is not None:
            self.rebases[slot] = restored.rebase
        if restored.from_history:
            self.unbacked.add(slot)
        if restored.source is not None:
            self._metrics.rehydrations.labels(restored.source).inc()
        if restored.reset is not None:
            kind, reason = restored.reset
            self._metrics.state_resets.labels(kind).inc()
            logger.warning("state cannot be used, cold start", vehicle_id=vehicle_id, reason=reason)

        if progress(restored.head[0]) < self._overtaken.pop(vehicle_id, (0, 0)):
            self._metrics.store_regressions.inc()
            self._went_back[vehicle_id] = int(restored.head["seq"][0])
            logger.error("the store went back in time: an acknowledged sample is gone", vehicle_id=vehicle_id)

    def went_back(self, vehicle_ids: list[str]) -> dict[str, int]:
        """Of these vehicles those that the store turned out to have forgotten samples of, once, with the last seq it has."""
        if not self._went_back:
            return {}
        return {name: self._went_back.pop(name) for name in vehicle_ids if name in self._went_back}

    def _claim(self, vehicle_ids: list[str]) -> Slots:
        """Free slots, and those of the least recently used vehicles that nobody works on."""
        wanting = len(vehicle_ids) - len(self._free)
        if wanting > 0:
            self.drop(list(islice((other for other in self._slots if other not in self._claims), wanting)))
        for vehicle_id in vehicle_ids:
            self._slots[vehicle_id] = self._free.pop()
        return self.slots(vehicle_ids)


def progress(head: np.void) -> tuple[int, int]:
    """How far a vehicle's history has come: session and samples; it only ever grows in a store that forgets nothing."""
    return int(head["epoch"]), int(head["accepted"])
