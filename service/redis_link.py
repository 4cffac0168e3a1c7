"""The connection to Redis: pipelines and scripts. What it does not know: what is kept there."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.exceptions import MovedError, NoScriptError, RedisError, ResponseError

from service.redis_nodes import ClusterNodes, Command, SingleNode, is_cluster
from service.redis_wire import packed


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
    """One data set behind a URL: one server, or a cluster. Methods raise RedisError, OSError or TimeoutError.

    With `fsync`, what `attempt(..., durable=True)` wrote is on the disk of its server when it returns.
    """

    def __init__(self, url: str, timeout_s: float, scripts: Sequence[Script], *, fsync: bool = False) -> None:
        self._nodes: SingleNode | ClusterNodes = (
            ClusterNodes(url, timeout_s) if is_cluster(url) else SingleNode(url, timeout_s)
        )
        self._timeout_s = timeout_s
        self._texts = {script.sha: script.text for script in scripts}
        self._fsync = fsync

    async def close(self) -> None:
        """Give the connections back."""
        await self._nodes.redis.aclose()

    async def ping(self) -> None:
        """Return if every server answers."""
        await self._nodes.info("server")

    async def info(self, section: str) -> list[dict[str, Any]]:
        """A section of INFO of each server that takes writes."""
        return await self._nodes.info(section)

    async def config(self, name: str) -> list[str]:
        """The configuration of each server that takes writes. Raises ResponseError where CONFIG is not allowed."""
        return await self._nodes.config(name)

    async def pipeline(self, commands: Sequence[Command], *, durable: bool = False) -> list[Any]:
        """Send all commands at once; replies in order, the first error reply raised after all are in."""
        replies = await self.attempt(commands, durable=durable)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        return replies

    async def attempt(self, commands: Sequence[Command], *, durable: bool = False) -> list[Any]:
        """As `pipeline`, with errors in their places. A script that the server has forgotten is sent as text."""
        replies = await self._send(commands, durable=durable)
        moved = [i for i, reply in enumerate(replies) if isinstance(reply, MovedError)]
        if moved:
            await self._nodes.refresh()
            await self._again(moved, [commands[i] for i in moved], replies, durable=durable)
        forgotten = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if forgotten:
            texts = [("EVAL", self._texts[commands[i][1]], *commands[i][2:]) for i in forgotten]
            await self._again(forgotten, texts, replies, durable=durable)
        return replies

    async def _again(
        self, places: list[int], commands: Sequence[Command], replies: list[Any], *, durable: bool
    ) -> None:
        """Send some once more, their replies into their places."""
        for i, reply in zip(places, await self._send(commands, durable=durable), strict=True):
            replies[i] = reply

    async def _send(self, commands: Sequence[Command], *, durable: bool) -> list[Any]:
        """Each server its share, side by side; if one fails, each of its replies is the error."""
        if not commands:
            return []
        groups: dict[Any, list[int]] = {}
        for i, command in enumerate(commands):
            groups.setdefault(await self._nodes.node_of(command), []).append(i)
        sent = await asyncio.gather(
            *(self._exchange(node, [commands[i] for i in places], durable) for node, places in groups.items()),
            return_exceptions=True,
        )
        replies: list[Any] = [None] * len(commands)
        for places, result in zip(groups.values(), sent, strict=True):
            if isinstance(result, BaseException):
                if not isinstance(result, (TimeoutError, RedisError, OSError)):
                    raise result
                self._nodes.stale = True
            for place, i in enumerate(places):
                replies[i] = result if isinstance(result, BaseException) else result[place]
        return replies

    async def _exchange(self, node: Any, commands: Sequence[Command], durable: bool) -> list[Any]:
        """One write, then all replies, within the time limit; a connection that was left in between is closed."""
        # redis-py's own pipeline packs in Python, a microsecond an argument, and sets a timer for each reply.
        fenced = self._fsync and durable
        if fenced:
            on_disk: Command = ("WAITAOF", 1, 0, int(1000 * self._timeout_s))
            commands = [*commands, on_disk]
        replies: list[Any] = []
        async with asyncio.timeout(self._timeout_s), self._nodes.connection(node) as connection:
            try:
                await connection.send_packed_command(packed(commands))
                for _ in commands:
                    try:
                        replies.append(await connection.read_response())
                    except ResponseError as error:
                        replies.append(error)
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
        if fenced:
            synced = replies.pop()
            if isinstance(synced, Exception):
                raise synced
            if synced[0] < 1:
                raise TimeoutError(f"not on disk within {self._timeout_s} s")
        return replies
