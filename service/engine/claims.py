"""Who works on which vehicle right now: batches and resets of one vehicle take turns, those of others do not wait."""

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager


class Claims:
    """Exclusive claims on sets of vehicles, granted in the order in which they were asked for."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._promised: set[str] = set()  # of those held: somebody has them as soon as their holder lets go
        self._waiting: list[tuple[frozenset[str], asyncio.Future[None]]] = []

    def __contains__(self, vehicle_id: str) -> bool:
        return vehicle_id in self._held

    @property
    def contended(self) -> bool:
        """Whether somebody waits for a turn."""
        return bool(self._waiting)

    @asynccontextmanager
    async def hold(self, vehicle_ids: Collection[str]) -> AsyncIterator[None]:
        """Have these vehicles for oneself; all are taken at once, so that nobody waits in a circle."""
        wanted = frozenset(vehicle_ids)
        if self._waiting or not self._held.isdisjoint(wanted):
            await self._turn(wanted)
        else:
            self._held |= wanted
        try:
            yield
        finally:
            self._let_go(wanted)

    @asynccontextmanager
    async def inherit(self, vehicle_ids: Collection[str]) -> AsyncIterator[None]:
        """Have vehicles that somebody holds who knows of it, beside and after them; nobody comes between.

        Raises:
            ValueError: nobody holds them all, or somebody has been promised one already.
        """
        wanted = frozenset(vehicle_ids)
        if not wanted <= self._held or not wanted.isdisjoint(self._promised):
            raise ValueError("only what is held can be inherited, and once")
        self._promised |= wanted
        try:
            yield
        finally:
            self._let_go(wanted)

    def _let_go(self, wanted: frozenset[str]) -> None:
        """The first of a holder and an heir leaves the vehicles to the other."""
        left = wanted & self._promised
        self._promised -= left
        self._held -= wanted - left
        self._grant()

    async def _turn(self, wanted: frozenset[str]) -> None:
        """Wait until `wanted` was granted."""
        ticket = (wanted, asyncio.get_running_loop().create_future())
        self._waiting.append(ticket)
        self._grant()
        try:
            await ticket[1]
        except asyncio.CancelledError:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            else:
                self._held -= wanted
            self._grant()
            raise

    def _grant(self) -> None:
        """Serve those in line whom neither a holder nor anybody before them keeps waiting."""
        blocked, left = set(self._held), []
        for wanted, turn in self._waiting:
            if blocked.isdisjoint(wanted) and not turn.done():
                self._held |= wanted
                turn.set_result(None)
            else:
                left.append((wanted, turn))
            blocked |= wanted
        self._waiting = left
