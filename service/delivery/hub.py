"""Many listeners, one reader. What is new is written once; listeners are served a few at a time, so that ingest never waits for all.

Who waits for news gets it straight on the connection, without a task of its own being woken; only while a connection takes nothing does its
task wait for it. A listener that falls behind by more than is kept here is told so and let go: it reconnects and resumes from the store.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from prometheus_client import Counter

from service.delivery.events import Filter, Heard, heartbeat, in_order
from service.delivery.position import EntryId, Position, entry_id
from service.delivery.tail import News

logger = structlog.get_logger(__name__)

KEPT = 4_096  # events
SERVED_PER_S = 1_000  # of all listeners together
PULSE_S = 0.01
HEARTBEAT_S = 15.0
LOOK_S = 1.0  # who is due for a heartbeat

Push = Callable[[bytes], bool]  # takes a chunk of HTTP's chunked coding; False: not now, and nothing of it was taken


@dataclass(eq=False, slots=True)
class Listener:
    """One connection. `cursor` counts events: the number of the next that it has not had."""

    wants: Filter
    cursor: int
    beat_at: float
    push: Push | None = None  # straight to the connection, where the server can
    ended: str = ""  # why, once it is to end
    queued: bool = False
    waiting: bool = False  # its task has sent all that it was given
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, reason: str) -> None:
        """Let it go as soon as it listens."""
        self.ended = self.ended or reason
        self.woken.set()


@dataclass(frozen=True, slots=True)
class Chunk:
    """Text of a stream, the same for all who get it."""

    text: bytes
    coded: bytes  # as HTTP/1.1 carries it (RFC 9112, 7.1)

    @staticmethod
    def of(text: bytes) -> "Chunk":
        """With its coding, made once."""
        return Chunk(text, b"%x\r\n%b\r\n" % (len(text), text))


NOTHING = Chunk(b"", b"")  # never sent: it would be the end of the body


class Hub:
    """The listeners of one worker.

    Attributes:
        listeners: all that are connected.
    """

    def __init__(self, partitions: int, dropped: Counter, *, kept: int = KEPT) -> None:
        self._partitions = partitions
        self._dropped = dropped
        self._kept = kept
        self._events: deque[Heard] = deque()
        self._first = 0  # number of the first event that is kept
        self._due: deque[Listener] = deque()
        self._last: dict[int, EntryId] = {}
        self._floor_ms = 0
        self._chunks: dict[tuple[Filter, int], Chunk] = {}  # written for one listener, and for all like it
        self._heartbeat: Chunk | None = None
        self._planned = asyncio.Event()
        self.listeners: set[Listener] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self, last: list[str], floor_ms: int) -> None:
        """Begin where the tail begins."""
        self._last = {p: entry_id(text) for p, text in enumerate(last)}
        self._floor_ms = floor_ms
        self._task = asyncio.create_task(self._pump())

    async def close(self) -> None:
        """End every listener."""
        for listener in self.listeners:
            listener.end("stopping")
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def next(self) -> int:
        """Number of the next event."""
        return self._first + len(self._events)

    @property
    def position(self) -> Position:
        """Where the stream is: everything up to here has been heard."""
        return Position.at(self._floor_ms, self._last)

    @property
    def last(self) -> dict[int, EntryId]:
        """Last entry heard, by partition."""
        return dict(self._last)

    def hear(self, news: News) -> None:
        """Take what is new, and plan whom to wake."""
        self._floor_ms, self._heartbeat = news.floor_ms, None
        if not news.entries:
            return
        self._events.extend(in_order(news.entries, news.floor_ms, self._last))
        while len(self._events) > self._kept:
            self._events.popleft()
            self._first += 1
        self._chunks.clear()
        for listener in self.listeners:
            self._plan(listener)

    def join(self, wants: Filter, push: Push | None = None) -> Listener:
        """A new listener, from the next event on."""
        beat_at = asyncio.get_running_loop().time() + HEARTBEAT_S
        listener = Listener(wants, self.next, beat_at, push)
        self.listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """A listener is gone."""
        self.listeners.discard(listener)
        listener.waiting = False

    async def next_chunk(self, listener: Listener) -> bytes | None:
        """What a listener has not had and its connection did not take when it was its turn; None at its end."""
        while True:
            listener.waiting = True
            await listener.woken.wait()
            listener.waiting = False
            listener.woken.clear()
            if listener.ended:
                return None
            if listener.cursor < self._first:
                self._dropped.labels("slow").inc()
                listener.end("slow")
                return None
            chunk = self._news(listener)
            self._had(listener, chunk)
            if chunk is not NOTHING:
                return chunk.text

    def _news(self, listener: Listener) -> Chunk:
        """The events from a listener's cursor on, that it wants; else a heartbeat if one is due."""
        chunk = NOTHING
        if listener.cursor < self.next:
            key = listener.wants, listener.cursor
            found = self._chunks.get(key)
            if found is None:
                some = [self._events[i] for i in range(listener.cursor - self._first, len(self._events))]
                text = b"".join(e.text for e in some if listener.wants.wants(e.record))
                found = self._chunks[key] = Chunk.of(text) if text else NOTHING
            chunk = found
        if chunk is NOTHING and asyncio.get_running_loop().time() >= listener.beat_at:
            if self._heartbeat is None:
                self._heartbeat = Chunk.of(heartbeat(self.position))
            chunk = self._heartbeat
        return chunk

    def _had(self, listener: Listener, chunk: Chunk) -> None:
        """It has everything up to now."""
        listener.cursor = self.next
        if chunk is not NOTHING:
            listener.beat_at = asyncio.get_running_loop().time() + HEARTBEAT_S

    def _serve(self, listener: Listener) -> None:
        """Write to a listener, or have its task do it where that would have to wait."""
        listener.queued = False
        if listener.push is not None and listener.waiting and not listener.ended and listener.cursor >= self._first:
            chunk = self._news(listener)
            if chunk is NOTHING or listener.push(chunk.coded):
                self._had(listener, chunk)
                return
        listener.woken.set()

    def _plan(self, listener: Listener) -> None:
        if not listener.queued:
            listener.queued = True
            self._due.append(listener)
            self._planned.set()

    async def _pump(self) -> None:
        """Serve who is due, at a rate that leaves the processor to the samples; and see to heartbeats."""
        clock, each = asyncio.get_running_loop().time, max(1, round(SERVED_PER_S * PULSE_S))
        next_look = clock()
        while True:
            for _ in range(min(each, len(self._due))):
                self._serve(self._due.popleft())
            if clock() >= next_look:
                next_look = clock() + LOOK_S
                for listener in self.listeners:
                    if listener.beat_at <= clock():
                        self._plan(listener)
            if self._due:
                await asyncio.sleep(PULSE_S)
                continue
            self._planned.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_look):
                    await self._planned.wait()
