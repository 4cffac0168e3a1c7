"""The connection to Redis: pipelines and scripts. What it does not know: what is kept there."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.exceptions import ClusterDownError, MovedError, NoScriptError, ReadOnlyError, RedisError

from service.store.redis_nodes import ClusterNodes, NodeDown, SingleNode, is_cluster
from service.store.redis_server import Server
from service.store.redis_wire import Command

NOT_THE_PRIMARY = (ReadOnlyError, ClusterDownError)


@dataclass(frozen=True, slots=True)
class Script:
    """A Lua script, sent by its digest once the server knows it."""

    text: str
    sha: str

    @staticmethod
    def read(file: Path) -> "Script":
        """The script in this file."""
        text = file.read_text()
        return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())

    def call(self, keys: Sequence[Any], args: Sequence[Any]) -> Command:
        """The command that runs it."""
        return ("EVALSHA", self.sha, len(keys), *keys, *args)


class NotOnDisk(TimeoutError):
    """The server answers, but its disk did not in time."""


class RedisLink:
    """One data set behind a URL: one server, or a cluster. Methods raise RedisError, OSError or TimeoutError.

    With `fsync`, what `attempt(..., durable=True)` wrote is on the disk of its server when it returns. `clustered`: as the URL says.
    """

    def __init__(self, url: str, timeout_s: float, scripts: Sequence[Script], *, fsync: bool = False) -> None:
        self.clustered = is_cluster(url)
        self._nodes: SingleNode | ClusterNodes = (
            ClusterNodes(url, timeout_s) if self.clustered else SingleNode(url, timeout_s)
        )
        self._timeout_s = timeout_s
        self._texts = {script.sha: script.text for script in scripts}
        self._fsync = fsync

    async def close(self) -> None:
        """Give the connections back."""
        await self._nodes.close()

    async def ping(self) -> None:
        """Return if some server answers: while a node of a cluster is down, the vehicles of the others are served."""
        asked = [server.ask(("PING",), self._timeout_s) for server in await self._nodes.servers()]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        errors = [answer for answer in answers if isinstance(answer, BaseException)]
        if len(errors) == len(answers):
            raise errors[0]

    async def info(self, section: str) -> list[dict[str, str]]:
        """A section of INFO of each server that takes writes."""
        return [await server.info(section, self._timeout_s) for server in await self._nodes.servers()]

    async def config(self, name: str) -> list[str]:
        """The configuration of each server that takes writes. Raises ResponseError where CONFIG is not allowed."""
        return [await server.config(name, self._timeout_s) for server in await self._nodes.servers()]

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
            for i in moved:
                await self._nodes.moved(replies[i])
            await self._again(moved, [commands[i] for i in moved], replies, durable=durable)
        forgotten = [i for i, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
        if forgotten:
            texts = [("EVAL", self._texts[commands[i][1]], *commands[i][2:]) for i in forgotten]
            await self._again(forgotten, texts, replies, durable=durable)
        if any(isinstance(reply, NOT_THE_PRIMARY) for reply in replies):
            self._nodes.doubt()
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
        await self._nodes.prepare()
        replies: list[Any] = [None] * len(commands)
        groups: dict[Server, list[int]] = {}
        for i, command in enumerate(commands):
            try:
                groups.setdefault(self._nodes.server_of(command), []).append(i)
            except NodeDown as error:
                replies[i] = error
        sent = await asyncio.gather(
            *(self._exchange(server, [commands[i] for i in places], durable) for server, places in groups.items()),
            return_exceptions=True,
        )
        for (server, places), result in zip(groups.items(), sent, strict=True):
            if isinstance(result, BaseException):
                if not isinstance(result, (TimeoutError, RedisError, OSError)):
                    raise result
                if not isinstance(result, NotOnDisk):
                    self._nodes.lost(server)
            for place, i in enumerate(places):
                replies[i] = result if isinstance(result, BaseException) else result[place]
        return replies

    async def _exchange(self, server: Server, commands: Sequence[Command], durable: bool) -> list[Any]:
        """One write, then all replies, within the time limit."""
        if not (self._fsync and durable):
            return await server.exchange(commands, self._timeout_s)
        in_time_to_say_so_ms = int(900 * self._timeout_s)
        on_disk: Command = ("WAITAOF", 1, 0, in_time_to_say_so_ms)  # what this connection wrote
        *replies, synced = await server.exchange([*commands, on_disk], self._timeout_s)
        if isinstance(synced, Exception):
            raise synced
        if synced[0] < 1:
            raise NotOnDisk(f"not on disk within {self._timeout_s} s")
        return replies
