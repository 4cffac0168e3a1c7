"""Calls of the store, each measured under its name, their failures under one."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
from prometheus_client import Histogram
from redis.exceptions import RedisError

from service.errors import StoreUnavailable
from service.store.redis_link import RedisLink
from service.store.redis_nodes import NodeDown
from service.store.redis_wire import Command

logger = structlog.get_logger(__name__)


class TimedLink:
    """A connection whose every method raises StoreUnavailable when Redis does not answer or refuses."""

    def __init__(self, link: RedisLink, duration: Histogram) -> None:
        self.raw = link
        self._duration = duration

    async def ask(self, op: str, commands: Sequence[Command], *, durable: bool = False) -> list[Any]:
        """Commands in one round trip, their replies in order; `op` is what the time is counted as."""
        if not commands:
            return []
        async with self.timed(op):
            replies: list[Any] = await self.raw.pipeline(commands, durable=durable)
        return replies

    async def attempt(self, commands: Sequence[Command], *, durable: bool = False) -> list[Any]:
        """Replies, errors in their places: a node of a cluster that fails shall not fail the vehicles of the others."""
        replies = await self.raw.attempt(commands, durable=durable)
        told = [reply for reply in replies if isinstance(reply, Exception) and not isinstance(reply, NodeDown)]
        if told:  # that a node is down was said when it went
            logger.warning("store commands failed", failed=len(told), of=len(replies), reason=str(told[0]))
        return replies

    @asynccontextmanager
    async def timed(self, op: str) -> AsyncIterator[None]:
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
