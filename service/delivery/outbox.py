"""What delivery keeps in Redis: leases, consumer groups over the outbox, dead letters, and what is held back.

    {ew:p}:transitions        the outbox (service/store/store.py): one consumer group for each sink
    {ew:p}:lease:<sink>       which worker delivers this partition to the sink, and until when
    {ew:p}:held               hash: `silenced|sink|vehicle|rule` what a silence kept from a sink, `again|sink|letter` what is
                              to be delivered once more
    {ew:p}:dead               stream: notices that a sink would not take, with the reason; bounded
    {ew:p}:delivery           hash: id of the last entry that was trimmed, entries cut off by commits

What is written is not waited for on disk even under durability fsync: all of a partition is in one append-only file, so a power
cut takes its end only, and what it takes is delivered once more. Nothing here ever waits inside Redis; every partition is asked on its own, so that a lost node of a cluster costs its own only.
Methods raise RedisError, OSError or TimeoutError where nothing else is said.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import structlog
from redis.exceptions import RedisError

from service.delivery.notice import Notice, Record
from service.store.redis_link import RedisLink, Script
from service.store.redis_wire import Command
from service.store.store_keys import partition_keys, partition_of

logger = structlog.get_logger(__name__)

HOLD, TAKE, LOOK, BURY, UNBURY, TRIM = (
    Script.read(Path(__file__).with_name(f"{name}.lua")) for name in ("hold", "take", "look", "bury", "unbury", "trim")
)
RETAINED = 10_000  # entries of a partition kept for listeners that resume
LIMIT = 50_000  # entries of a partition kept for sinks that do not answer
DEAD_LETTERS = 5_000  # of a partition
TRIMMED_TOGETHER = 500
CLAIMED_TOGETHER = 100
FAILURES = (RedisError, OSError, TimeoutError)
SILENCED, AGAIN = "silenced", "again"
NOT_OURS = -1


class Entry(NamedTuple):
    """One change of an alert in the outbox; `record` is None where it cannot be read."""

    id: str
    record: Record | None

    @property
    def born_ms(self) -> int:
        """When it was committed, by the store's clock."""
        return int(self.id.split("-")[0])


class Page(NamedTuple):
    """Entries, and the store's clock when they were read: what is added later has no earlier time."""

    now_ms: int
    entries: list[Entry]


def lease_of(partition: int, sink: str) -> str:
    """Key of a lease."""
    return f"{{ew:{partition}}}:lease:{sink}"


def text(value: Any) -> str:
    """What Redis answers, as text."""
    return value.decode() if isinstance(value, bytes) else str(value)


def pairs(flat: Any) -> dict[str, str]:
    """Fields, which come as a mapping or as a flat list."""
    items = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
    return {text(name): text(value) for name, value in items}


def entries_of(reply: Any) -> list[Entry]:
    """Entries of the outbox from a reply; one that was deleted while somebody had it is left out."""
    found = []
    for item in reply or ():
        if not item or item[1] is None:
            continue
        found.append(Entry(text(item[0]), record_of(pairs(item[1]))))
    return found


def record_of(fields: dict[str, str]) -> Record | None:
    """The alert of an entry; None if it is none that can be told."""
    try:
        record = json.loads(fields["alert"])
        Notice.of(record, 0).key  # noqa: B018  (raises where a field is missing)
    except (KeyError, ValueError, TypeError):
        return None
    return dict(record)


class Outbox:
    """The outboxes of all partitions behind one URL."""

    def __init__(self, url: str, partitions: int, timeout_s: float) -> None:
        self._link = RedisLink(url, timeout_s, (HOLD, TAKE, LOOK, BURY, UNBURY, TRIM))
        self.partitions = partitions

    async def close(self) -> None:
        """Give the connections back."""
        await self._link.close()

    async def marked_partitions(self) -> int | None:
        """How many partitions the data set has; None if no service has ever used it."""
        (marked,) = await self._link.pipeline([("GET", "ew:partitions")])
        return None if marked is None else int(marked)

    async def run(self, commands: Sequence[Command]) -> None:
        """Run commands of one partition, all at once."""
        await self._link.pipeline(commands)

    async def attempt(self, commands: Sequence[Command]) -> list[Any]:
        """Run commands; what fails has its error in its place, and nothing is raised."""
        try:
            return await self._link.attempt(commands)
        except FAILURES as error:
            return [error] * len(commands)

    async def hold(self, sink: str, owner: str, lease_s: float, partitions: Sequence[int]) -> list[Any]:
        """Take or renew leases: for each 2 (taken), 1 (renewed), 0 (another's) or an error."""
        ms = int(1000 * lease_s)
        return await self.attempt([HOLD.call((lease_of(p, sink),), (owner, ms)) for p in partitions])

    async def give_back(self, sink: str, owner: str, partitions: Sequence[int]) -> None:
        """End leases."""
        await self.attempt([HOLD.call((lease_of(p, sink),), (owner, 0)) for p in partitions])

    async def open_groups(self, sink: str, partitions: Sequence[int], start: str) -> None:
        """Create a sink's groups where there are none: from `$` a new sink hears what comes, from `0` all that is kept."""
        replies = await self._link.attempt(
            [("XGROUP", "CREATE", partition_keys(p).transitions, sink, start, "MKSTREAM") for p in partitions]
        )
        for reply in replies:
            if isinstance(reply, Exception) and "BUSYGROUP" not in str(reply):
                raise reply

    async def take(self, partition: int, sink: str, owner: str, count: int) -> list[Entry] | None:
        """Entries that nobody has taken yet; None if another holds the lease."""
        keys = (lease_of(partition, sink), partition_keys(partition).transitions)
        (reply,) = await self._link.pipeline([TAKE.call(keys, (owner, sink, owner, count))])
        return None if reply == NOT_OURS else entries_of(reply)

    async def claim(self, partition: int, sink: str, owner: str) -> tuple[list[Entry], int]:
        """What was taken and not settled, by whomever; and how many of them are deleted by now."""
        stream, cursor = partition_keys(partition).transitions, "0-0"
        found: list[Entry] = []
        deleted = 0
        while True:
            claim = ("XAUTOCLAIM", stream, sink, owner, 0, cursor, "COUNT", CLAIMED_TOGETHER)
            (reply,) = await self._link.pipeline([claim])
            found += entries_of(reply[1])
            deleted += len(reply[2]) if len(reply) > 2 else sum(1 for item in reply[1] if not item)
            cursor = text(reply[0])
            if cursor == "0-0":
                return found, deleted

    async def last_ids(self) -> list[str]:
        """Id of the last entry of each partition; "0-0" where there is none."""
        replies = await self._link.pipeline(
            [("XREVRANGE", partition_keys(p).transitions, "+", "-", "COUNT", 1) for p in range(self.partitions)]
        )
        return [text(reply[0][0]) if reply else "0-0" for reply in replies]

    async def after(self, starts: dict[int, str], count: int) -> dict[int, Page | None]:
        """The next entries after an id, by partition; None where the store does not answer. One write for all."""
        calls = [LOOK.call((partition_keys(p).transitions,), (f"({start}", "+", count)) for p, start in starts.items()]
        return {
            p: None if isinstance(reply, Exception) else Page(int(reply[0]), entries_of(reply[1]))
            for p, reply in zip(starts, await self.attempt(calls), strict=True)
        }

    async def between(self, bounds: dict[int, tuple[str, str]], count: int) -> dict[int, list[Entry]]:
        """The next entries after an id and up to another, by partition."""
        replies = await self._link.pipeline(
            [
                ("XRANGE", partition_keys(p).transitions, f"({after}", end, "COUNT", count)
                for p, (after, end) in bounds.items()
            ]
        )
        return {p: entries_of(reply) for p, reply in zip(bounds, replies, strict=True)}

    async def trimmed(self) -> dict[int, str]:
        """Id of the last entry that was trimmed, by partition; only where one was."""
        replies = await self._link.pipeline(
            [("HGET", partition_keys(p).delivery, "trimmed") for p in range(self.partitions)]
        )
        return {p: text(reply) for p, reply in enumerate(replies) if reply is not None}

    async def held(self, partition: int) -> dict[str, dict[str, Any]]:
        """What waits for the end of a silence, or to be delivered once more."""
        (reply,) = await self._link.pipeline([("HGETALL", partition_keys(partition).held)])
        return {name: json.loads(value) for name, value in pairs(reply).items()}

    async def open_alerts(self, partition: int) -> list[Record]:
        """Alerts that are pending or open."""
        (fields,) = await self._link.pipeline([("HKEYS", partition_keys(partition).open)])
        if not fields:
            return []
        (reply,) = await self._link.pipeline([("HMGET", partition_keys(partition).alerts, *fields)])
        return [json.loads(value) for value in reply if value]

    async def alert(self, partition: int, key: str) -> Record | None:
        """The last alert of a vehicle and rule."""
        (reply,) = await self._link.pipeline([("HGET", partition_keys(partition).alerts, key)])
        return None if reply is None else dict(json.loads(reply))

    async def bury(self, partition: int, sink: str, notice: Notice, reason: str, attempts: int, now_ms: int) -> int:
        """Put a notice among the dead letters; how many old ones had to go for it."""
        letter: dict[str, Any] = {
            "sink": sink, "reason": reason, "attempts": attempts, "died_ms": now_ms, "born_ms": notice.born_ms,
            "transition": notice.transition, "event_id": notice.event_id, "alert": json.dumps(notice.record),
        }  # fmt: skip
        flat = [part for pair in letter.items() for part in pair]
        (gone,) = await self._link.pipeline([BURY.call((partition_keys(partition).dead,), (DEAD_LETTERS, *flat))])
        return int(gone)

    async def trim(self, sinks: Sequence[str], retained: int = RETAINED, limit: int = LIMIT) -> int:
        """Trim every partition; how many entries went that some sink had not had."""
        todo, dropped = list(range(self.partitions)), 0
        while todo:
            replies = await self.attempt(
                [
                    TRIM.call(
                        (partition_keys(p).transitions, partition_keys(p).delivery),
                        (retained, limit, TRIMMED_TOGETHER, *sinks),
                    )
                    for p in todo
                ]
            )
            again = []
            for partition, reply in zip(todo, replies, strict=True):
                if isinstance(reply, Exception):
                    logger.warning("an outbox could not be trimmed", partition=partition, reason=str(reply))
                    continue
                dropped += reply[1]
                if reply[2]:
                    again.append(partition)
            todo = again
        return dropped

    async def dead_letters(self) -> list[dict[str, Any]]:
        """All dead letters, the oldest first."""
        replies = await self._link.pipeline(
            [("XRANGE", partition_keys(p).dead, "-", "+") for p in range(self.partitions)]
        )
        letters = [
            {"id": f"{p}:{text(item[0])}", **letter_of(pairs(item[1]))}
            for p, reply in enumerate(replies)
            for item in reply
        ]
        return sorted(letters, key=lambda letter: (letter["died_ms"], letter["id"]))

    async def redeliver(self, letter_ids: Sequence[str]) -> list[bool]:
        """Hand dead letters back to whoever delivers; False for one that is not there."""
        calls = []
        for letter_id in letter_ids:
            partition, _, entry = letter_id.partition(":")
            keys = partition_keys(int(partition))
            calls.append(UNBURY.call((keys.dead, keys.held), (entry,)))
        return [bool(reply) for reply in await self._link.pipeline(calls)]


def letter_of(fields: dict[str, str]) -> dict[str, Any]:
    """A dead letter as data."""
    numbers = {name: int(fields[name]) for name in ("attempts", "died_ms", "born_ms")}
    return fields | numbers | {"alert": json.loads(fields["alert"])}


def settled(partition: int, sink: str, entry_id: str) -> Command:
    """The command that takes an entry off a sink's list."""
    return ("XACK", partition_keys(partition).transitions, sink, entry_id)


def partition_for(record: Record, partitions: int) -> int:
    """Where an alert is kept."""
    return partition_of(str(record["vehicle_id"]), partitions)
