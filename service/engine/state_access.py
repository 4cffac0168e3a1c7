"""The recurrent state of one vehicle from outside the stream: read as it stands. The caller holds the vehicle."""

import asyncio
from typing import NamedTuple

import numpy as np

from service.engine.context import EngineContext
from service.engine.residency import Residency
from service.records.state_codec import Snapshot
from service.store.changes import ABSENT


class Exported(NamedTuple):
    """A state as committed."""

    snapshot: Snapshot | None  # None: this model has seen no sample of the session
    nonce: int  # of the commit; with epoch and seq the version of the state


class StateAccess:
    """Reads states through the cache, whose snapshot and journal make up the state."""

    def __init__(self, context: EngineContext, residency: Residency) -> None:
        self._fingerprint = context.fingerprint
        self._runtime = context.runtime
        self._residency = residency
        self._store = context.store
        self._step_thread = context.step_thread

    async def export(self, vehicle_id: str) -> Exported | None:
        """The state after the last committed sample; None if the vehicle was never heard of.

        Raises:
            StoreUnavailable.
        """
        version = await self._store.version(vehicle_id)
        if version == ABSENT:
            return None
        slot = self._residency.slot(vehicle_id)
        if slot is not None and self._residency.versions(np.array([slot])) != [version]:
            self._residency.drop([vehicle_id], overtaken=True)
        await self._residency.load([vehicle_id])
        slots = self._residency.slots([vehicle_id])
        head = self._residency.heads[slots[0]]
        if not head["samples"]:
            return Exported(None, int(head["nonce"]))
        loop = asyncio.get_running_loop()
        conv, ssm = await loop.run_in_executor(self._step_thread, self._runtime.read, slots)
        snapshot = Snapshot(self._fingerprint, int(head["epoch"]), int(head["seq"]), conv[0], ssm[0])
        return Exported(snapshot, int(head["nonce"]))
