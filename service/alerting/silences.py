"""Silences: matching alerts are not notified for a while. The alerts themselves go on; nothing here touches a machine.

A silence whose start lies ahead is a maintenance window. Matchers must all match; a vehicle's may be a glob (`*`, `?`, `[...]`).
Ended silences are kept for a day, so that one can see why nobody was called, and then swept.
"""

import fnmatch
import json
import secrets
from dataclasses import asdict, dataclass
from typing import Any

from service.errors import ServiceError
from service.store.store import Store

KEY = "ew:silences"  # one hash for the data set: silences are few, and looked at all at once
MOST = 1_000
KEPT_MS = 86_400_000


class TooManySilences(ServiceError):
    """There are as many silences as the service keeps."""

    status, kind = 409, "too-many-silences"


@dataclass(frozen=True, slots=True)
class Silence:
    """One silence. Times are epoch milliseconds by the service's clock.

    Attributes:
        vehicle_id: an id or a glob; None, as for the next two: any.
        created_by: who.
    """

    id: str
    starts_ms: int
    ends_ms: int
    vehicle_id: str | None
    rule: str | None
    severity: str | None
    created_by: str
    created_ms: int
    comment: str

    def active(self, now_ms: int) -> bool:
        """Whether it holds at this instant."""
        return self.starts_ms <= now_ms < self.ends_ms

    def matches(self, record: dict[str, Any]) -> bool:
        """Whether it is about this alert."""
        return (
            (self.vehicle_id is None or fnmatch.fnmatchcase(record["vehicle_id"], self.vehicle_id))
            and self.rule in {None, record["rule"]}
            and self.severity in {None, record["severity"]}
        )


class Silences:
    """All silences of a data set. Every method raises StoreUnavailable."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def all(self) -> list[Silence]:
        """Those that are, were and will be in force, the one that ends last first."""
        (values,) = await self._store.link.ask("silences", [("HVALS", KEY)])
        found = [Silence(**json.loads(text)) for text in values]
        return sorted(found, key=lambda silence: (silence.ends_ms, silence.id), reverse=True)

    async def active(self, now_ms: int) -> list[Silence]:
        """Those in force."""
        return [silence for silence in await self.all() if silence.active(now_ms)]

    async def add(self, silence: Silence) -> None:
        """Keep a silence.

        Raises:
            TooManySilences.
        """
        (count,) = await self._store.link.ask("silences", [("HLEN", KEY)])
        if count >= MOST:
            raise TooManySilences(f"there are {count} silences; delete some, or let one cover more with a glob")
        await self._store.link.ask("silences", [("HSET", KEY, silence.id, json.dumps(asdict(silence)))], durable=True)

    async def remove(self, name: str) -> bool:
        """Delete a silence; whether there was one."""
        return bool((await self._store.link.ask("silences", [("HDEL", KEY, name)], durable=True))[0])

    async def sweep(self, now_ms: int) -> None:
        """Forget those that ended a day ago."""
        over = [silence.id for silence in await self.all() if silence.ends_ms < now_ms - KEPT_MS]
        if over:
            await self._store.link.ask("silences", [("HDEL", KEY, *over)])


def fresh_id() -> str:
    """A silence's name."""
    return secrets.token_hex(8)
