"""The connection to Redis: pipelines and scripts. What it does not know: what is kept there."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hiredis import pack_command
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, ResponseError

MAX_CONNECTIONS = 32

Command = tuple[Any, ...]


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, sent by its digest once the server knows it."""

    text: str
    sha: str

    @staticmethod
    def read(name: str) -> "Script":
        """The script of that name beside this module."""
        text = (Path(__file__).parent / f"{name}.lua").read_text()
        return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())

    def call(self, keys: Sequence[Any], args: Sequence[Any]) -> Command:
        """The command that runs it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)


class RedisLink:
    """One data set behind a URL. Methods raise RedisError, OSError or TimeoutError."""

    def __init__(self, url: str, timeout_s: float, scripts: Sequence[Script]) -> None:
        # Callers wait for a connection rather than fail; the hot path needs two at a time.
        self._timeout_s = timeout_s
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
        self._texts = {script.sha: script.text for script in scripts}

    async def close(self) -> None:
        """Give the connections back."""
        await self.redis.aclose()

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Send all commands at once; replies in order, the first error reply raised after all are in."""
        replies = await self.attempt(commands)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def attempt(self, commands: Sequence[Command]) -> list[Any]:
        """As `pipeline`, with error replies in their places. A script that the server has forgotten is sent as text."""
        if not commands:
            return []
        replies = await self._send(commands)
        forgotten = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if forgotten:
            texts = [("EVAL", self._texts[commands[i][1]], *commands[i][2:]) for i in forgotten]
            for i, reply in zip(forgotten, await self._send(texts), strict=True):
                replies[i] = reply
        return replies

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        """One write, then all replies, within the time limit; a connection that was left in between is closed."""
        # redis-py's own pipeline packs in Python, a microsecond an argument, and sets a timer for each reply.
        packed = [pack_command(command) for command in commands]
        replies: list[Any] = []
        async with asyncio.timeout(self._timeout_s):
            connection = await self._pool.get_connection()
            try:
                await connection.send_packed_command(packed)
                for _ in commands:
                    try:
                        replies.append(await connection.read_response())
                    except ResponseError as error:
                        replies.append(error)
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            finally:
                await self._pool.release(connection)
        return replies
