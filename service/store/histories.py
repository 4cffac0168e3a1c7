"""Histories as blocks of bytes; what is in them is service/records/history.py."""

import hashlib
from pathlib import Path
from typing import cast

from service.store.redis_link import Script
from service.store.store_keys import vehicle_keys
from service.store.timed_link import TimedLink

PACK = Script.read(Path(__file__).with_name("pack_block.lua"))


class Histories:
    """The vehicles' histories. Every method raises StoreUnavailable when Redis does not answer or refuses."""

    def __init__(self, link: TimedLink, partitions: int) -> None:
        self._link = link
        self._partitions = partitions

    async def of(self, vehicle_id: str) -> list[bytes]:
        """The blocks of a vehicle's history and its tail; what is moved meanwhile is in both."""
        at = vehicle_keys(vehicle_id, self._partitions)
        tail, blocks = await self._link.ask("history", [("GET", at.tail), ("LRANGE", at.history, 0, -1)])
        return [*blocks, *([] if tail is None else [tail])]

    async def last_blocks(self, vehicle_id: str, n: int) -> list[bytes]:
        """The last n blocks of a vehicle's history."""
        key = vehicle_keys(vehicle_id, self._partitions).history
        return cast("list[bytes]", (await self._link.ask("history", [("LRANGE", key, -n, -1)]))[0])

    async def replace_block(self, vehicle_id: str, place: int, raw: bytes, packed: bytes) -> bool:
        """Put the packed block where the raw one is, counted from the end; False if another one is there."""
        digest = hashlib.sha1(raw, usedforsecurity=False).hexdigest()
        key = vehicle_keys(vehicle_id, self._partitions).history
        return bool((await self._link.ask("history", [PACK.call((key,), (place, digest, packed))]))[0])
