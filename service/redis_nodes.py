"""Which server a command goes to: the only one, or the one of a cluster that has the key's slot."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.crc import key_slot

MAX_CONNECTIONS = 32
CLUSTER_SCHEMES = {"redis-cluster": "redis", "rediss-cluster": "rediss"}

Command = tuple[Any, ...]


def is_cluster(url: str) -> bool:
    """Whether the URL names a node of a cluster."""
    return url.split("://", 1)[0] in CLUSTER_SCHEMES


class SingleNode:
    """One server."""

    def __init__(self, url: str, timeout_s: float) -> None:
        # Callers wait for a connection rather than fail; the hot path needs two at a time.
        self._pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=timeout_s,
            socket_timeout=None,  # the whole exchange has a limit, not each reply
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),  # a retry is the caller's decision: it knows what is safe to repeat
            health_check_interval=0,
        )
        self.redis: Redis = Redis.from_pool(self._pool)
        self.stale = False

    async def node_of(self, _: Command) -> None:
        """There is only one."""
        if self.stale:
            await self.refresh()

    async def refresh(self) -> None:
        """Close idle connections: after a failure they may lead to a server that is gone."""
        self.stale = False
        await self._pool.disconnect(inuse_connections=False)

    @asynccontextmanager
    async def connection(self, _: None) -> AsyncIterator[Any]:
        """A connection for one exchange."""
        connection = await self._pool.get_connection()
        try:
            yield connection
        finally:
            await self._pool.release(connection)

    async def info(self, section: str) -> list[dict[str, Any]]:
        """A section of its INFO."""
        return [await self.redis.info(section)]

    async def config(self, name: str) -> list[str]:
        """Its configuration under that name. Raises ResponseError where CONFIG is not allowed."""
        return [str((await self.redis.config_get(name))[name])]


class ClusterNodes:
    """The primaries of a Redis Cluster; the map of slots is read again after a failure."""

    def __init__(self, url: str, timeout_s: float) -> None:
        scheme, rest = url.split("://", 1)
        self.redis = RedisCluster.from_url(
            f"{CLUSTER_SCHEMES[scheme]}://{rest}",
            max_connections=MAX_CONNECTIONS,
            socket_timeout=None,
            socket_connect_timeout=timeout_s,
            require_full_coverage=False,  # vehicles of other nodes go on while one is down
            retry=Retry(NoBackoff(), 0),
        )
        self.stale = True  # until the first command

    async def node_of(self, command: Command) -> Any:
        """The primary of the slot of the command's first key."""
        if self.stale:
            await self.refresh()
        return self.redis.nodes_manager.get_node_from_slot(key_slot(first_key(command)))

    async def refresh(self) -> None:
        """Read the map of slots, and close idle connections."""
        if self.redis._initialize:  # noqa: SLF001  (its own way to begin; later the map alone is read again)
            await self.redis.initialize()
        else:
            await self.redis.nodes_manager.initialize()
        for node in self.redis.get_nodes():
            await node.disconnect_free_connections()
        self.stale = False

    @asynccontextmanager
    async def connection(self, node: Any) -> AsyncIterator[Any]:
        """A connection to this node for one exchange."""
        connection = node.acquire_connection()
        try:
            yield connection
        finally:
            node.release(connection)

    async def info(self, section: str) -> list[dict[str, Any]]:
        """A section of INFO of each primary."""
        if self.stale:
            await self.refresh()
        return [await self.redis.info(section, target_nodes=node) for node in self.redis.get_primaries()]

    async def config(self, name: str) -> list[str]:
        """The configuration of each primary under that name. Raises ResponseError where CONFIG is not allowed."""
        if self.stale:
            await self.refresh()
        return [
            str((await self.redis.config_get(name, target_nodes=node))[name]) for node in self.redis.get_primaries()
        ]


def first_key(command: Command) -> bytes:
    """The key that decides where a command goes."""
    at = {"EVAL": 3, "EVALSHA": 3, "MEMORY": 2}.get(command[0], 1)
    key = command[at]
    return key if isinstance(key, bytes) else str(key).encode()
