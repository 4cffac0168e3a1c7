"""Open pages in a process of their own: `python -m service.benchmark.pages PORT N VEHICLE`.

Each asks as the real one does (service/dashboard/static/js/live.js): the fleet every 3 s, the service every 5 s, alerts every 10 s, with entity tags
and gzip; every third shows a vehicle and asks for it and its trend every 5 s; and each listens to the stream of alerts. Says `ready` when every page has
had all of it once and they ask at times of their own; at the end of its input it says how many answers and events came, and what went wrong first.
"""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field

OPEN = "/v1/alerts?phase=firing&phase=recovering&phase=stale&phase=pending&limit=1000"
RESOLVED = "/v1/alerts?phase=resolved&limit=50"
SHARED = (OPEN, RESOLVED)  # an answer that was made for another page will do
POLLS: Sequence[tuple[float, Sequence[str]]] = ((3.0, ["/v1/fleet"]), (5.0, ["/v1/service"]), (10.0, [OPEN, RESOLVED]))
VEHICLE_EVERY_S = 5.0
SPREAD_S = 0.02  # between two pages that are opened
CHUNK = 1 << 20


@dataclass(slots=True)
class Pages:
    """All of them.

    Attributes:
        port: of the service, on loopback.
        vehicle: that a third of the pages show.
        answers: by status.
        events: heard by all together.
        wrong: the first thing that went wrong.
    """

    port: int
    vehicle: str
    answers: Counter[int] = field(default_factory=Counter)
    events: int = 0
    wrong: str = ""

    async def open(self, n: int) -> list["asyncio.Task[None]"]:
        """So many pages; returns when each has had all its first answers."""
        first, tasks = list[asyncio.Event](), list[asyncio.Task[None]]()
        for number in range(n):
            polls = [*POLLS]
            if number % 3 == 0:
                path = f"/v1/vehicles/{self.vehicle}"
                polls.append((VEHICLE_EVERY_S, [path, f"{path}/trend"]))
            had = [asyncio.Event() for _ in range(len(polls) + 1)]
            first += had
            works = [
                self.stream(had[0]),
                *(self.poll(event, *poll) for event, poll in zip(had[1:], polls, strict=True)),
            ]
            tasks += [asyncio.create_task(self.noted(work)) for work in works]
            await asyncio.sleep(SPREAD_S)
        while not self.wrong and not all(event.is_set() for event in first):  # noqa: ASYNC110  (hundreds, and what goes wrong)
            await asyncio.sleep(0.05)
        return tasks

    async def noted(self, work: Coroutine[None, None, None]) -> None:
        """Do it; what ends it is noted."""
        try:
            await work
        except (OSError, ValueError, EOFError) as error:
            self.wrong = self.wrong or f"{type(error).__name__}: {error}"

    async def poll(self, had: asyncio.Event, every_s: float, paths: Sequence[str]) -> None:
        """Ask for these again and again, on one connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=CHUNK)
        tags = dict[str, str]()
        while True:
            for path in paths:
                await self.ask(reader, writer, path, tags)
            if had.is_set():
                await asyncio.sleep(every_s * random.uniform(0.9, 1.1))  # noqa: S311  (as the page does)
            else:
                had.set()
                await asyncio.sleep(every_s * random.random())  # noqa: S311  (pages are opened at any time)

    async def ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str, tags: dict[str, str]
    ) -> None:
        """Once, with the entity tag of the last answer. Raises ValueError unless the answer is 200 or 304."""
        more = f"If-None-Match: {tags[path]}\r\n" if path in tags else ""
        more += "Cache-Control: max-age=5\r\n" if path in SHARED else ""
        writer.write(f"GET {path} HTTP/1.1\r\nHost: bench\r\nAccept-Encoding: gzip\r\n{more}\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status = int(head.split(" ", 2)[1])
        headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        if status not in {200, 304}:
            raise ValueError(f"{path}: {status} {body[:300]!r}")
        if "etag" in headers:
            tags[path] = headers["etag"]
        self.answers[status] += 1

    async def stream(self, had: asyncio.Event) -> None:
        """Listen. Raises EOFError when the service ends it."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=CHUNK)
        writer.write(b"GET /v1/alerts/stream HTTP/1.1\r\nHost: bench\r\nAccept: text/event-stream\r\n\r\n")
        while data := await reader.read(CHUNK):
            had.set()
            self.events += data.count(b"event: alert")
        raise EOFError("a stream ended")


async def run(port: int, n: int, vehicle: str) -> str:
    """Until standard input ends; what there is to say."""
    pages = Pages(port, vehicle)
    tasks = await pages.open(n)
    pages.answers.clear()
    pages.events = 0
    sys.stdout.write(f"{'not ' if pages.wrong else ''}ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    wrong = pages.wrong
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return f"{sum(pages.answers.values())} {pages.events} {wrong}"


def main() -> None:
    """Run."""
    said = asyncio.run(run(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]))
    sys.stdout.write(said + "\n")


if __name__ == "__main__":
    main()
