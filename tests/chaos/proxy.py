"""A TCP proxy that stalls, cuts, delays, half-closes and swallows replies, as networks do."""

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine
from typing import Any, Self

from tests.processes import free_port

CHUNK = 65_536


class Proxy:
    """Passes connections on to `target_port` on loopback until it is told to misbehave; use as a context manager."""

    def __init__(self, target_port: int) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.target_port = target_port
        self._delay_s = 0.0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._flowing = asyncio.Event()
        self._refusing = False
        self._swallowing = False
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._start())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._cut())
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def stall(self) -> None:
        """Bytes stay where they are; connections stay open, new ones are taken and hear nothing."""
        self._loop.call_soon_threadsafe(self._flowing.clear)

    def swallow_replies(self) -> None:
        """What is asked arrives and is done; no answer ever comes back."""
        self._swallowing = True

    def delay(self, seconds: float) -> None:
        """Hold each chunk back, both ways."""
        self._delay_s = seconds

    def refuse(self) -> None:
        """Cut every connection, and each new one at once."""
        self._refusing = True
        self.cut()

    def cut(self) -> None:
        """Reset every connection, in the middle of whatever is under way."""
        self._do(self._cut())

    def half_close(self) -> None:
        """The store's side says goodbye on every connection, but goes on listening."""
        self._do(self._half_close())

    def heal(self, target_port: int | None = None) -> None:
        """Behave again; connections that hung are cut. New ones go to `target_port` if given."""
        self._refusing = self._swallowing = False
        self._delay_s = 0.0
        self.target_port = target_port or self.target_port
        self._do(self._cut())
        self._loop.call_soon_threadsafe(self._flowing.set)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout=10)

    async def _start(self) -> None:
        self._flowing.set()
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)

    async def _close(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _cut(self) -> None:
        for pair in list(self._pairs):
            for writer in pair:
                reset(writer)

    async def _half_close(self) -> None:
        for client, _ in list(self._pairs):
            if client.can_write_eof():
                client.write_eof()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            reset(writer)
            return
        try:
            store_reader, store_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            reset(writer)
            return
        pair = (writer, store_writer)
        self._pairs.add(pair)
        try:
            await asyncio.gather(
                self._pump(reader, store_writer, replies=False), self._pump(store_reader, writer, replies=True)
            )
        except asyncio.CancelledError:
            pass  # the proxy is closing
        finally:
            self._pairs.discard(pair)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        try:
            while data := await reader.read(CHUNK):
                await self._flowing.wait()
                if self._delay_s:
                    await asyncio.sleep(self._delay_s)
                if replies and self._swallowing:
                    continue
                writer.write(data)
                await writer.drain()
        except (OSError, RuntimeError):
            pass
        finally:
            writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close with RST: what is in the buffers is lost."""
    sock: socket.socket = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
