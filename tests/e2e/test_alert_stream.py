"""The stream of alerts over HTTP, from a real service: keys, resumption, bounds, and its end."""

import json
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
