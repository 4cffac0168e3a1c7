"""What the store has of alerts beside the commits of samples: the open ones, acknowledgements, leases of the sweepers."""

from collections.abc import Sequence

from service.alerting.record import field_of
from service.store.redis_wire import Command
from service.store.store import LEASE, REPLACE_ALERT, TRANSITIONS_KEPT, Store
from service.store.store_keys import partition_keys

OLD_FIELDS_AT_ONCE = 500


class StoredAlerts:
    """Every method raises StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def replace(self, vehicle_id: str, rule: str, before: bytes, after: str) -> bool:
        """Replace an alert that is as it was read before, and tell of it; False if it has moved on."""
        partition = self._store.keys_of(vehicle_id).partition
        keys = partition_keys(partition)
        args = (field_of(vehicle_id, rule), before, after, TRANSITIONS_KEPT)
        call = REPLACE_ALERT.call((keys.alerts, keys.transitions), args)
        replaced = bool((await self._store.link.ask("acknowledge", [call], durable=True))[0])
        if replaced:
            self._store.on_news({partition})
        return replaced

    async def lease(self, partitions: Sequence[int], owner: str, lasts_s: float) -> list[int]:
        """Take or renew leases; the partitions that are this owner's now."""
        calls = [LEASE.call((partition_keys(p).lease,), (owner, round(1_000 * lasts_s))) for p in partitions]
        replies = await self._store.link.ask("sweep", calls)
        return [p for p, mine in zip(partitions, replies, strict=True) if mine]

    async def open_in(self, partitions: Sequence[int]) -> dict[int, dict[str, str]]:
        """Of each partition the fields of the open alerts, with phase and severity as `phase:severity`."""
        replies = await self._store.link.ask("sweep", [("HGETALL", partition_keys(p).open) for p in partitions])
        return {p: mapping(reply) for p, reply in zip(partitions, replies, strict=True)}

    async def beginnings(self, vehicle_ids: Sequence[str], size: int) -> list[bytes]:
        """The first bytes of the heads of vehicles."""
        commands: list[Command] = [("GETRANGE", self._store.keys_of(v).head, 0, size - 1) for v in vehicle_ids]
        found: list[bytes] = await self._store.link.ask("sweep", commands)
        return found

    async def from_before_rules(self, partition: int) -> dict[str, bytes]:
        """Alerts that a version without rules left, by vehicle."""
        alerts = partition_keys(partition).alerts
        (fields,) = await self._store.link.ask("sweep", [("HKEYS", alerts)])
        old = [field for field in fields if b"|" not in field]
        found: dict[str, bytes] = {}
        for first in range(0, len(old), OLD_FIELDS_AT_ONCE):
            some = old[first : first + OLD_FIELDS_AT_ONCE]
            (records,) = await self._store.link.ask("sweep", [("HMGET", alerts, *some)])
            found |= {field.decode(): data for field, data in zip(some, records, strict=True) if data is not None}
        return found

    async def take_over(self, partition: int, vehicle_id: str, rule: str, record: str, place: str | None) -> None:
        """Put a converted alert in the place of the old one, unless a newer one is there. `place`: among the open ones."""
        keys, name = partition_keys(partition), field_of(vehicle_id, rule)
        (fresh,) = await self._store.link.ask("sweep", [("HSETNX", keys.alerts, name, record)])
        then: list[Command] = [("HSET", keys.open, name, place)] if fresh and place is not None else []
        await self._store.link.ask("sweep", [*then, ("HDEL", keys.alerts, vehicle_id)])


def mapping(reply: object) -> dict[str, str]:
    """A reply to HGETALL, in either protocol's shape."""
    if isinstance(reply, dict):
        return {key.decode(): value.decode() for key, value in reply.items()}
    flat = [item.decode() for item in reply] if isinstance(reply, list) else []
    return dict(zip(flat[::2], flat[1::2], strict=True))
