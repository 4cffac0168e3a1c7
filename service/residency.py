"""Which vehicle's head and state sit in which slot of this worker's cache. Everything here can be dropped at any time."""

from collections import OrderedDict

import numpy as np
import structlog
from numpy.typing import NDArray

from model.runtime import ModelRuntime
from service.head import NO_SEQ, HeadLayout, Heads
from service.metrics import Metrics
from service.state_codec import StateCodecError, unpack_snapshot
from service.store import ABSENT, Store, Stored, version_of

logger = structlog.get_logger(__name__)

FIRST_SLOT = 1  # slot 0 is the pool's dummy


class Residency:
    """Vehicle to slot, least recently used first; heads by slot as one structured array."""

    def __init__(self, n_slots: int, layout: HeadLayout, runtime: ModelRuntime, store: Store, metrics: Metrics) -> None:
        self.heads: Heads = np.zeros(n_slots, layout.dtype)
        self._layout = layout
        self._runtime = runtime
        self._store = store
        self._metrics = metrics
        self._versions = [ABSENT] * n_slots
        self._slots: OrderedDict[str, int] = OrderedDict()
        self._free = list(range(n_slots - 1, FIRST_SLOT - 1, -1))
        metrics.slots_capacity.set(len(self._free))

    def slots(self, vehicle_ids: list[str]) -> NDArray[np.int64]:
        """Slots (batch,) of resident vehicles."""
        return np.array([self._slots[vehicle_id] for vehicle_id in vehicle_ids], np.int64)

    def version(self, slot: int) -> bytes:
        """What the store holds as this vehicle's version; a salvaged head's own bytes would differ from it."""
        return self._versions[slot]

    def keep(self, slot: int, head: np.void) -> None:
        """Take over a head that was just committed."""
        self.heads[slot] = head
        self._versions[slot] = version_of(head.tobytes())

    def drop(self, vehicle_ids: list[str]) -> None:
        """Forget vehicles; the truth is in the store."""
        for vehicle_id in vehicle_ids:
            slot = self._slots.pop(vehicle_id, None)
            if slot is not None:
                self._free.append(slot)
        self._metrics.slots_used.set(len(self._slots))

    async def load(self, vehicle_ids: list[str]) -> set[str]:
        """Bring vehicles into the cache; which ones were not there. No more vehicles than there are slots.

        Raises:
            StoreUnavailable: none was brought in.
        """
        missing = []
        for vehicle_id in vehicle_ids:
            if vehicle_id in self._slots:
                self._slots.move_to_end(vehicle_id)
            else:
                missing.append(vehicle_id)
        if missing:
            for vehicle_id, stored in zip(missing, await self._store.load(missing), strict=True):
                self._slots[vehicle_id] = slot = self._claim()
                try:
                    self._fill(vehicle_id, slot, stored)
                except BaseException:
                    self.drop([vehicle_id])
                    raise
            self._metrics.slots_used.set(len(self._slots))
        return set(missing)

    def _claim(self) -> int:
        """A free slot, or that of the least recently used vehicle."""
        return self._free.pop() if self._free else self._slots.popitem(last=False)[1]

    def _fill(self, vehicle_id: str, slot: int, stored: Stored | None) -> None:
        """Put one vehicle as found in the store into a slot; start cold, aloud, if its state cannot be used."""
        self._runtime.zero(slot)
        self._versions[slot] = ABSENT if stored is None else version_of(stored.head)
        if stored is None:
            self.heads[slot] = self._layout.new_session(1)[0]
            return
        try:
            self.heads[slot] = self._usable(slot, stored)[0]
        except ValueError as error:  # StateCodecError is one
            self.heads[slot] = self._layout.salvage(stored.head)[0]
            self._metrics.state_resets.labels("unusable").inc()
            logger.warning("state cannot be used, cold start", vehicle_id=vehicle_id, reason=str(error))

    def _usable(self, slot: int, stored: Stored) -> Heads:
        """The stored head (1,), its state written to the slot. Raises ValueError if either cannot be used."""
        head = self._layout.unpack(stored.head)
        if int(head["seq"][0]) == NO_SEQ:
            return head
        if stored.snapshot is None:
            raise StateCodecError("the snapshot that the head points to is not in the store")
        snapshot = unpack_snapshot(stored.snapshot)
        if snapshot.fingerprint != self._layout.fingerprint:
            raise StateCodecError(f"it belongs to model {snapshot.fingerprint}")
        self._runtime.write(slot, snapshot.conv, snapshot.ssm)
        self._metrics.rehydrations.labels("snapshot").inc()
        return head
