"""One batch's turn with the engine, as the batcher and the batch that follows it know it.

While a batch's commit is on its way, the next batch of the same vehicles may be computed from heads and states that are not
committed yet: it follows. Nothing of it leaves the process before the batch that it follows has won with every vehicle; if that one did
not, what was computed is thrown away, and it begins again from what the store has (ADR 17).
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.records.head import Heads


@dataclass(frozen=True, slots=True)
class Ahead:
    """What a batch whose commit is on its way makes of its vehicles.

    Attributes:
        vehicle_ids: (vehicles,).
        slots: (vehicles,) whose states are after the batch.
        heads: (vehicles,) after the batch.
    """

    vehicle_ids: Sequence[str]
    slots: NDArray[np.int64]
    heads: Heads

    def places_of(self, vehicle_ids: Sequence[str]) -> NDArray[np.int64]:
        """Where these vehicles, which are all among its own, stand in it."""
        if vehicle_ids == self.vehicle_ids:
            return np.arange(len(vehicle_ids))
        place = {vehicle_id: i for i, vehicle_id in enumerate(self.vehicle_ids)}
        return np.array([place[vehicle_id] for vehicle_id in vehicle_ids], np.int64)


class Turn:
    """From a batch's first look at the engine to its answers.

    Attributes:
        follows: the turn of the batch whose heads and states this one begins with.
        ahead: what a follower may begin with; None until the commit is on its way, and for good if nobody may follow.
        followed: the vehicles of a follower that has begun to change their states.
        spoiled: a follower that changed states has failed before this batch was settled.
        won: the commit was accepted for every vehicle, as planned.
        failed: once it is over, the vehicles of which a sample is to be sent again; None: all.
    """

    def __init__(self, follows: "Turn | None" = None, may_follow: Callable[[], None] = lambda: None) -> None:
        self.follows = follows
        self.ahead: Ahead | None = None
        self.followed: Sequence[str] = ()
        self.spoiled = False
        self.won = False
        self.failed: frozenset[str] | None = None
        self._may_follow = may_follow
        self._settled = asyncio.Event()
        self._over = asyncio.Event()

    @property
    def is_settled(self) -> bool:
        """Whether it is known what became of the commit."""
        return self._settled.is_set()

    @property
    def is_over(self) -> bool:
        """Whether the batch is answered."""
        return self._over.is_set()

    def leads(self, ahead: Ahead) -> None:
        """The commit is on its way: another batch of these vehicles may follow."""
        self.ahead = ahead
        self._may_follow()

    def settle(self, *, won: bool) -> None:
        """It is known what became of the commit."""
        if not self.is_settled:
            self.won = won
            self._settled.set()

    def end(self, failed: Iterable[str] | None) -> None:
        """The batch is answered."""
        self.failed = None if failed is None else frozenset(failed)
        self.settle(won=False)
        self._over.set()

    async def settled(self) -> bool:
        """Wait until it is known what became of the commit; whether it won."""
        await self._settled.wait()
        return self.won

    async def over(self) -> None:
        """Wait until the batch is answered."""
        await self._over.wait()
