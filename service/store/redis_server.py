"""One Redis server: a few connections to it, and whether it answers."""

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.asyncio.connection import AbstractConnection, Connection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from service.store.redis_wire import Command, packed

MAX_CONNECTIONS = 32  # callers wait for one rather than fail; the hot path needs two at a time


class Server:
    """Exchanges of commands for replies. Methods raise RedisError, OSError or TimeoutError.

    redis-py's own pool is not used: to close its idle connections after a failure takes an await, in which somebody else may take
    one of them, and is then cut off in the middle of an exchange.

    Attributes:
        name: host:port or path, as told in errors.
        down: it did not answer the last time; whoever watches it says when it does again.
    """

    def __init__(self, name: str, options: dict[str, Any], timeout_s: float) -> None:
        """`options` are those of a redis-py connection, as its `parse_url` gives them."""
        self.name = name
        self.down = False
        self._class: type[AbstractConnection] = options.get("connection_class", Connection)
        self._options = {key: value for key, value in options.items() if key != "connection_class"} | {
            "socket_timeout": None,  # the whole exchange has a limit, not each reply
            "socket_connect_timeout": timeout_s,
            "retry": Retry(NoBackoff(), 0),  # a retry is the caller's decision: it knows what is safe to repeat
        }
        self._idle: list[AbstractConnection] = []
        self._room = asyncio.Semaphore(MAX_CONNECTIONS)
        self._generation = 0

    async def exchange(self, commands: Sequence[Command], timeout_s: float) -> list[Any]:
        """One write, then all replies, error replies in their places; the connection is closed if that was interrupted."""
        # redis-py's own pipeline sets a timer for each reply.
        replies: list[Any] = []
        async with asyncio.timeout(timeout_s), self._room:
            generation = self._generation
            connection = self._idle.pop() if self._idle else self._class(**self._options)
            try:
                await ready(connection)
                await connection.send_packed_command(packed(commands))
                for _ in commands:
                    try:
                        replies.append(await connection.read_response())
                    except ResponseError as error:
                        replies.append(error)
            except BaseException as error:
                await connection.disconnect(nowait=True)
                if isinstance(error, RuntimeError):  # uvloop's word for a transport that was closed just now
                    raise RedisConnectionError(f"{self.name} hung up") from error
                raise
            if generation == self._generation:
                self._idle.append(connection)
            else:
                await connection.disconnect(nowait=True)
        return replies

    async def ask(self, command: Command, timeout_s: float) -> Any:
        """The reply to one command; an error reply is raised."""
        (reply,) = await self.exchange([command], timeout_s)
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def info(self, section: str, timeout_s: float) -> dict[str, str]:
        """A section of its INFO."""
        text: bytes = await self.ask(("INFO", section), timeout_s)
        lines = (line.split(":", 1) for line in text.decode().splitlines() if ":" in line)  # a name and its value
        return dict(lines)

    async def config(self, name: str, timeout_s: float) -> str:
        """Its configuration under that name. Raises ResponseError where CONFIG is not allowed."""
        reply = await self.ask(("CONFIG", "GET", name), timeout_s)
        value: bytes = next(iter(reply.values())) if isinstance(reply, dict) else reply[1]
        return value.decode()

    async def hang_up(self) -> None:
        """Close the connections, those in use after their exchange: they may lead to a server that is gone."""
        self._generation += 1
        idle, self._idle = self._idle, []
        for connection in idle:
            await connection.disconnect(nowait=True)


async def ready(connection: AbstractConnection) -> None:
    """Connect, or connect again if the other side has hung up meanwhile."""
    if connection.is_connected:
        try:
            # A reset that came while it was idle leaves no end of file behind, only a closed transport.
            if not connection._writer.is_closing() and not await connection.can_read():  # type: ignore[union-attr]  # noqa: SLF001
                return
        except (RedisError, OSError):
            pass
        await connection.disconnect(nowait=True)
    await connection.connect()


def options_of(url: str) -> dict[str, Any]:
    """What a redis://, rediss:// or unix:// URL says of a connection. Raises ValueError."""
    return dict(parse_url(url))
