"""Samples per second and key, counted in Redis so that all workers share one count.

A limit must never be why a fleet is not heard: if the store does not answer in time the request passes, and is counted.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisClusterStorage, RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from prometheus_client import Counter
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisClusterException, RedisError

from service.errors import BodyTooLarge, RateLimited
from service.store.redis_nodes import address_of, is_cluster, seeds_of
from service.store.redis_server import options_of

logger = structlog.get_logger(__name__)

PAUSE_S = 1.0  # after a failure nobody asks for the key so long, so that a slow store costs few requests their time
FAILURES = (RedisError, RedisClusterException, KeyError)  # the last two of redis-py's cluster: a slot without a node
MAX_CONNECTIONS = 8
Hit = Callable[[str, int], Awaitable[bool]]


class SampleRate:
    """At most `burst` samples of a key in any burst / per_s seconds: `per_s` in the long run (sliding window counter).

    One round trip a request, whatever its size.
    """

    def __init__(self, hit: Hit, per_s: float, burst: int, timeout_s: float, failures: Counter) -> None:
        self._hit = hit
        self._per_s = per_s
        self._burst = burst
        self._timeout_s = timeout_s
        self._failures = failures
        self._ask_again: dict[str, float] = {}  # by key, loop time: of a cluster one node may be down

    async def take(self, key_id: str, samples: int) -> None:
        """Count this many samples against a key.

        Raises:
            RateLimited: they are too many for now; none was counted.
            BodyTooLarge: so many at once never pass.
        """
        if samples == 0:
            return
        if samples > self._burst:
            raise BodyTooLarge(
                f"the request has {samples} samples, a key may send {self._burst} at once", limit_samples=self._burst
            )
        if not await self._passes(key_id, samples):
            wait = max(1, math.ceil(samples / self._per_s))
            raise RateLimited(
                f"key {key_id} may send {self._per_s:g} samples/s, up to {self._burst} at once",
                headers={"Retry-After": str(wait)},
            )

    async def _passes(self, key_id: str, samples: int) -> bool:
        clock = asyncio.get_running_loop().time
        if clock() < self._ask_again.get(key_id, 0.0):
            self._failures.inc()
            return True
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._hit(key_id, samples)
        except (*FAILURES, OSError, TimeoutError) as error:
            self._ask_again[key_id] = clock() + PAUSE_S
            self._failures.inc()
            logger.warning("the rate limit's store does not answer; requests pass", reason=str(error) or "timeout")
            return True


def window_of(per_s: float, burst: int) -> tuple[int, int]:
    """(samples, seconds) of the window; at least a second, in which at least `burst` pass."""
    seconds = max(1, math.ceil(burst / per_s))
    return max(burst, math.floor(per_s * seconds)), seconds


class RedisHits:
    """What a rate limit counts in Redis: a redis://, rediss://, unix://, redis-cluster:// or rediss-cluster:// URL.

    Args:
        name: what is counted; part of the keys' names.
        amount: at most so many of a key in any `seconds`.
    """

    def __init__(self, url: str, name: str, amount: int, seconds: int, timeout_s: float) -> None:
        self._item = RateLimitItemPerSecond(amount, seconds, namespace=name)
        self._client = cluster_client(url, timeout_s) if is_cluster(url) else single_client(url, timeout_s)
        self._limiter = SlidingWindowCounterRateLimiter(ClientStorage(self._client))

    async def start(self) -> None:
        """Find the nodes of a cluster now: the first request has no time for it. Raises RedisError, OSError."""
        if isinstance(self._client, RedisCluster):
            await self._client.initialize()

    async def __call__(self, key_id: str, n: int) -> bool:
        """Whether so many more of the key pass; they count if they do."""
        return await self._limiter.hit(self._item, key_id, cost=n)

    async def left(self, key_id: str) -> int:
        """How many more of the key would pass now."""
        return (await self._limiter.get_window_stats(self._item, key_id)).remaining

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.aclose()


class ClientStorage(RedisClusterStorage):
    """The library's storage on a client of ours: its own reading of a URL knows neither TLS nor options of a cluster.

    Both counts of a key have its name as their hash tag, so the script that moves them touches one slot.
    """

    def __init__(self, client: "Redis | RedisCluster") -> None:
        self._client = client
        RedisStorage.__init__(self, "async+redis+cluster://", implementation="redispy", key_prefix="ew:rate")

    def configure_bridge(self) -> None:
        """Instead of making a client."""
        bridge: Any = self.bridge
        bridge.storage, bridge.connection_getter = self._client, lambda _: self._client


def single_client(url: str, timeout_s: float) -> "Redis":
    """A client of one server."""
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=MAX_CONNECTIONS,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
    )
    return Redis.from_pool(pool)


def cluster_client(url: str, timeout_s: float) -> RedisCluster:
    """A client of a cluster; keys of nodes that are up are counted while another is down."""
    first, *others = seeds_of(url)
    return RedisCluster.from_url(
        first,
        startup_nodes=[ClusterNode(*address_of(options_of(other))) for other in others],
        max_connections=MAX_CONNECTIONS,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        require_full_coverage=False,
        retry=Retry(NoBackoff(), 0),
    )
