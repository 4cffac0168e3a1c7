"""Which vehicles there are: by their names, by when they were heard, by risk."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from service.store.ranking import Ranked, ranked_vehicles, scored
from service.store.redis_wire import Command
from service.store.store_keys import partition_keys, partition_of
from service.store.timed_link import TimedLink

SCANNED_TOGETHER = 500


class AtRisk(NamedTuple):
    """Vehicles of the highest risk."""

    by_partition: list[list[bytes]]  # ids, of the partitions that answered
    n_vehicles: int  # in these partitions, of any risk
    unreachable: int  # partitions that did not answer


class Roll:
    """The vehicles of a data set. Every method raises StoreUnavailable when Redis does not answer or refuses."""

    def __init__(self, link: TimedLink, partitions: int) -> None:
        self._link = link
        self._partitions = partitions

    async def by_risk(self, limit: int, after: Ranked | None) -> list[Ranked]:
        """The next `limit` vehicles from the highest risk down, those that come after `after`."""
        async with self._link.timed("list"):
            return await ranked_vehicles(self._link.raw, self._partitions, limit, after)

    async def most_at_risk(self, limit: int) -> AtRisk:
        """The vehicles of the highest risk, at most so many of each partition whose server answers.

        Raises:
            StoreUnavailable: none does.
        """
        asked = [*self._of_each("ZREVRANGE", "risks", 0, limit - 1), *self._of_each("ZCARD", "vehicles")]
        async with self._link.timed("list"):
            replies = await self._link.attempt(asked)
            both = list(zip(replies[: self._partitions], replies[self._partitions :], strict=True))
            heard = [pair for pair in both if not any(isinstance(reply, Exception) for reply in pair)]
            if not heard:
                raise next(reply for reply in replies if isinstance(reply, Exception))
        return AtRisk([ids for ids, _ in heard], sum(n for _, n in heard), self._partitions - len(heard))

    async def ids(self) -> list[str]:
        """Every vehicle that is there all the while that this takes, and perhaps some that come or go meanwhile."""
        found: dict[str, None] = {}
        for partition in range(self._partitions):
            cursor, more = 0, True
            while more:
                scan = ("ZSCAN", partition_keys(partition).vehicles, cursor, "COUNT", SCANNED_TOGETHER)
                at, members = (await self._link.ask("scan", [scan]))[0]
                found |= dict.fromkeys(member.decode() for member, _ in scored(members))
                cursor = int(at)
                more = cursor != 0
        return list(found)

    async def known(self, vehicle_ids: Sequence[str]) -> set[str]:
        """Those of these vehicles that there are; one command per partition."""
        groups: dict[int, list[str]] = {}
        for vehicle_id in vehicle_ids:
            groups.setdefault(partition_of(vehicle_id, self._partitions), []).append(vehicle_id)
        replies = await self._link.ask(
            "known", [("ZMSCORE", partition_keys(p).vehicles, *members) for p, members in groups.items()]
        )
        return {
            vehicle_id
            for members, scores in zip(groups.values(), replies, strict=True)
            for vehicle_id, score in zip(members, scores, strict=True)
            if score is not None
        }

    async def count(self) -> int:
        """How many vehicles there are."""
        return sum(await self._link.ask("scan", self._of_each("ZCARD", "vehicles")))

    async def count_since(self, since_ms: int) -> tuple[int, int]:
        """How many vehicles were heard at this time or later (our clock), and how many only before."""
        since = self._of_each("ZCOUNT", "vehicles", since_ms, "+inf")
        before = self._of_each("ZCOUNT", "vehicles", "(0", f"({since_ms}")
        counts = await self._link.ask("count", [*since, *before])
        return sum(counts[: self._partitions]), sum(counts[self._partitions :])

    def _of_each(self, command: str, name: str, *args: Any) -> list[Command]:
        """The same question to each partition's key of this name."""
        return [(command, getattr(partition_keys(p), name), *args) for p in range(self._partitions)]
