"""Redis, where the truth is. Every key of a partition carries its hash tag, so that one script touches one slot.

    {ew:p}:v:<id>:head                         the head (service/head.py)
    {ew:p}:v:<id>:snap:<epoch>:<seq>:<nonce>   the recurrent state (service/state_codec.py) that this head points to
    {ew:p}:vehicles, {ew:p}:risks              vehicles by last ts and by last risk
    {ew:p}:alerts, {ew:p}:transitions          last alert of each vehicle; stream of what changed
    ew:partitions                              how many partitions this data set has

A snapshot is written to a fresh key that expires, then the commit script moves the head, keeps the new key and unlinks
the old one: two writers can never overwrite the bytes that a head points to, and orphans go away by themselves.
"""

import binascii
import itertools
import json
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import structlog
from prometheus_client import Histogram
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from service.errors import StoreUnavailable
from service.head import NO_SEQ, VERSION, read_version

ORPHAN_EXPIRY_S = 600
MAX_CONNECTIONS = 32
TRANSITIONS_KEPT = 100_000  # per partition
OLDEST_REDIS = (6, 2)
logger = structlog.get_logger(__name__)

COMMIT = (Path(__file__).parent / "commit.lua").read_text()
ABSENT = b""  # version of a vehicle without head


class StoreMisconfigured(RuntimeError):
    """The store answers but must not be used as it is; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A vehicle as found in the store."""

    head: bytes
    snapshot: bytes | None  # None before the first sample of a session


@dataclass(frozen=True, slots=True)
class Commit:
    """One vehicle's change: from the version that it was computed from to a new head."""

    vehicle_id: str
    expected: bytes  # the version of the head, or ABSENT
    head: bytes
    snapshot: bytes | None  # None when the new head has no state (a reset)
    ts_ms: int
    risk: float  # 0.0 when there is none
    alert: dict[str, Any] | None = None
    forget_alert: bool = False


class Outcome:
    """What the commit script says of one vehicle."""

    WON, LOST, NO_SNAPSHOT = 1, 0, -1


@dataclass(frozen=True, slots=True)
class Ranked:
    """A vehicle's place in the list by risk."""

    risk: float
    vehicle_id: str


def rank(vehicle: Ranked) -> tuple[float, str]:
    """Sort key of the list: equal risks are told apart by id."""
    return (vehicle.risk, vehicle.vehicle_id)


def partition_of(vehicle_id: str, partitions: int) -> int:
    """CRC-16 (XMODEM, as in Redis Cluster) of the id, modulo the partitions."""
    return binascii.crc_hqx(vehicle_id.encode(), 0) % partitions


def version_of(head: bytes) -> bytes:
    """The part of a head that commits compare."""
    return head[: VERSION.size]


class Store:
    """The data set behind one URL. Every method raises StoreUnavailable when Redis does not answer or refuses."""

    def __init__(self, url: str, partitions: int, timeout_s: float, duration: Histogram) -> None:
        # Callers wait for a connection rather than fail; the hot path needs one at a time.
        pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),  # a retry is the caller's decision: it knows what is safe to repeat
            health_check_interval=0,
        )
        self._redis: Redis = Redis.from_pool(pool)
        self._partitions = partitions
        self._duration = duration

    async def close(self) -> None:
        """Give the connections back."""
        await self._redis.aclose()

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
            await self._redis.ping()

    async def check(self) -> None:
        """Refuse a store that would lose data in silence or that belongs to another layout.

        Raises:
            StoreMisconfigured: too old, evicting, or of another number of partitions.
        """
        async with self._timed("check"):
            server, memory = await self._redis.info("server"), await self._redis.info("memory")
            persistence = await self._redis.info("persistence")
            partitions = int(await self._redis.get("ew:partitions") or self._partitions)
        version = tuple(int(part) for part in str(server["redis_version"]).split(".")[:2])
        if version < OLDEST_REDIS:
            raise StoreMisconfigured(f"the store is Redis {server['redis_version']}; 6.2 or newer is needed")
        policy = memory.get("maxmemory_policy", "noeviction")
        if policy != "noeviction":
            raise StoreMisconfigured(
                f"maxmemory-policy is {policy}: the store may drop vehicles. Run CONFIG SET maxmemory-policy noeviction"
            )
        if partitions != self._partitions:
            raise StoreMisconfigured(
                f"this data set has {partitions} partitions, EMBERWATCH_PARTITIONS says {self._partitions}; "
                "it cannot be changed once there are vehicles"
            )
        if not persistence.get("aof_enabled"):
            logger.warning("the store has no append-only file: a restart of it loses what was acknowledged")
        async with self._timed("check"):
            await self._redis.set("ew:partitions", self._partitions, nx=True)  # only a store we will use is marked

    async def load(self, vehicle_ids: Sequence[str]) -> list[Stored | None]:
        """Heads and the snapshots they point to."""
        loaded: dict[str, Stored | None] = {}
        todo = list(vehicle_ids)
        async with self._timed("load"):
            while todo:
                heads = await self._heads(todo)
                keys = [self._snapshot_key(v, head) for v, head in zip(todo, heads, strict=True)]
                blobs = await self._pipeline([("GET", key) for key in keys if key is not None])
                moved = []
                for vehicle_id, head, key in zip(todo, heads, keys, strict=True):
                    blob = None if key is None else blobs.pop(0)
                    if key is not None and blob is None and await self._moved(vehicle_id, head):
                        moved.append(vehicle_id)  # a commit came between our two reads
                    else:
                        loaded[vehicle_id] = None if head is None else Stored(head, blob)
                todo = moved
        return [loaded[vehicle_id] for vehicle_id in vehicle_ids]

    async def _moved(self, vehicle_id: str, head: bytes | None) -> bool:
        return (await self._heads([vehicle_id]))[0] != head

    async def heads(self, vehicle_ids: Sequence[str]) -> list[bytes | None]:
        """Heads only."""
        async with self._timed("heads"):
            return await self._heads(vehicle_ids)

    async def versions(self, vehicle_ids: Sequence[str]) -> list[bytes]:
        """The version of each vehicle as it is now."""
        async with self._timed("versions"):
            return await self._pipeline([("GETRANGE", self._head_key(v), 0, VERSION.size - 1) for v in vehicle_ids])

    async def commit(self, commits: Sequence[Commit]) -> list[int]:
        """Commit each vehicle on its own, all in one round trip; an Outcome for each."""
        groups: dict[int, list[int]] = {}
        commands: list[tuple[Any, ...]] = []
        for i, commit in enumerate(commits):
            groups.setdefault(partition_of(commit.vehicle_id, self._partitions), []).append(i)
            key = self._snapshot_key(commit.vehicle_id, commit.head)
            if key is not None and commit.snapshot is not None:
                commands.append(("SET", key, commit.snapshot, "EX", ORPHAN_EXPIRY_S))
        commands += [
            self._commit_command(partition, [commits[i] for i in members]) for partition, members in groups.items()
        ]
        async with self._timed("commit"):
            replies = await self._pipeline(commands)
        outcomes = [Outcome.LOST] * len(commits)
        for members, reply in zip(groups.values(), replies[len(replies) - len(groups) :], strict=True):
            for i, outcome in zip(members, reply, strict=True):
                outcomes[i] = outcome
        return outcomes

    def _commit_command(self, partition: int, commits: Iterable[Commit]) -> tuple[Any, ...]:
        tag = f"{{ew:{partition}}}"
        keys: list[str] = [f"{tag}:vehicles", f"{tag}:risks", f"{tag}:alerts", f"{tag}:transitions"]
        args: list[Any] = [TRANSITIONS_KEPT, VERSION.size]
        for commit in commits:
            head_key = self._head_key(commit.vehicle_id)
            fresh = self._snapshot_key(commit.vehicle_id, commit.head)
            old = self._snapshot_key(commit.vehicle_id, commit.expected)
            keys += [head_key, fresh or head_key, old or head_key]
            alert = "-" if commit.forget_alert else json.dumps(commit.alert) if commit.alert else ""
            args += [commit.vehicle_id, commit.expected, commit.head, commit.ts_ms, commit.risk, alert]
        return ("EVAL", COMMIT, len(keys), *keys, *args)

    async def vehicles_by_risk(self, limit: int, after: Ranked | None) -> list[Ranked]:
        """The next `limit` vehicles from the highest risk down, those that come after `after`."""
        top = "+inf" if after is None else after.risk
        found: list[Ranked] = []
        unread = list(range(self._partitions))  # partitions that may still hold one of the next `limit`
        async with self._timed("list"):
            for offset in itertools.count(0, limit):
                page = ("WITHSCORES", "LIMIT", offset, limit)
                keys = [f"{{ew:{p}}}:risks" for p in unread]
                replies = await self._pipeline([("ZREVRANGEBYSCORE", key, top, "-inf", *page) for key in keys])
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

    async def alerts(self) -> list[dict[str, Any]]:
        """The last alert of every vehicle that has had one."""
        async with self._timed("alerts"):
            replies = await self._pipeline([("HVALS", f"{{ew:{p}}}:alerts") for p in range(self._partitions)])
        return [json.loads(text) for reply in replies for text in reply]

    async def stored_bytes(self, vehicle_id: str, head: bytes) -> int:
        """Memory that the store spends on this vehicle's head and snapshot, by its own account."""
        keys = [self._head_key(vehicle_id), self._snapshot_key(vehicle_id, head)]
        async with self._timed("memory"):
            sizes = await self._pipeline([("MEMORY", "USAGE", key) for key in keys if key is not None])
        return sum(size or 0 for size in sizes)

    async def _heads(self, vehicle_ids: Sequence[str]) -> list[bytes | None]:
        return cast("list[bytes | None]", await self._pipeline([("GET", self._head_key(v)) for v in vehicle_ids]))

    async def _pipeline(self, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send all commands at once; the first error reply is raised after all replies are in."""
        if not commands:
            return []
        async with self._redis.pipeline(transaction=False) as pipe:
            for command in commands:
                pipe.execute_command(*command)
            replies: list[Any] = await pipe.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    def _head_key(self, vehicle_id: str) -> str:
        return f"{{ew:{partition_of(vehicle_id, self._partitions)}}}:v:{vehicle_id}:head"

    def _snapshot_key(self, vehicle_id: str, head: bytes | None) -> str | None:
        """Key of the snapshot that a head (or its version) points to; None if there is no state yet."""
        version = read_version(head or b"")
        if version is None or version.seq == NO_SEQ:
            return None
        prefix = self._head_key(vehicle_id).removesuffix("head")
        return f"{prefix}snap:{version.epoch}:{version.seq}:{version.nonce:016x}"


def scored(reply: Sequence[Any]) -> list[tuple[bytes, float]]:
    """Members with scores, from either protocol's shape of a WITHSCORES reply."""
    if reply and isinstance(reply[0], (list, tuple)):
        return [(member, float(score)) for member, score in reply]
    return list(zip(reply[::2], (float(score) for score in reply[1::2]), strict=True))
