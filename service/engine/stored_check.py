"""Is every vehicle in the store whole: checksums of head, journal and snapshot, and that each leads to the next?

Nothing is changed, and nothing is computed: a state that is whole here may still be asked of the model by
`emberwatch state verify VEHICLE FILE`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from service.engine.rehydrate import Rehydrator
from service.store.store import Store

TOGETHER = 32  # states in memory at once


@dataclass(frozen=True, slots=True)
class Broken:
    """A vehicle whose next sample would start it cold."""

    vehicle_id: str
    kind: str  # "unusable", or "model": it belongs to another one
    reason: str


async def broken_vehicles(store: Store, rehydrator: Rehydrator, advance: Callable[[int], None]) -> list[Broken]:
    """Look at every vehicle; those that could not go on. `advance` hears how many were looked at.

    Raises:
        StoreUnavailable.
    """
    found = []
    vehicle_ids = await store.roll.ids()
    for first in range(0, len(vehicle_ids), TOGETHER):
        group = vehicle_ids[first : first + TOGETHER]
        for vehicle_id, stored in zip(group, await store.load(group), strict=True):
            if stored is not None:  # None: it was erased meanwhile
                reset = rehydrator.restore(stored, None).reset
                if reset is not None:
                    found.append(Broken(vehicle_id, *reset))
        advance(len(group))
    return found
