"""An hour at 70 % of what the service can take: memory and file descriptors stay where they are, and nothing is lost.

    python -m loadtest.soak --start-service                  # an hour
    python -m loadtest.soak --start-service --seconds 300

First the capacity is measured (single samples, one after the other on each of 64 connections), then a share of it is sent in an
open loop. Memory and descriptors are the service's own figures (/metrics). They are flat if the median of the last quarter of
the run is at most so much above that of the second quarter. Stops by itself; exit code 1 if they are not flat or if a sample was lost.
"""

import argparse
import asyncio
import contextlib
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx

from loadtest.measure import Row, row, rows_of, write_report
from loadtest.open_loop import drive
from loadtest.run import warm_up
from loadtest.scenarios import Event, Plan, Size, steady
from loadtest.target import loopback, scrape, started_service
from loadtest.vans import LoadError, make_vans
from loadtest.verify import check_counts, check_states, some_of

PROBE_VANS = 64
PROBE_ROUNDS = 3
LEAST_LOOKS = 8  # or there are no quarters to compare
LOOKS = 120  # at the service's memory, in a run
RESOURCES = {"process_resident_memory_bytes": ("resident_memory", "B"), "process_open_fds": ("open_files", "count")}


class Watch:
    """Looks at the service's memory and descriptors while a body runs."""

    def __init__(self, url: str, every_s: float) -> None:
        self._url, self._every_s = url, every_s
        self._over = threading.Event()
        self.seen: dict[str, list[float]] = {name: [] for name in RESOURCES}
        self.failed: httpx.HTTPError | None = None

    def _look(self) -> None:
        while not (self._over.wait(self._every_s) and len(next(iter(self.seen.values()))) >= LEAST_LOOKS):
            try:
                found = scrape(self._url)
            except httpx.HTTPError as error:
                self.failed = error
                return
            for name, values in self.seen.items():
                values.append(found[name])

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """While the body runs. Raises httpx.HTTPError if the service stopped answering."""
        thread = threading.Thread(target=self._look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
        if self.failed is not None:
            raise self.failed


def quarters(values: Sequence[float]) -> list[Sequence[float]]:
    """Four parts of a run, of the same length; what is over belongs to the first.

    Raises:
        LoadError: too few values for that.
    """
    n = len(values) // 4
    if n < LEAST_LOOKS // 4:
        raise LoadError(f"{len(values)} looks at the service are too few; let it run longer")
    first = len(values) - 4 * n
    return [values[: n + first], *(values[first + i * n : first + (i + 1) * n] for i in (1, 2, 3))]


def growth(values: Sequence[float]) -> float:
    """Median of the last quarter minus that of the second. Raises LoadError."""
    _, second, _, last = quarters(values)
    return statistics.median(last) - statistics.median(second)


def capacity(url: str, samples: int) -> float:
    """Single samples per second, each sent when the one before was answered, on 64 connections; median of three rounds."""
    rates = []
    for n in range(PROBE_ROUNDS):
        vans = make_vans(f"probe-{n}-{time.time_ns() // 1_000_000:x}", PROBE_VANS)
        each = max(1, samples // PROBE_VANS)

        def events(each: int = each) -> Iterator[Event]:
            return (Event(0.0, van) for _ in range(each) for van in range(PROBE_VANS))

        plan = Plan("probe", Size(PROBE_VANS, 1.0, 1.0 / each), ["fleet"] * PROBE_VANS, events)
        heard = asyncio.run(drive(plan, vans, url, at_most=1))
        check_counts(url, vans)
        rates.append(each * PROBE_VANS / heard.seconds)
    return statistics.median(rates)


def soak(url: str, options: argparse.Namespace) -> list[Row]:
    """Rows of the report. Raises LoadError."""
    warm_up(url)
    most = capacity(url, options.probe)
    print(f"{most:,.0f} single samples/s at most; {options.share:.0%} of that follows", file=sys.stderr)
    plan = steady(Size(options.vans, options.seconds, options.vans / (options.share * most)))
    vans = make_vans(f"soak-{time.time_ns() // 1_000_000:x}", options.vans)
    watch = Watch(url, options.seconds / LOOKS)
    before = scrape(url)
    with watch.watching():
        heard = asyncio.run(drive(plan, vans, url))
    after = scrape(url)
    check_counts(url, vans)
    check_states(url, some_of(vans, plan.roles, options.verify_states))
    params: Row = {"scenario": "soak", "driver": "open", "vans": options.vans, "share": options.share}
    rows = [row("capacity", params, most, "samples/s"), row("duration", params, heard.seconds, "s")]
    for name, (words, unit) in RESOURCES.items():
        rows.append(row(words, params, watch.seen[name][-1], unit, watch.seen[name]))
        for i, part in enumerate(quarters(watch.seen[name]), start=1):
            rows.append(row(f"{words}_by_quarter", params | {"quarter": i}, statistics.median(part), unit, part))
        rows.append(row(f"{words}_growth", params, growth(watch.seen[name]), unit))
    rows += [
        r | {"params": r["params"] | {"scenario": "soak"}} for r in rows_of(plan, "open", vans, heard, before, after)
    ]
    flat(rows, {"resident_memory_growth": options.allow_mb * 1e6, "open_files_growth": options.allow_files})
    return rows


def flat(rows: Sequence[Row], limits: dict[str, float]) -> None:
    """Raises LoadError if something grew by more than its limit."""
    for one in rows:
        if one["name"] in limits and one["value"] > limits[one["name"]]:
            raise LoadError(f"{one['name']} is {one['value']:,.0f}, allowed are {limits[one['name']]:,.0f}")


def main() -> None:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="a running service on this machine")
    parser.add_argument("--start-service", action="store_true", help="start one of our own instead")
    parser.add_argument("--seconds", type=float, default=3_600.0)
    parser.add_argument("--share", type=float, default=0.7, help="of the capacity")
    parser.add_argument("--vans", type=int, default=500)
    parser.add_argument("--probe", type=int, default=6_400, help="samples in each measurement of the capacity")
    parser.add_argument("--allow-mb", type=float, default=32.0, help="growth of memory")
    parser.add_argument("--allow-files", type=float, default=8.0, help="growth of the number of file descriptors")
    parser.add_argument("--verify-states", type=int, default=3, help="vans whose state is computed again offline")
    parser.add_argument("--report", type=Path, help="where the JSON goes [standard output]")
    options = parser.parse_args()
    try:
        url = loopback(options.url)
        with started_service() if options.start_service else contextlib.nullcontext(url) as target:
            rows = soak(target, options)
    except (LoadError, OSError, RuntimeError, ValueError, httpx.HTTPError) as error:
        raise SystemExit(f"loadtest: {error}") from error
    write_report(rows, options.report)


if __name__ == "__main__":
    main()
