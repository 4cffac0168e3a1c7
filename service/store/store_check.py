"""What a server must be like for its data to be safe; asked when the service starts."""

from collections.abc import Sequence
from typing import Literal

import structlog
from redis.exceptions import ResponseError

from service.store.timed_link import TimedLink

logger = structlog.get_logger(__name__)

OLDEST_REDIS = (6, 2)
OLDEST_WITH_WAITAOF = (7, 2)
Durability = Literal["none", "everysec", "fsync"]  # what an acknowledgement means


class StoreMisconfigured(RuntimeError):
    """The store answers but must not be used as it is; the message says what to change."""


async def check_store(link: TimedLink, partitions: int, durability: Durability) -> None:
    """Refuse a store that would lose data in silence or that belongs to another layout; mark one that may be used.

    Raises:
        StoreMisconfigured: too old, evicting, less durable than asked for, or of another number of partitions.
        StoreUnavailable: it does not answer.
    """
    async with link.timed("check"):
        servers, memories = await link.raw.info("server"), await link.raw.info("memory")
        persistences = await link.raw.info("persistence")
    (marked,) = await link.ask("check", [("GET", "ew:partitions")])
    for server, memory, persistence in zip(servers, memories, persistences, strict=True):
        check_server(server, memory, persistence, durability)
        check_mode(server, clustered=link.raw.clustered)
    if durability == "fsync":
        check_appendfsync(await appendfsync_of(link))
    if marked is not None and int(marked) != partitions:
        raise StoreMisconfigured(
            f"this data set has {int(marked)} partitions, EMBERWATCH_PARTITIONS says {partitions}; "
            "it cannot be changed once there are vehicles"
        )
    # Only a store that we will use is marked, and the mark is the test of WAITAOF.
    await link.ask("check", [("SET", "ew:partitions", partitions, "NX")], durable=True)


async def appendfsync_of(link: TimedLink) -> list[str]:
    """When each server writes to its disk. Raises StoreMisconfigured where that may not be asked."""
    async with link.timed("check"):
        try:
            return await link.raw.config("appendfsync")
        except ResponseError as error:
            raise StoreMisconfigured(
                f"durability is fsync, and the store does not say whether its appendfsync is always: {error}. Allow "
                "CONFIG GET to this user"
            ) from error


def check_server(
    server: dict[str, str], memory: dict[str, str], persistence: dict[str, str], durability: Durability
) -> None:
    """Raise StoreMisconfigured unless one server, by its INFO, keeps what it is given."""
    version = tuple(int(part) for part in server["redis_version"].split(".")[:2])
    if version < OLDEST_REDIS:
        raise StoreMisconfigured(f"the store is Redis {server['redis_version']}; 6.2 or newer is needed")
    policy = memory.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        raise StoreMisconfigured(
            f"maxmemory-policy is {policy}: the store may drop vehicles. Run CONFIG SET maxmemory-policy noeviction"
        )
    if durability == "fsync" and version < OLDEST_WITH_WAITAOF and "valkey_version" not in server:
        raise StoreMisconfigured(
            f"durability fsync needs WAITAOF: Redis 7.2 or Valkey; this is Redis {server['redis_version']}"
        )
    if durability != "none" and persistence.get("aof_enabled") != "1":
        what = "the store has no append-only file: a restart of it loses what was acknowledged"
        if durability == "fsync":
            raise StoreMisconfigured(f"durability is fsync, but {what}. Run CONFIG SET appendonly yes")
        logger.warning(what)


def check_mode(server: dict[str, str], *, clustered: bool) -> None:
    """Raise StoreMisconfigured unless the server is what the URL says: a node of a cluster serves only its own share."""
    mode = server.get("server_mode") or server.get("redis_mode", "standalone")  # Valkey, Redis
    if (mode == "cluster") != clustered:
        right, scheme = ("a node of a Redis Cluster", "redis-cluster") if mode == "cluster" else ("one server", "redis")
        raise StoreMisconfigured(
            f"the store is {right}: begin its URL with {scheme}:// (with TLS, {scheme.replace('redis', 'rediss')}://)"
        )


def check_appendfsync(policies: Sequence[str]) -> None:
    """Raise StoreMisconfigured unless every server writes to its disk before it answers (ADR 7)."""
    lax = sorted(set(policies) - {"always"})
    if lax:
        raise StoreMisconfigured(
            f"durability is fsync, but the store's appendfsync is {' and '.join(lax)}, under which its WAITAOF answers before "
            "the disk has anything. Run CONFIG SET appendfsync always"
        )
