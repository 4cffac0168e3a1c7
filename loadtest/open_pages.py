"""What open pages cost the service: its processor time with so many pages open, beside its processor time without any.

Each page asks as the real one does (service/dashboard/static/js/live.js): the fleet every 3 s, the service every 5 s, alerts every 10 s, with
entity tags and gzip, a third of them a vehicle and its trend every 5 s, and listens to the stream of alerts. A fleet of
`--vehicles` reports every `--every` seconds all the while, in fleet batches. Processor time, not wall time, so that other work on the machine matters
little. Needs only the service's URL and the pid of its process.

    python loadtest/open_pages.py --url http://127.0.0.1:8000 --pid $(pgrep -f 'emberwatch serve') --vehicles 2000 --pages 50
"""

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import sys
import time
from typing import Any

import httpx
import psutil

PER_REQUEST = 500
SHARED = {"Cache-Control": "max-age=5"}  # an answer that was made for another page will do
OPEN = "/v1/alerts?phase=firing&phase=recovering&phase=stale&phase=pending&limit=1000"


async def ask(client: httpx.AsyncClient, path: str, tags: dict[str, str]) -> None:
    """Once, with the entity tag of the last answer."""
    headers = SHARED if path.startswith("/v1/alerts") else {}
    answer = await client.get(path, headers=headers | ({"If-None-Match": tags[path]} if path in tags else {}))
    if "ETag" in answer.headers:
        tags[path] = answer.headers["ETag"]


async def again(client: httpx.AsyncClient, paths: list[str], every_s: float) -> None:
    """For ever."""
    tags: dict[str, str] = {}
    await asyncio.sleep(random.random() * every_s)  # noqa: S311  (pages are not opened at once)
    while True:
        for path in paths:
            await ask(client, path, tags)
        await asyncio.sleep(every_s)


async def listen(client: httpx.AsyncClient) -> None:
    """To the stream of alerts."""
    async with client.stream("GET", "/v1/alerts/stream", timeout=None) as answer:
        async for _ in answer.aiter_raw():
            pass


def page(client: httpx.AsyncClient, number: int) -> list[Any]:
    """What one page does."""
    work = [
        again(client, ["/v1/fleet"], 3.0),
        again(client, ["/v1/service"], 5.0),
        again(client, [OPEN, "/v1/alerts?phase=resolved&limit=50"], 10.0),
        listen(client),
    ]
    if number % 3 == 0:
        vehicle = f"/v1/vehicles/load-{number}"
        work.append(again(client, [vehicle, f"{vehicle}/trend"], 5.0))
    return work


async def report(client: httpx.AsyncClient, vehicles: int, every_s: float, sent: list[int]) -> None:
    """The fleet's samples, for ever; counts those that were applied."""
    while True:
        started, now = time.monotonic(), int(time.time() * 1000)
        for first in range(0, vehicles, PER_REQUEST):
            ids = [f"load-{i}" for i in range(first, min(first + PER_REQUEST, vehicles))]
            n = len(ids)
            columns = {"vehicle_id": ids, "ts": [now] * n, "speed": [12.0] * n, "motor_temperature": [60.0] * n}
            answer = await client.post("/v1/telemetry", json={"columns": columns}, headers={"Prefer": "return=minimal"})
            sent.append(answer.json().get("applied", 0))
        await asyncio.sleep(max(0.0, every_s - (time.monotonic() - started)))


async def measure(process: psutil.Process, seconds: float, sent: list[int]) -> dict[str, float]:
    """Processor seconds per second, and samples applied per second."""
    before, started, n = process.cpu_times(), time.monotonic(), sum(sent)
    await asyncio.sleep(seconds)
    after, elapsed = process.cpu_times(), time.monotonic() - started
    used = after.user + after.system - before.user - before.system
    return {"cores": round(used / elapsed, 4), "samples_per_s": round((sum(sent) - n) / elapsed, 1)}


async def turn(client: httpx.AsyncClient, process: psutil.Process, options: argparse.Namespace, sent: list[int]) -> Any:
    """A round with pages open: what was measured, and what went wrong in one of them."""
    tasks = [asyncio.create_task(work) for number in range(options.pages) for work in page(client, number)]
    await asyncio.sleep(options.settle)
    found = await measure(process, options.seconds, sent)
    for task in tasks:
        task.cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    return found, [str(one) for one in done if not isinstance(one, asyncio.CancelledError)]


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Without pages and with, in turns."""
    process = psutil.Process(options.pid)
    limits = httpx.Limits(max_connections=None)
    headers = {"Authorization": f"Bearer {options.key}"} if options.key else {}
    rounds, failed = list[dict[str, Any]](), list[str]()
    async with httpx.AsyncClient(base_url=options.url, timeout=120.0, limits=limits, headers=headers) as client:
        sent: list[int] = []
        reporting = asyncio.create_task(report(client, options.vehicles, options.every, sent))
        while sum(sent) < 2 * options.vehicles and not reporting.done():  # noqa: ASYNC110  (until all are in the cache)
            await asyncio.sleep(0.5)
        for _ in range(options.rounds):
            without = await measure(process, options.seconds, sent)
            within, wrong = await turn(client, process, options, sent)
            rounds.append({"without": without, "with": within})
            failed += wrong
        reporting.cancel()
        failed += [str(e) for e in await asyncio.gather(reporting, return_exceptions=True) if isinstance(e, Exception)]
    costs = [one["with"]["cores"] - one["without"]["cores"] for one in rounds]
    return {
        "vehicles": options.vehicles,
        "pages": options.pages,
        "rounds": rounds,
        "pages_cost_cores": {
            "median": round(statistics.median(costs), 4),
            "lo": round(min(costs), 4),
            "hi": round(max(costs), 4),
        },
        "failed": failed[:3],
    }


def main() -> None:
    """Print one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--pid", type=int, required=True, help="of the service")
    parser.add_argument("--key", help="API key with scopes ingest and read")
    parser.add_argument("--vehicles", type=int, default=2_000)
    parser.add_argument("--every", type=float, default=5.0, help="seconds between two samples of a vehicle")
    parser.add_argument("--pages", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument(
        "--settle", type=float, default=5.0, help="seconds between the opening of pages and a measurement"
    )
    parser.add_argument("--rounds", type=int, default=3, help="each without pages and with")
    with contextlib.suppress(KeyboardInterrupt):
        found = asyncio.run(run(parser.parse_args()))
        json.dump(found, sys.stdout, indent=2)
        print()
        sys.exit(1 if found["failed"] else 0)


if __name__ == "__main__":
    main()
