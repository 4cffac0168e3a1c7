"""The stream of alerts over HTTP, from a real service: keys, resumption, bounds, and its end."""

import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import redis

from tests.processes import ServiceProcess, ValkeyProcess, wait_until
from tests.service.conftest import create
from tests.service.delivery.outboxes import PARTITIONS, alert, commit


class Stream:
    """One connection, read by a thread."""

    def __init__(self, url: str, headers: dict[str, str]) -> None:
        self.events: list[tuple[str, Any]] = []
        self.last_id = ""
        self.over = threading.Event()
        self._client = httpx.Client(timeout=60.0)
        self._response = self._client.send(
            self._client.build_request("GET", f"{url}/v1/alerts/stream", headers=headers), stream=True
        )
        self.status = self._response.status_code
        self.headers = self._response.headers
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        event = ""
        try:
            for line in self._response.iter_lines():
                name, _, value = line.partition(": ")
                if name == "id":
                    self.last_id = value
                elif name == "event":
                    event = value
                elif name == "data":
                    self.events.append((event, json.loads(value)))
        except httpx.TransportError:
            pass
        self.over.set()

    def ids(self) -> list[str]:
        """Event ids of the alerts so far."""
        return [data["event_id"] for event, data in list(self.events) if event == "alert"]

    def close(self) -> None:
        """Hang up."""
        self._response.close()
        self._client.close()


@contextmanager
def serving(folder: Path, **settings: Any) -> Iterator[tuple[ServiceProcess, "redis.Redis"]]:
    """A service and the client of its store."""
    valkey = ValkeyProcess(folder / "valkey").start()
    service = ServiceProcess(folder, store=valkey.url, partitions=PARTITIONS, **settings)
    try:
        with valkey.client as client:
            yield service.start(), client
    finally:
        service.stop_if_running()
        valkey.stop_if_running()


def test_listeners_over_http(tmp_path: Path) -> None:
    """With a key; live; resumed after a pause; at most so many; metrics untouched by their length; ended when asked to stop."""
    key = create(tmp_path / "keys.json", "read")
    auth = {"Authorization": f"Bearer {key}"}
    with serving(tmp_path, keys_file=tmp_path / "keys.json", max_listeners=2) as (service, client):
        stream_url = f"{service.url}/v1/alerts/stream"
        assert httpx.get(stream_url).status_code == 401
        wrong = httpx.get(stream_url, headers=auth | {"Last-Event-ID": "yesterday"})
        assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (422, "Last-Event-ID")
        first, second = Stream(service.url, auth), Stream(service.url, auth)
        assert first.headers["content-type"].startswith("text/event-stream")
        wait_until(lambda: first.last_id and second.last_id, "both to join")
        refused = httpx.get(stream_url, headers=auth)
        assert (refused.status_code, refused.json()["type"]) == (429, "urn:emberwatch:problem:too-many-listeners")
        commit(client, *(alert(f"van-{i}", "firing", 0) for i in range(5)))
        wait_until(lambda: len(first.ids()) == len(second.ids()) == 5, "the events")
        first.close()
        commit(client, *(alert(f"van-{i}", "resolved", 1) for i in range(5)))
        wait_until(lambda: len(second.ids()) == 10, "the others")
        metrics = httpx.get(f"{service.url}/metrics", headers=auth).text
        seconds = next(
            float(line.split()[-1])
            for line in metrics.splitlines()
            if line.startswith('emberwatch_http_request_duration_seconds_sum{code="200",route="/v1/alerts/stream"}')
        )
        assert seconds < 10.0
        again = Stream(service.url, auth | {"Last-Event-ID": first.last_id})
        wait_until(lambda: len(again.ids()) == 5, "what was missed")
        assert sorted(again.ids()) == [f"van-{i}-1-1" for i in range(5)]
        began = time.monotonic()
        assert service.stop() == 0
        assert (
            time.monotonic() - began < 25.0
        )  # it does not wait for listeners, whom it would have to wait for for ever
        for stream in (second, again):
            assert stream.over.wait(10)
            assert stream.events[-1][0] == "end"
            assert stream.events[-1][1]["reason"] == "stopping"
            stream.close()


def test_a_listener_that_pauses_gets_everything_in_order(tmp_path: Path) -> None:
    """More comes than the network holds while it does not read: then all of it, once, while another heard it live."""
    with serving(tmp_path) as (service, client):
        live = Stream(service.url, {})
        with socket.socket() as lazy:
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            lazy.settimeout(30.0)
            lazy.connect(("127.0.0.1", int(service.url.rpartition(":")[2])))
            lazy.sendall(b"GET /v1/alerts/stream HTTP/1.1\r\nHost: test\r\n\r\n")
            text = bytearray()
            while b"heartbeat" not in text:  # it has joined
                text += lazy.recv(4_096)
            wait_until(lambda: live.last_id, "the other to join")
            note = "x" * 4_000
            for n in range(10):
                commit(client, *(alert(f"van-{i}", n=n) | {"note": note} for i in range(100)))
                wait_until(lambda: len(live.ids()) == 100 * (n + 1), "the other to hear")  # noqa: B023
            lazy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            last = live.ids()[-1].encode()
            while last not in text[-10_000:]:
                text += lazy.recv(1 << 20)
        head, _, body = bytes(text).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert re.findall(rb'"event_id":"([^"]+)"', unchunked(body)) == [name.encode() for name in live.ids()]
        live.close()


def unchunked(body: bytes) -> bytes:
    """The text of a body in HTTP's chunked coding, as far as its chunks are whole."""
    text, at = b"", 0
    while (end := body.find(b"\r\n", at)) >= 0:
        length = int(body[at:end], 16)
        text += body[end + 2 : end + 2 + length]
        assert body[end + 2 + length : end + 4 + length] in (b"\r\n", b"\r", b"")
        at = end + 4 + length
    return text
