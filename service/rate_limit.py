"""Samples per second and key, counted in Redis so that all workers share one count.

A limit must never be why a fleet is not heard: if the store does not answer in time the request passes, and is counted.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Any

import structlog
from limits import RateLimitItemPerSecond
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter
from prometheus_client import Counter
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from service.errors import BodyTooLarge, RateLimited

logger = structlog.get_logger(__name__)

PAUSE_S = 1.0  # after a failure nobody asks for so long, so that a slow store costs few requests their time
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
        self._ask_again = 0.0  # loop time

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
        if clock() < self._ask_again:
            self._failures.inc()
            return True
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._hit(key_id, samples)
        except (RedisError, OSError, TimeoutError) as error:
            self._ask_again = clock() + PAUSE_S
            self._failures.inc()
            logger.warning("the rate limit's store does not answer; requests pass", reason=str(error) or "timeout")
            return True


def window_of(per_s: float, burst: int) -> tuple[int, int]:
    """(samples, seconds) of the window; at least a second, in which at least `burst` pass."""
    seconds = max(1, math.ceil(burst / per_s))
    return max(burst, math.floor(per_s * seconds)), seconds


class RedisHits:
    """Counts in a Redis: a redis://, rediss:// or unix:// URL."""

    def __init__(self, url: str, per_s: float, burst: int, timeout_s: float) -> None:
        samples, seconds = window_of(per_s, burst)
        self._item = RateLimitItemPerSecond(samples, seconds, namespace="samples")
        self._pool = BlockingConnectionPool.from_url(
            url,
            max_connections=MAX_CONNECTIONS,
            timeout=timeout_s,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            retry=Retry(NoBackoff(), 0),
        )
        pool: Any = self._pool  # the library's annotation forgets that it takes one
        storage = RedisStorage("async+redis://", implementation="redispy", key_prefix="ew:rate", connection_pool=pool)
        self._limiter = SlidingWindowCounterRateLimiter(storage)

    async def __call__(self, key_id: str, samples: int) -> bool:
        """Whether so many more samples of the key pass; they count if they do."""
        return await self._limiter.hit(self._item, key_id, cost=samples)

    async def close(self) -> None:
        """Give the connections back."""
        await self._pool.disconnect()
