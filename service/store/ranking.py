"""The list of vehicles by risk, page by page, over all partitions."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.store.redis_link import RedisLink
from service.store.store_keys import partition_keys


@dataclass(frozen=True, slots=True)
class Ranked:
    """A vehicle's place in the list by risk."""

    risk: float
    vehicle_id: str


def rank(vehicle: Ranked) -> tuple[float, str]:
    """Sort key of the list: equal risks are told apart by id."""
    return (vehicle.risk, vehicle.vehicle_id)


async def ranked_vehicles(link: RedisLink, partitions: int, limit: int, after: Ranked | None) -> list[Ranked]:
    """The next `limit` vehicles from the highest risk down, those that come after `after`."""
    top = "+inf" if after is None else after.risk
    found: list[Ranked] = []
    unread = list(range(partitions))  # partitions that may still hold one of the next `limit`
    for offset in itertools.count(0, limit):
        page = ("WITHSCORES", "LIMIT", offset, limit)
        keys = [partition_keys(p).risks for p in unread]
        replies = await link.pipeline([("ZREVRANGEBYSCORE", key, top, "-inf", *page) for key in keys])
        more = []
        for partition, reply in zip(unread, replies, strict=True):
            part = [Ranked(score, member.decode()) for member, score in scored(reply)]
            kept = [v for v in part if after is None or rank(v) < rank(after)]
            found += kept
            # Only ties with the cursor that it has passed already can make a full page too short.
            if len(part) == limit and len(kept) < limit:
                more.append(partition)
        unread = more
        if not unread:
            break
    return sorted(found, key=rank, reverse=True)[:limit]


def scored(reply: Sequence[Any]) -> list[tuple[bytes, float]]:
    """Members with scores, from either protocol's shape of a WITHSCORES reply."""
    if reply and isinstance(reply[0], (list, tuple)):
        return [(member, float(score)) for member, score in reply]
    return list(zip(reply[::2], (float(score) for score in reply[1::2]), strict=True))
