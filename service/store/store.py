"""Redis, where the truth is. Every key of a partition carries its hash tag, so that one script touches one slot.

    {ew:p}:v:<id>:head                         the head (service/records/head.py)
    {ew:p}:v:<id>:journal                      what was accepted lately, after a base that names a snapshot (service/records/journal.py)
    {ew:p}:v:<id>:snap:<epoch>:<seq>:<nonce>   the recurrent state (service/records/state_codec.py) that a base names
    {ew:p}:v:<id>:trend                        its last 48 hours in bins of five minutes (service/engine/trend.py)
    {ew:p}:v:<id>:tail, :history               accepted samples as sent, with retain_history (service/records/history.py)
    {ew:p}:vehicles, {ew:p}:risks              vehicles by when they were heard and by last risk
    {ew:p}:alerts, {ew:p}:open                 last alert of each vehicle and rule; phase and severity of the open ones
    {ew:p}:transitions                         stream of what changed
    {ew:p}:lease                               whose turn it is to see to what time alone changes
    {ew:p}:delivery, {ew:p}:held, {ew:p}:dead  of service/delivery/outbox.py
    {ew:p}:fence                               written and waited for before something read is acknowledged (durability fsync)
    ew:partitions                              how many partitions this data set has

A snapshot is written to a fresh key that expires; then a script points the journal's base to it, makes it permanent and
unlinks the old one: two writers can never overwrite the bytes that a base names, and orphans go away by themselves.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import structlog
from prometheus_client import Histogram
from redis.exceptions import RedisError, ResponseError

from service.errors import StoreUnavailable
from service.records.head import VERSION, read_version
from service.records.history import Retention
from service.records.journal import BASE_DTYPE, KEEP
from service.samples import NO_SEQ
from service.store.erasure import forget_held, forget_transitions
from service.store.ranking import Ranked, ranked_vehicles, scored
from service.store.redis_link import RedisLink, Script
from service.store.redis_nodes import NodeDown
from service.store.redis_wire import Command
from service.store.store_check import Durability, StoreMisconfigured, check_appendfsync, check_mode, check_server
from service.store.store_keys import VehicleKeys, partition_keys, vehicle_keys

ORPHAN_EXPIRY_S = 600
TRANSITIONS_KEPT = 100_000  # per partition
COMMITS_PER_CALL = 500  # Lua passes so many vehicles' scores to one command; and a script must not hold up the store
SCANNED_TOGETHER = 500
logger = structlog.get_logger(__name__)

COMMIT, FLIP, ERASE, PACK, REPLACE_ALERT, LEASE = (
    Script.read(Path(__file__).with_name(f"{name}.lua"))
    for name in ("commit", "flip", "erase", "pack_block", "replace_alert", "lease")
)
ABSENT = b""  # version of a vehicle without head
NO_BASE = b""
FORGET_HISTORY = b"-"


class Stored(NamedTuple):
    """A vehicle as found in the store."""

    head: bytes
    journal: bytes | None
    snapshot: bytes | None  # None if the base names none, or if it is gone

    @property
    def base(self) -> bytes:
        """The base of its journal, or NO_BASE."""
        return NO_BASE if self.journal is None else self.journal[: BASE_DTYPE.itemsize]


class Rebase(NamedTuple):
    """A new beginning of a journal, as part of a commit."""

    base: bytes
    snapshot: bytes | None  # what the base names; None for the zero state
    expected: bytes  # the base that is there, or NO_BASE to take any
    keep: int  # entries of the old journal to keep for retries
    old: bytes | None  # key of the snapshot that nobody will need any more


class Commit(NamedTuple):
    """One vehicle's change: from the version that it was computed from to a new head."""

    vehicle_id: str
    expected: bytes  # the version of the head, or ABSENT
    head: bytes
    entries: bytes  # of the journal
    rebase: Rebase | None
    alerts: str = ""  # what becomes of the vehicle's alerts, line by line (service/store/commit.lua)
    trend: Sequence["TrendWrite"] = ()
    samples: bytes = b""  # for the history, or FORGET_HISTORY


class TrendWrite(NamedTuple):
    """What goes where in a vehicle's ring."""

    offset: int
    data: bytes  # nothing: the ring goes
    ring_bytes: int  # a ring is made at its full length, which it then keeps: growing it would reserve as much again


class Flip(NamedTuple):
    """A snapshot to be written, and the journal that shall point to it."""

    vehicle_id: str
    expected: bytes  # base
    base: bytes
    snapshot: bytes
    proof: bytes  # nonce of the commit whose state the snapshot holds, 8 bytes


class Outcome:
    """What the scripts say of one vehicle."""

    WON, WON_WITHOUT_JOURNAL, WON_WITH_BLOCK, LOST, NO_SNAPSHOT = 1, 2, 3, 0, -1
    UNKNOWN = -2  # its server did not say


def version_of(head: bytes) -> bytes:
    """The part of a head that commits compare."""
    return head[: VERSION.size]


class Store:
    """The data set behind one URL. Every method raises StoreUnavailable when Redis does not answer or refuses."""

    def __init__(
        self,
        url: str,
        partitions: int,
        timeout_s: float,
        duration: Histogram,
        *,
        entry_bytes: int,
        durability: Durability = "everysec",
        retention: Retention | None = None,
    ) -> None:
        scripts = (COMMIT, FLIP, ERASE, PACK, REPLACE_ALERT, LEASE)
        self._link = RedisLink(url, timeout_s, scripts, fsync=durability == "fsync")
        self._partitions = partitions
        self._duration = duration
        self._entry_bytes = entry_bytes
        self._durability = durability
        self.on_news: Callable[[set[int]], None] = lambda _: None  # told the partitions where alerts have changed
        self._retention = (b"", 0, 0, 0) if retention is None else retention.for_script()

    async def close(self) -> None:
        """Give the connections back."""
        await self._link.close()

    @asynccontextmanager
    async def _timed(self, op: str) -> AsyncIterator[None]:
        """Measure an operation and give its failures one name."""
        started = time.perf_counter()
        try:
            yield
        except (TimeoutError, RedisError, OSError) as error:
            # The reason is for the operator; the sender learns what to do.
            logger.warning("store call failed", op=op, reason=str(error))
            raise StoreUnavailable(
                "the store does not answer or refuses; nothing is known to be acknowledged"
            ) from error
        finally:
            self._duration.labels(op).observe(time.perf_counter() - started)

    async def ping(self) -> None:
        """Raise StoreUnavailable unless the store answers."""
        async with self._timed("ping"):
            await self._link.ping()

    async def check(self) -> None:
        """Refuse a store that would lose data in silence or that belongs to another layout.

        Raises:
            StoreMisconfigured: too old, evicting, less durable than asked for, or of another number of partitions.
        """
        async with self._timed("check"):
            servers, memories = await self._link.info("server"), await self._link.info("memory")
            persistences = await self._link.info("persistence")
            (marked,) = await self._link.pipeline([("GET", "ew:partitions")])
        for server, memory, persistence in zip(servers, memories, persistences, strict=True):
            check_server(server, memory, persistence, self._durability)
            check_mode(server, clustered=self._link.clustered)
        if self._durability == "fsync":
            await self._check_appendfsync()
        if marked is not None and int(marked) != self._partitions:
            raise StoreMisconfigured(
                f"this data set has {int(marked)} partitions, EMBERWATCH_PARTITIONS says {self._partitions}; "
                "it cannot be changed once there are vehicles"
            )
        async with self._timed("check"):  # only a store we will use is marked, and the mark is the test of WAITAOF
            await self._link.pipeline([("SET", "ew:partitions", self._partitions, "NX")], durable=True)

    async def _check_appendfsync(self) -> None:
        async with self._timed("check"):
            try:
                policies = await self._link.config("appendfsync")
            except ResponseError as error:
                raise StoreMisconfigured(
                    f"durability is fsync, and the store does not say whether its appendfsync is always: {error}. Allow "
                    "CONFIG GET to this user"
                ) from error
        check_appendfsync(policies)

    async def _attempt(self, commands: Sequence[Command], *, durable: bool = False) -> list[Any]:
        """Replies, errors in their places: a node of a cluster that fails shall not fail the vehicles of the others."""
        replies = await self._link.attempt(commands, durable=durable)
        told = [reply for reply in replies if isinstance(reply, Exception) and not isinstance(reply, NodeDown)]
        if told:  # that a node is down was said when it went
            logger.warning("store commands failed", failed=len(told), of=len(replies), reason=str(told[0]))
        return replies

    async def load(self, vehicle_ids: Sequence[str]) -> list[Stored | None]:
        """Heads, their journals, and the snapshots that these name; head and journal of one moment."""
        found = await self.load_reachable(vehicle_ids)
        if len(found) < len(set(vehicle_ids)):
            raise StoreUnavailable.of(vehicle_id for vehicle_id in vehicle_ids if vehicle_id not in found)
        return [found[vehicle_id] for vehicle_id in vehicle_ids]

    async def load_reachable(self, vehicle_ids: Sequence[str]) -> dict[str, Stored | None]:
        """As `load`, of those vehicles whose server answers."""
        loaded: dict[str, Stored | None] = {}
        todo = list(vehicle_ids)
        async with self._timed("load"):
            while todo:
                found = await self._heads_and_journals(todo)
                keys = [None if s is None else self._keys(v).snapshot_of(s.base) for v, s in found.items()]
                blobs = iter(await self._attempt([("GET", key) for key in keys if key is not None]))
                doubtful = []
                for (vehicle_id, stored), key in zip(found.items(), keys, strict=True):
                    blob = None if key is None else next(blobs)
                    if stored is None or key is None:
                        loaded[vehicle_id] = stored
                    elif blob is None:
                        doubtful.append(vehicle_id)
                    elif not isinstance(blob, Exception):
                        loaded[vehicle_id] = stored._replace(snapshot=blob)
                todo = []
                for vehicle_id, now in (await self._heads_and_journals(doubtful)).items():
                    before = found[vehicle_id]
                    if now is not None and before is not None and now.base == before.base:
                        loaded[vehicle_id] = before  # its snapshot is gone
                    else:
                        todo.append(vehicle_id)  # a flip came between our two reads
            if self._durability == "fsync":
                return await self._fenced(loaded)
        return loaded

    async def _fenced(self, loaded: dict[str, Stored | None]) -> dict[str, Stored | None]:
        """Those of these vehicles whose servers have on disk, when this returns, all that they had taken so far.

        A sample that was committed and not acknowledged, because the disk was slow, must not be acknowledged as a
        duplicate before it is.
        """
        partition_of = {vehicle_id: self._keys(vehicle_id).partition for vehicle_id in loaded}
        partitions = sorted(set(partition_of.values()))
        replies = await self._attempt([("SET", partition_keys(p).fence, 1) for p in partitions], durable=True)
        fenced = {p for p, reply in zip(partitions, replies, strict=True) if not isinstance(reply, Exception)}
        return {vehicle_id: stored for vehicle_id, stored in loaded.items() if partition_of[vehicle_id] in fenced}

    async def peek(self, vehicle_id: str) -> Stored | None:
        """Head and journal of a vehicle without its state."""
        async with self._timed("peek"):
            found = await self._heads_and_journals([vehicle_id])
        if vehicle_id not in found:
            raise StoreUnavailable.of([vehicle_id])
        return found[vehicle_id]

    async def _heads_and_journals(self, vehicle_ids: Sequence[str]) -> dict[str, Stored | None]:
        """Both of each vehicle whose server answers, read in one command per partition."""
        groups: dict[int, list[str]] = {}
        for vehicle_id in vehicle_ids:
            groups.setdefault(self._keys(vehicle_id).partition, []).append(vehicle_id)
        replies = await self._attempt(
            [
                ("MGET", *(key for v in members for key in (self._keys(v).head, self._keys(v).journal)))
                for members in groups.values()
            ]
        )
        return {
            vehicle_id: None if reply[2 * i] is None else Stored(reply[2 * i], reply[2 * i + 1], None)
            for members, reply in zip(groups.values(), replies, strict=True)
            if not isinstance(reply, Exception)
            for i, vehicle_id in enumerate(members)
        }

    async def heads(self, vehicle_ids: Sequence[str]) -> list[bytes | None]:
        """Heads only."""
        async with self._timed("heads"):
            return cast(
                "list[bytes | None]", await self._link.pipeline([("GET", self._keys(v).head) for v in vehicle_ids])
            )

    async def most_at_risk(self, limit: int) -> list[list[bytes]]:
        """Of each partition the ids of the vehicles of the highest risk, at most so many of each."""
        async with self._timed("list"):
            return await self._link.pipeline(
                [("ZREVRANGE", partition_keys(p).risks, 0, limit - 1) for p in range(self._partitions)]
            )

    async def heads_together(self, vehicle_ids: Sequence[bytes]) -> list[bytes | None]:
        """Heads of vehicles that are all in one partition, read at one moment."""
        async with self._timed("heads"):
            keys = [self._keys(vehicle_id.decode()).head for vehicle_id in vehicle_ids]
            return cast("list[bytes | None]", (await self._link.pipeline([("MGET", *keys)]))[0])

    async def version(self, vehicle_id: str) -> bytes:
        """The version of a vehicle as it is now."""
        found = await self.versions([vehicle_id])
        if vehicle_id not in found:
            raise StoreUnavailable.of([vehicle_id])
        return found[vehicle_id]

    async def versions(self, vehicle_ids: Sequence[str]) -> dict[str, bytes]:
        """The versions as they are now of those vehicles whose server answers."""
        async with self._timed("versions"):
            replies = await self._attempt([("GETRANGE", self._keys(v).head, 0, VERSION.size - 1) for v in vehicle_ids])
        return {
            vehicle_id: reply
            for vehicle_id, reply in zip(vehicle_ids, replies, strict=True)
            if not isinstance(reply, Exception)
        }

    async def bases(self, vehicle_ids: Sequence[str]) -> list[bytes]:
        """The base of each vehicle's journal as it is now; NO_BASE where there is no journal."""
        async with self._timed("bases"):
            return await self._link.pipeline(
                [("GETRANGE", self._keys(v).journal, 0, BASE_DTYPE.itemsize - 1) for v in vehicle_ids]
            )

    async def commit(self, commits: Sequence[Commit]) -> list[int]:
        """Commit each vehicle on its own, all in one round trip; an Outcome for each.

        Raises:
            StoreUnavailable: nothing is known of any.
        """
        calls: list[list[int]] = []  # places of the commits that go together
        open_calls: dict[int, list[int]] = {}
        written: list[int] = []  # places of the commits that bring a snapshot
        commands: list[Command] = []
        for i, commit in enumerate(commits):
            keys = self._keys(commit.vehicle_id)
            members = open_calls.get(keys.partition)
            if members is None or len(members) == COMMITS_PER_CALL:
                members = open_calls[keys.partition] = []
                calls.append(members)
            members.append(i)
            if commit.rebase is not None and commit.rebase.snapshot is not None:
                key = keys.snapshot_of(commit.rebase.base)
                commands.append(("SET", key, commit.rebase.snapshot, "EX", ORPHAN_EXPIRY_S))
                written.append(i)
        commands += [self._commit_call([commits[i] for i in members]) for members in calls]
        async with self._timed("commit"):
            replies = await self._attempt(commands, durable=True)
        outcomes = outcomes_of(len(commits), written, replies[: len(written)], calls, replies[len(written) :])
        self._tell_news(commits, outcomes)
        if commits and outcomes.count(Outcome.UNKNOWN) == len(commits):
            raise StoreUnavailable.of(commit.vehicle_id for commit in commits)
        return outcomes

    def _tell_news(self, commits: Sequence[Commit], outcomes: Sequence[int]) -> None:
        """Name the partitions in whose outbox there is, or may be, a change of an alert."""
        heard = {Outcome.WON, Outcome.WON_WITHOUT_JOURNAL, Outcome.UNKNOWN}
        changed = (c for c, outcome in zip(commits, outcomes, strict=True) if c.alerts and outcome in heard)
        news = {self._keys(commit.vehicle_id).partition for commit in changed}
        if news:
            self.on_news(news)

    def _commit_call(self, commits: Sequence[Commit]) -> Command:
        """One script call for vehicles of one partition."""
        retention = self._retention
        if not retention[0] and any(commit.samples for commit in commits):
            retention = (FORGET_HISTORY, 0, 0, 0)  # nothing is retained any more, but what was is to be forgotten
        keys: list[Any] = [*partition_keys(self._keys(commits[0].vehicle_id).partition)[:6]]
        bounds = (TRANSITIONS_KEPT, VERSION.size, BASE_DTYPE.itemsize, self._entry_bytes)
        args: list[Any] = [*bounds, len(commits), *retention]
        trends: list[tuple[int, bytes, TrendWrite]] = []
        for place, (vehicle_id, expected, head, entries, rebase, alerts, trend, samples) in enumerate(commits, 1):
            at = self._keys(vehicle_id)
            if rebase is None:
                keys += (at.head, at.journal, at.head, at.head)
                args += (vehicle_id, expected, head, entries, NO_BASE, NO_BASE, 0, alerts)
            else:
                fresh = None if rebase.snapshot is None else at.snapshot_of(rebase.base)
                keys += (at.head, at.journal, fresh or at.head, rebase.old or at.head)
                args += (vehicle_id, expected, head, entries, rebase.base, rebase.expected, rebase.keep, alerts)
            if retention[0]:
                keys += (at.tail, at.history)
                args.append(samples)
            if trend:
                trends += [(place, at.trend, write) for write in trend]
        for place, key, write in trends:
            keys.append(key)
            args += (place, *write)
        return COMMIT.call(keys, args)

    async def flip(self, flips: Sequence[Flip]) -> list[int]:
        """Write snapshots and point their journals to them; an Outcome for each (WON, LOST, NO_SNAPSHOT, UNKNOWN)."""
        commands: list[Command] = []
        for flip in flips:
            at = self._keys(flip.vehicle_id)
            fresh, old = at.snapshot_of(flip.base), at.snapshot_of(flip.expected)
            keys = (at.head, at.journal, fresh, old or at.head)
            commands.append(("SET", fresh, flip.snapshot, "EX", ORPHAN_EXPIRY_S))
            commands.append(FLIP.call(keys, (flip.expected, flip.base, self._entry_bytes, KEEP, flip.proof)))
        async with self._timed("flip"):
            replies = await self._attempt(commands)
        return [Outcome.UNKNOWN if isinstance(reply, Exception) else reply for reply in replies[1::2]]

    async def history(self, vehicle_id: str) -> list[bytes]:
        """The blocks of a vehicle's history and its tail; what is moved meanwhile is in both."""
        at = self._keys(vehicle_id)
        async with self._timed("history"):
            tail, blocks = await self._link.pipeline([("GET", at.tail), ("LRANGE", at.history, 0, -1)])
        return [*blocks, *([] if tail is None else [tail])]

    async def last_blocks(self, vehicle_id: str, n: int) -> list[bytes]:
        """The last n blocks of a vehicle's history."""
        async with self._timed("history"):
            (blocks,) = await self._link.pipeline([("LRANGE", self._keys(vehicle_id).history, -n, -1)])
        return cast("list[bytes]", blocks)

    async def replace_block(self, vehicle_id: str, place: int, raw: bytes, packed: bytes) -> bool:
        """Put the packed block where the raw one is, counted from the end; False if another one is there."""
        digest = hashlib.sha1(raw, usedforsecurity=False).hexdigest()
        async with self._timed("history"):
            call = PACK.call((self._keys(vehicle_id).history,), (place, digest, packed))
            return bool((await self._link.pipeline([call]))[0])

    def snapshot_named_by(self, vehicle_id: str, base: bytes) -> bytes | None:
        """Key of the snapshot that a journal's base names; None for the zero state."""
        return self._keys(vehicle_id).snapshot_of(base)

    def snapshot_key(self, vehicle_id: str, stored: Stored) -> bytes | None:
        """Key of the snapshot that a vehicle's base names, or that a head of the first layout named itself."""
        if stored.journal is not None:
            return self.snapshot_named_by(vehicle_id, stored.base)
        version = read_version(stored.head)
        if version is None or version.seq == NO_SEQ:
            return None
        return self._keys(vehicle_id).snapshot_named(version.epoch, version.seq, version.nonce)

    async def vehicles_by_risk(self, limit: int, after: Ranked | None) -> list[Ranked]:
        """The next `limit` vehicles from the highest risk down, those that come after `after`."""
        async with self._timed("list"):
            return await ranked_vehicles(self._link, self._partitions, limit, after)

    async def alerts(self) -> list[bytes]:
        """The last alerts of all vehicles, as stored."""
        async with self._timed("alerts"):
            replies = await self._link.pipeline([("HVALS", partition_keys(p).alerts) for p in range(self._partitions)])
        return [text for reply in replies for text in reply]

    async def open_alerts(self) -> list[bytes]:
        """The alerts that are open, as stored."""
        async with self._timed("alerts"):
            replies = await self._link.pipeline([("HKEYS", partition_keys(p).open) for p in range(self._partitions)])
            asked = [("HMGET", partition_keys(p).alerts, *fields) for p, fields in enumerate(replies) if fields]
            found = await self._link.pipeline(asked) if asked else []
        return [text for reply in found for text in reply if text is not None]

    async def alerts_of(self, vehicle_id: str, fields: Sequence[str]) -> list[bytes | None]:
        """The last alerts of one vehicle under these fields, as stored."""
        alerts = partition_keys(self._keys(vehicle_id).partition).alerts
        async with self._timed("alerts"):
            found: list[bytes | None] = (await self._link.pipeline([("HMGET", alerts, *fields)]))[0]
        return found

    async def alert_background(
        self, wanted: Sequence[tuple[str, str]], entries: int
    ) -> list[tuple[bytes, bytes | None]]:
        """For vehicles and rules: so many last entries of the journal, and the last alert, as stored."""
        commands: list[Command] = []
        for vehicle_id, rule in wanted:
            at = self._keys(vehicle_id)
            commands.append(("GETRANGE", at.journal, -max(entries * self._entry_bytes, 1), -1))
            commands.append(("HGET", partition_keys(at.partition).alerts, f"{vehicle_id}|{rule}"))
        async with self._timed("alerts"):
            replies = await self._link.pipeline(commands)
        return list(zip(replies[::2], replies[1::2], strict=True))

    @property
    def partitions(self) -> int:
        """Of this data set."""
        return self._partitions

    def keys_of(self, vehicle_id: str) -> VehicleKeys:
        """Where a vehicle is kept."""
        return self._keys(vehicle_id)

    async def ask(self, op: str, commands: Sequence[Command], *, durable: bool = False) -> list[Any]:
        """Commands in one round trip, their replies in order; `op` is what the time is counted as."""
        if not commands:
            return []
        async with self._timed(op):
            replies: list[Any] = await self._link.pipeline(commands, durable=durable)
        return replies

    async def vehicle_ids(self) -> list[str]:
        """Every vehicle that is there all the while that this takes, and perhaps some that come or go meanwhile."""
        found: dict[str, None] = {}
        async with self._timed("scan"):
            for partition in range(self._partitions):
                cursor = 0
                while True:
                    scan = ("ZSCAN", partition_keys(partition).vehicles, cursor, "COUNT", SCANNED_TOGETHER)
                    cursor, members = (await self._link.pipeline([scan]))[0]
                    found |= dict.fromkeys(member.decode() for member, _ in scored(members))
                    cursor = int(cursor)
                    if not cursor:
                        break
        return list(found)

    async def known(self, vehicle_ids: Sequence[str]) -> set[str]:
        """Those of these vehicles that there are; one command per partition."""
        groups: dict[int, list[str]] = {}
        for vehicle_id in vehicle_ids:
            groups.setdefault(self._keys(vehicle_id).partition, []).append(vehicle_id)
        async with self._timed("known"):
            replies = await self._link.pipeline(
                [("ZMSCORE", partition_keys(p).vehicles, *members) for p, members in groups.items()]
            )
        return {
            vehicle_id
            for members, scores in zip(groups.values(), replies, strict=True)
            for vehicle_id, score in zip(members, scores, strict=True)
            if score is not None
        }

    async def n_vehicles(self) -> int:
        """How many vehicles there are."""
        async with self._timed("scan"):
            return sum(
                await self._link.pipeline([("ZCARD", partition_keys(p).vehicles) for p in range(self._partitions)])
            )

    async def trend(self, vehicle_id: str, ranges: Sequence[tuple[int, int]]) -> bytes:
        """Parts of a vehicle's ring, each from its first byte to its last; shorter where the ring is."""
        key = self._keys(vehicle_id).trend
        async with self._timed("trend"):
            return b"".join(await self._link.pipeline([("GETRANGE", key, *part) for part in ranges]))

    async def n_vehicles_since(self, since_ms: int) -> tuple[int, int]:
        """How many vehicles were heard at this time or later (our clock), and how many only before."""
        keys = [partition_keys(p).vehicles for p in range(self._partitions)]
        async with self._timed("count"):
            counts = await self._link.pipeline(
                [
                    command
                    for key in keys
                    for command in (("ZCOUNT", key, since_ms, "+inf"), ("ZCOUNT", key, "(0", f"({since_ms}"))
                ]
            )
        return sum(counts[::2]), sum(counts[1::2])

    async def erase(self, vehicle_id: str, before: Stored | None, rules: Sequence[str]) -> bool:
        """Delete everything of a vehicle that is as it was read before, alerts of these rules too; False if it has moved on."""
        at = self._keys(vehicle_id)
        shared = partition_keys(at.partition)
        snapshot = None if before is None else self.snapshot_key(vehicle_id, before)
        own = (at.head, at.journal, snapshot or at.head, at.trend, at.tail, at.history)
        keys = (shared.vehicles, shared.risks, shared.alerts, shared.open, *own)
        expected, base = (ABSENT, NO_BASE) if before is None else (version_of(before.head), before.base)
        async with self._timed("erase"):
            erased = (
                await self._link.pipeline([ERASE.call(keys, (vehicle_id, expected, base, *rules))], durable=True)
            )[0]
            if erased:
                await forget_transitions(self._link, shared.transitions, vehicle_id)
                await forget_transitions(self._link, shared.dead, vehicle_id)
                await forget_held(self._link, shared.held, vehicle_id)
        return bool(erased)

    async def stored_bytes(self, vehicle_id: str) -> int:
        """Memory that the store spends on this vehicle's head, journal, snapshot, trend and history, by its own account."""
        at = self._keys(vehicle_id)
        snapshot = at.snapshot_of((await self.bases([vehicle_id]))[0])
        keys = [at.head, at.journal, at.trend, at.tail, at.history, *([] if snapshot is None else [snapshot])]
        async with self._timed("memory"):
            sizes = await self._link.pipeline([("MEMORY", "USAGE", key) for key in keys])
        return sum(size or 0 for size in sizes)

    def _keys(self, vehicle_id: str) -> VehicleKeys:
        return vehicle_keys(vehicle_id, self._partitions)


def outcomes_of(
    n: int, written: Sequence[int], writes: Sequence[Any], calls: Sequence[Sequence[int]], replies: Sequence[Any]
) -> list[int]:
    """Outcomes of n commits, by the replies to the scripts, each called for the places `calls`, and to the snapshots `written`."""
    outcomes = [Outcome.UNKNOWN] * n
    for members, reply in zip(calls, replies, strict=True):
        if not isinstance(reply, Exception):
            for i, outcome in zip(members, reply, strict=True):
                outcomes[i] = outcome
    for i, reply in zip(written, writes, strict=True):
        if isinstance(reply, Exception) and outcomes[i] == Outcome.NO_SNAPSHOT:
            outcomes[i] = Outcome.UNKNOWN  # refused, not overtaken
    return outcomes
