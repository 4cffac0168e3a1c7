"""Many listeners, one reader. What is new is written once; listeners are woken a few at a time, so that ingest never waits for all.

A listener that falls behind by more than is kept here is told so and let go: it reconnects and resumes from the store.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

import structlog
from prometheus_client import Counter

from service.delivery.events import Filter, Heard, heartbeat, in_order
from service.delivery.position import EntryId, Position, entry_id
from service.delivery.tail import News

logger = structlog.get_logger(__name__)

KEPT = 4_096  # events
WAKES_PER_S = 1_000  # of all listeners together: about 50 us of processor each
PULSE_S = 0.01
HEARTBEAT_S = 15.0


@dataclass(eq=False, slots=True)
class Listener:
    """One connection. `cursor` counts events: the number of the next that it has not had."""

    wants: Filter
    cursor: int
    beat_at: float
    ended: str = ""  # why, once it is to end
    queued: bool = False
    woken: asyncio.Event = field(default_factory=asyncio.Event)

    def end(self, reason: str) -> None:
        """Let it go as soon as it listens."""
        self.ended = self.ended or reason
        self.woken.set()


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
        self._chunks: dict[tuple[Filter, int], bytes] = {}  # written for one listener, and for all like it
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
        self._floor_ms = news.floor_ms
        if not news.entries:
            return
        self._events.extend(in_order(news.entries, news.floor_ms, self._last))
        while len(self._events) > self._kept:
            self._events.popleft()
            self._first += 1
        self._chunks.clear()
        for listener in self.listeners:
            self._plan(listener)

    def join(self, wants: Filter) -> Listener:
        """A new listener, from the next event on."""
        beat_at = asyncio.get_running_loop().time() + HEARTBEAT_S
        listener = Listener(wants, self.next, beat_at)
        self.listeners.add(listener)
        return listener

    def leave(self, listener: Listener) -> None:
        """A listener is gone."""
        self.listeners.discard(listener)

    async def next_chunk(self, listener: Listener) -> bytes | None:
        """What a listener has not had, as soon as there is something and it is its turn; None at its end."""
        while True:
            await listener.woken.wait()
            listener.woken.clear()
            if listener.ended:
                return None
            if listener.cursor < self._first:
                self._dropped.labels("slow").inc()
                listener.end("slow")
                return None
            chunk = self._chunk(listener)
            listener.cursor = self.next
            now = asyncio.get_running_loop().time()
            if not chunk and now >= listener.beat_at:
                chunk = heartbeat(self.position)
            if chunk:
                listener.beat_at = now + HEARTBEAT_S
                return chunk

    def _chunk(self, listener: Listener) -> bytes:
        """The events from a listener's cursor on, that it wants."""
        if listener.cursor == self.next:
            return b""
        key = listener.wants, listener.cursor
        chunk = self._chunks.get(key)
        if chunk is None:
            some = [self._events[i] for i in range(listener.cursor - self._first, len(self._events))]
            chunk = self._chunks[key] = b"".join(e.text for e in some if listener.wants.wants(e.record))
        return chunk

    def _plan(self, listener: Listener) -> None:
        if not listener.queued:
            listener.queued = True
            self._due.append(listener)

    async def _pump(self) -> None:
        """Wake who is due, at a rate that leaves the processor to the samples; and send heartbeats."""
        clock, each = asyncio.get_running_loop().time, max(1, round(WAKES_PER_S * PULSE_S))
        next_beat = clock()
        while True:
            for _ in range(min(each, len(self._due))):
                listener = self._due.popleft()
                listener.queued = False
                listener.woken.set()
            if clock() >= next_beat:
                next_beat = clock() + 1.0
                for listener in self.listeners:
                    if listener.beat_at <= clock():
                        self._plan(listener)
            await asyncio.sleep(PULSE_S)
