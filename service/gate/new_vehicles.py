"""The door for vehicles that nobody knows: how many the data set may have, and how many one key may bring.

Asked before samples are queued, so that a flood of new ids takes neither room in the store nor places in the queue nor slots
from the fleet. What is in the cache passes without a question. What it does not know: imports and resets, which need `admin`.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import structlog
from prometheus_client import Counter
from redis.exceptions import RedisError

from service.errors import StoreUnavailable
from service.gate.rate_limit import RedisHits
from service.store.store import Store

logger = structlog.get_logger(__name__)

HOUR_S = 3_600


class VehicleRate:
    """At most `per_h` new vehicles of a key in an hour, counted in Redis; without an answer in time they pass, counted."""

    def __init__(self, hits: RedisHits, per_h: int, timeout_s: float, failures: Counter) -> None:
        self.per_h = per_h
        self._hits = hits
        self._timeout_s = timeout_s
        self._failures = failures

    async def take(self, key_id: str, n: int) -> int:
        """How many of n new vehicles the key may bring; those are counted."""
        try:
            async with asyncio.timeout(self._timeout_s):
                if await self._hits(key_id, n):
                    return n
                left = min(n, await self._hits.left(key_id))
                return left if left and await self._hits(key_id, left) else 0
        except (RedisError, OSError, TimeoutError) as error:
            self._failures.inc()
            logger.warning("the rate limit's store does not answer; vehicles pass", reason=str(error) or "timeout")
            return n


class NewVehicles:
    """Lets new vehicles in, or not.

    One worker never goes beyond `most`; several together by no more than what they let in at the same moment.

    Args:
        store: has the vehicles.
        cached: whether a vehicle is in this worker's cache, and so known.
        most: vehicles of the data set; 0: no bound.
        rate: of one key; None: no limit.
        refused: counts vehicles by reason, `bound` or `rate`.
    """

    def __init__(
        self, store: Store, cached: Callable[[str], bool], most: int, rate: VehicleRate | None, refused: Counter
    ) -> None:
        self._store = store
        self._cached = cached
        self._most = most
        self._rate = rate
        self._refused = refused
        self._coming: set[str] = set()  # let in, and perhaps not in the store yet
        self._deciding = asyncio.Lock()

    def strange(self, vehicle_ids: Iterable[str]) -> list[str]:
        """Those that are not in the cache, each once."""
        cached = self._cached
        return [vehicle_id for vehicle_id in dict.fromkeys(vehicle_ids) if not cached(vehicle_id)]

    @asynccontextmanager
    async def admit(self, key_id: str, strange: list[str]) -> AsyncIterator[dict[str, str]]:
        """Who of these may not come in, and why; the others' places are held until the end.

        If the store does not answer, all pass: the engine will defer them, and nothing is created.
        """
        admitted: set[str] = set()
        refused: dict[str, str] = {}
        try:
            known = await self._store.roll.known(strange)
            new = [vehicle_id for vehicle_id in strange if vehicle_id not in known and vehicle_id not in self._coming]
            if new:
                async with self._deciding:
                    refused = await self._decide(key_id, new)
                    admitted = set(new) - refused.keys()
                    self._coming |= admitted
        except StoreUnavailable:
            refused = {}
        try:
            yield refused
        finally:
            self._coming -= admitted

    async def _decide(self, key_id: str, new: list[str]) -> dict[str, str]:
        """Reasons by vehicle; the first ones of the request come in as long as there is room."""
        refused: dict[str, str] = {}
        if self._most:
            there = await self._store.roll.count() + len(self._coming)
            if self._coming and there + len(new) > self._most:  # those that have arrived by now were counted twice
                coming = set(self._coming)
                missing = coming - await self._store.roll.known(list(coming))
                there = await self._store.roll.count() + len(missing)
            room = max(0, self._most - there)
            reason = f"the data set has {there} of {self._most} vehicles (EMBERWATCH_MAX_VEHICLES)"
            refused = dict.fromkeys(new[room:], reason)
            self._count("bound", len(refused))
            new = new[:room]
        if self._rate is not None and new:
            may = await self._rate.take(key_id, len(new))
            reason = (
                f"key {key_id} may bring {self._rate.per_h} new vehicles in an hour (EMBERWATCH_NEW_VEHICLES_PER_H)"
            )
            refused |= dict.fromkeys(new[may:], reason)
            self._count("rate", len(new) - may)
        return refused

    def _count(self, reason: str, n: int) -> None:
        if n:
            self._refused.labels(reason).inc(n)
