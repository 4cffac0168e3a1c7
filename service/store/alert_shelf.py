"""The last alert of each vehicle and rule, and which of them are open; what they say is service/alerting/record.py."""

from collections.abc import Sequence

from service.store.redis_wire import Command
from service.store.store_keys import partition_keys, vehicle_keys
from service.store.timed_link import TimedLink


class AlertShelf:
    """Alerts as stored. Every method raises StoreUnavailable when Redis does not answer or refuses."""

    def __init__(self, link: TimedLink, partitions: int, entry_bytes: int) -> None:
        self._link = link
        self._partitions = partitions
        self._entry_bytes = entry_bytes

    async def all(self) -> list[bytes]:
        """The last alerts of all vehicles."""
        replies = await self._link.ask("alerts", [("HVALS", partition_keys(p).alerts) for p in range(self._partitions)])
        return [text for reply in replies for text in reply]

    async def open(self) -> list[bytes]:
        """The alerts that are open."""
        replies = await self._link.ask("alerts", [("HKEYS", partition_keys(p).open) for p in range(self._partitions)])
        asked = [("HMGET", partition_keys(p).alerts, *fields) for p, fields in enumerate(replies) if fields]
        return [text for reply in await self._link.ask("alerts", asked) for text in reply if text is not None]

    async def of(self, vehicle_id: str, fields: Sequence[str]) -> list[bytes | None]:
        """The last alerts of one vehicle under these fields."""
        alerts = partition_keys(vehicle_keys(vehicle_id, self._partitions).partition).alerts
        found: list[bytes | None] = (await self._link.ask("alerts", [("HMGET", alerts, *fields)]))[0]
        return found

    async def background(self, wanted: Sequence[tuple[str, str]], entries: int) -> list[tuple[bytes, bytes | None]]:
        """For vehicles and rules: so many last entries of the journal, and the last alert."""
        commands: list[Command] = []
        for vehicle_id, rule in wanted:
            at = vehicle_keys(vehicle_id, self._partitions)
            commands.append(("GETRANGE", at.journal, -max(entries * self._entry_bytes, 1), -1))
            commands.append(("HGET", partition_keys(at.partition).alerts, f"{vehicle_id}|{rule}"))
        replies = await self._link.ask("alerts", commands)
        return list(zip(replies[::2], replies[1::2], strict=True))
