"""The server's side of a connection: senders that are slow on purpose, or too many, do not keep others out.

uvicorn itself waits for ever for the rest of a request, and for a reader who does not read. Here a head and a body have their
time, an answer must be read at some pace, and when there are more connections than allowed the one that has kept us waiting
longest is closed, those that never finished a request first.
"""

import asyncio
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from prometheus_client import Counter
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import PROBLEM_TYPE


@dataclass(slots=True)
class Connections:
    """All connections of one server, and what they are allowed.

    Attributes:
        most: open at once.
        head_s: time for the head of a request, from the first byte; also for the first byte of a new connection.
        body_s: time for the body; also how long a reader may take nothing of an answer.
        closed: counter of connections closed by us, by reason.
        open: how many there are.
        fresh, proven: those that we wait for, oldest first, without and with an answered request.
    """

    most: int
    head_s: float
    body_s: float
    closed: Counter
    open: int = 0
    fresh: "dict[GuardedProtocol, None]" = field(default_factory=dict)
    proven: "dict[GuardedProtocol, None]" = field(default_factory=dict)

    def make_room(self) -> bool:
        """Close a connection that we wait for if there are too many; False if all are being worked for."""
        if self.open <= self.most:
            return True
        for waiting in (self.fresh, self.proven):
            if waiting:
                next(iter(waiting)).give_up("crowded_out")
                return True
        return False


class GuardedProtocol(HttpToolsProtocol):
    """HTTP/1.1 with a time for each part of a request."""

    guard: Connections  # of the server; set by `guarded`

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._timer: asyncio.TimerHandle | None = None
        self._answered = False
        self._gone = False
        self._reader: asyncio.TimerHandle | None = None
        self._itself = weakref.ref(self)  # a scope that held its connection would be freed late

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A new connection has as long as a head has."""
        super().connection_made(transport)
        self.guard.open += 1
        self._wait_for(self.guard.head_s, "head_timeout")
        # Last, so that a crowd cannot close its newest member, who may be the one that matters.
        if not self.guard.make_room():
            self.give_up("no_room")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._leave()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        super().on_message_begin()
        if self._timer is None:
            self._wait_for(self.guard.head_s, "head_timeout")

    def on_headers_complete(self) -> None:
        """The body has its own time."""
        self.scope["connection"] = self._itself  # type: ignore[typeddict-unknown-key]  # for `push`
        super().on_headers_complete()
        self._wait_for(self.guard.body_s, "body_timeout")

    def on_message_complete(self) -> None:
        """All is here: from now on they wait for us."""
        super().on_message_complete()
        self._stop_waiting()

    def on_response_complete(self) -> None:
        """An answered sender is no stranger. While the rest of a refused body drains, its time runs on."""
        super().on_response_complete()
        self._answered = True
        if not self._gone and self._timer is None and self.cycle.response_complete:
            self.guard.proven[self] = None

    def push(self, scope: Mapping[str, Any], chunk: bytes) -> bool:
        """Write a part of an answer that has begun, past ASGI and at once.

        Args:
            scope: of the request that is answered.
            chunk: in HTTP's chunked coding.

        Returns:
            Whether it was written. If not, nothing was: the answer is no such one, or more of it waits here than should.
        """
        cycle = self.cycle
        if cycle is None or cycle.scope is not scope or not cycle.chunked_encoding or cycle.response_complete:
            return False
        if cycle.disconnected or self.flow.write_paused or self.transport.is_closing():
            return False
        self.transport.write(chunk)
        return True

    def pause_writing(self) -> None:
        """More of an answer waits here than the buffer should hold: watch whether it is read at all."""
        super().pause_writing()
        self._watch_reader()

    def resume_writing(self) -> None:
        """The reader keeps up."""
        super().resume_writing()
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    def _watch_reader(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._reader = self.loop.call_later(self.guard.body_s, self._check_reader, unread)

    def _check_reader(self, unread: int) -> None:
        if self.transport.get_write_buffer_size() < unread:
            self._watch_reader()
        else:
            self.guard.closed.labels("slow_reader").inc()
            self._leave()
            self.transport.abort()

    def timeout_keep_alive_handler(self) -> None:
        """An idle connection ends; one whose last answer nobody took would otherwise stay with it."""
        if self._reader is None:
            super().timeout_keep_alive_handler()

    def give_up(self, reason: str) -> None:
        """Close the connection; say why if a request had begun."""
        if self._gone:
            return
        self.guard.closed.labels(reason).inc()
        begun = self.cycle is not None and not self.cycle.response_complete and not self.cycle.response_started
        if begun and reason == "body_timeout":
            self.transport.write(TIMED_OUT)
        self._leave()
        if self.transport.get_write_buffer_size() > len(TIMED_OUT):
            self.transport.abort()  # nobody reads: closing would wait for it
        else:
            self.transport.close()

    def _wait_for(self, seconds: float, reason: str) -> None:
        """Give the sender so long for what comes next."""
        if self._gone:
            return
        self._stop_waiting()
        self._timer = self.loop.call_later(seconds, self.give_up, reason)
        (self.guard.proven if self._answered else self.guard.fresh)[self] = None

    def _stop_waiting(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.guard.fresh.pop(self, None)
        self.guard.proven.pop(self, None)

    def _leave(self) -> None:
        if not self._gone:
            self._gone = True
            self.guard.open -= 1
            self._stop_waiting()
            if self._reader is not None:
                self._reader.cancel()
                self._reader = None


def timed_out() -> bytes:
    """The answer to a body that did not come, as it goes over the wire."""
    body = orjson.dumps(
        {
            "type": PROBLEM_TYPE + "body-timeout",
            "title": "Request Timeout",
            "status": 408,
            "detail": "the body did not arrive in time; send it again",
        }
    )
    head = (
        "HTTP/1.1 408 Request Timeout\r\ncontent-type: application/problem+json\r\n"
        f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


TIMED_OUT = timed_out()


def guarded(connections: Connections) -> type[asyncio.Protocol]:
    """The protocol class for a server with these connections, as uvicorn's `http` option takes it."""
    return type("ServersProtocol", (GuardedProtocol,), {"guard": connections})
