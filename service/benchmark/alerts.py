"""`emberwatch bench alerts`: from a sample to the webhook under load, and what listeners and open pages cost ingest.

Every van fires at its first sample after the warm-up, because the threshold is next to nothing: a van that sends its first
samples is an alert, and so alerts come at a rate of our choosing beside the load.
"""

import base64
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from model.benchmarks import describe_device, this_commit
from model.checkpoint import load_checkpoint
from service.benchmark.bodies import BenchFleet, post, ts_of
from service.benchmark.ingest import Row, accepted
from service.benchmark.lanes import LoadError, at_times, close, connect
from service.benchmark.processes import BenchServer, Cores, on_cores, running_server, running_store

LOAD_SHARE = 0.7  # of what the service takes, beside which the delay is measured
ROUND_LIMIT_S = 300.0
ARRIVAL_LIMIT_S = 30.0
SETTINGS = {
    "backend": "cpu", "alert_threshold": 1e-6, "resolve_threshold": 1e-7, "alert_for_s": 0, "max_future_skew_s": 1e9,
    "max_listeners": 10_000, "max_connections": 20_000,
}  # fmt: skip
LANES = 4


@dataclass(frozen=True, slots=True)
class AlertOptions:
    """What to measure.

    Attributes:
        vans: in every batch of the load.
        alerts_per_s: vans that fire, each a notice and an event for every listener.
        listeners: to the stream.
        pages: that are open (service/benchmark/pages.py).
        rounds: of each measurement.
        round_s: about how long a round lasts.
    """

    vans: int = 240
    alerts_per_s: float = 5.0
    listeners: int = 1_000
    pages: int = 50
    rounds: int = 3
    round_s: float = 5.0


@dataclass(slots=True)
class Arrivals:
    """When the webhook heard of each van's firing, by our clock."""

    port: int
    at_s: dict[str, float] = field(default_factory=dict)


@contextmanager
def webhook() -> Iterator[Arrivals]:
    """A receiver on loopback."""
    arrivals = Arrivals(0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            """Note the time before anything else."""
            now = time.perf_counter()
            event = orjson.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if event["data"]["transition"] == "firing":
                arrivals.at_s.setdefault(event["subject"], now)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    arrivals.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield arrivals
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def beside(command: Sequence[str], cores: Collection[int] | None, said: list[str]) -> Iterator[None]:
    """A module in a process of its own; what it says last is appended to `said`. Raises LoadError if it does not get ready."""
    with on_cores(cores):
        arguments = [sys.executable, "-m", *command]
        process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603
    ready = process.stdout is not None and process.stdout.readline() == "ready\n"
    try:
        if not ready:
            raise LoadError(f"{command[0]} is not served")
        yield
    finally:
        said.append(process.communicate()[0])


@contextmanager
def listening(port: int, n: int, cores: Collection[int] | None) -> Iterator[None]:
    """So many listeners. Raises LoadError if one was ended or heard less than another, or none anything."""
    if n == 0:
        yield
        return
    said = list[str]()
    with beside(["service.benchmark.listeners", str(port), str(n)], cores, said):
        yield
        time.sleep(3.0)  # the last events go out to all of them
    least, most, ended = map(int, said[0].split())
    if ended or least != most or not most:
        raise LoadError(f"of {n} listeners {ended} were let go; they heard {least} to {most} events")


@contextmanager
def opened(port: int, n: int, cores: Collection[int] | None, vehicle: str) -> Iterator[None]:
    """So many pages, a third of them of this vehicle. Raises LoadError if one was refused anything, or nothing came."""
    if n == 0:
        yield
        return
    said = list[str]()
    with beside(["service.benchmark.pages", str(port), str(n), vehicle], cores, said):
        yield
    answers, events, wrong = said[0].rstrip("\n").split(" ", 2)
    if wrong or not int(answers) or not int(events):
        raise LoadError(f"{n} pages had {answers} answers and {events} events; {wrong}")


@dataclass(slots=True)
class AlertBench:
    """A service under load, with a webhook."""

    options: AlertOptions
    server: BenchServer
    arrivals: Arrivals
    fleets: list[BenchFleet]  # one for each lane: a fleet's batches must arrive in order
    warmup: int
    fired: int = 0

    def trigger(self) -> tuple[str, bytes]:
        """A new van, and the request by whose last sample it fires."""
        name = f"alert-{self.fired}"
        self.fired += 1
        samples = [
            {"ts": ts_of(i), "seq": i, "signals": {"speed": 12.0, "motor_temperature": 60.0 + i % 3}}
            for i in range(self.warmup + 1)
        ]
        return name, post(f"/v1/vehicles/{name}/telemetry", orjson.dumps(samples))

    def requests(self, kinds: Sequence[bool]) -> tuple[list[bytes], dict[int, str]]:
        """Requests in the order of `kinds`, a batch where it is False and a van that fires where it is True; those vans by place."""
        requests, fires = list[bytes](), dict[int, str]()
        for i, fires_here in enumerate(kinds):
            if fires_here:
                fires[i], request = self.trigger()
            else:
                request = self.fleets[i % len(self.fleets)].fleet_request()
            requests.append(request)
        return requests, fires

    def send(self, requests: Sequence[bytes], due_s: Sequence[float]) -> float:
        """Send all at their times; seconds that it took. Raises LoadError."""
        lanes = connect(self.server.port, len(self.fleets))
        try:
            responses, _, seconds = at_times(lanes, requests, due_s, time.perf_counter() + ROUND_LIMIT_S)
        finally:
            close(lanes)
        if len(responses) < len(requests):
            raise LoadError(f"a round took more than {ROUND_LIMIT_S} s")
        accepted(responses, b'"rejected":0')
        return seconds

    def closed(self, batches: int, every: int) -> tuple[float, float]:
        """Send batches as fast as they are answered, a van firing after every so many.

        Returns:
            Samples per second, and the service's processor time in us per sample.
        """
        requests, fires = self.requests([i % every == every - 1 for i in range(batches)])
        before = self.server.cpu_s()
        seconds = self.send(requests, [0.0] * len(requests))
        samples = (len(requests) - len(fires)) * self.options.vans + len(fires) * (self.warmup + 1)
        return samples / seconds, 1e6 * (self.server.cpu_s() - before) / samples

    def delays(self, samples_per_s: float) -> list[float]:
        """Seconds from when a sample was due to when the webhook heard of it, beside so many samples per second."""
        round_s, rng = self.options.round_s, np.random.default_rng(self.fired)
        batches = np.arange(0.0, round_s, self.options.vans / samples_per_s)
        firing = rng.uniform(0.0, round_s, max(1, round(round_s * self.options.alerts_per_s)))
        schedule = sorted([(float(due), False) for due in batches] + [(float(due), True) for due in firing])
        requests, fires = self.requests([kind for _, kind in schedule])
        began = time.perf_counter()
        self.send(requests, [due for due, _ in schedule])
        due_of = {name: began + schedule[i][0] for i, name in fires.items()}
        self.wait_for(due_of)
        return [self.arrivals.at_s[name] - due for name, due in due_of.items()]

    def wait_for(self, due_of: Mapping[str, float]) -> None:
        """Until the webhook has heard of all these vans. Raises LoadError."""
        deadline = time.monotonic() + ARRIVAL_LIMIT_S
        while missing := [name for name in due_of if name not in self.arrivals.at_s]:
            if time.monotonic() > deadline:
                raise LoadError(
                    f"{len(missing)} of {len(due_of)} alerts did not reach the webhook, such as {missing[0]}"
                )
            time.sleep(0.05)


def row(name: str, values: Sequence[float], unit: str, **params: Any) -> Row:
    """A row of the report from one value of each round."""
    return {
        "name": name, "params": params, "unit": unit, "value": statistics.median(values), "lo": min(values),
        "hi": max(values), "peer": None, "ratio": None, "floor": None,
    }  # fmt: skip


def measure(bench: AlertBench, cores: Cores, say: Callable[[str], None]) -> list[Row]:
    """All rows. Raises LoadError."""
    options = bench.options
    never = 1_000_000
    bench.closed(LANES * (bench.warmup + 30), never)  # the load's own vans fire here, once
    rate, _ = bench.closed(20 * LANES, never)
    every = max(2, round(rate / options.vans / options.alerts_per_s))
    ticks = max(2 * every, round(options.round_s * rate / options.vans))
    alone, watched = list[tuple[float, float]](), list[tuple[float, float]]()
    port, vehicle = bench.server.port, bench.fleets[0].names[0]
    for _ in range(options.rounds):
        alone.append(bench.closed(ticks, every))
        with (
            listening(port, options.listeners, cores.others),
            opened(port, options.pages, cores.others, vehicle),
        ):
            watched.append(bench.closed(ticks, every))
        watchers = f"{options.listeners} listeners and {options.pages} pages"
        say(f"{alone[-1][0]:,.0f} samples/s alone, {watched[-1][0]:,.0f} beside {watchers}")
    offered = LOAD_SHARE * statistics.median(rate for rate, _ in alone)
    p50, p99 = list[float](), list[float]()
    for _ in range(options.rounds):
        delays = [1_000.0 * delay for delay in bench.delays(offered)]
        p50.append(float(np.quantile(delays, 0.5)))
        p99.append(float(np.quantile(delays, 0.99)))
        say(f"sample to webhook: {p50[-1]:.0f} ms in the median, {p99[-1]:.0f} ms at p99, of {len(delays)} alerts")
    params = {"batch": options.vans, "alerts_per_s": options.alerts_per_s}
    audience = {"listeners": options.listeners, "pages": options.pages}
    ratios = [after[0] / before[0] for before, after in zip(alone, watched, strict=True)]
    more_us = [100.0 * (1.0 - before[1] / after[1]) for before, after in zip(alone, watched, strict=True)]
    return [
        row("ingest_throughput", [rate for rate, _ in alone], "samples/s", listeners=0, pages=0, **params),
        row("ingest_throughput", [rate for rate, _ in watched], "samples/s", **audience, **params)
        | {"peer": "nobody watches", "ratio": statistics.median(ratios)},
        row("audience_cost", [100.0 * (1.0 - ratio) for ratio in ratios], "%", **audience, **params),
        row("audience_share_of_processor", more_us, "%", **audience, **params),
        row("notification_delay_p50", p50, "ms", rate=round(offered), **params),
        row("notification_delay_p99", p99, "ms", rate=round(offered), **params),
    ]


def measure_alerts(options: AlertOptions, say: Callable[[str], None]) -> Row:
    """The report.

    Raises:
        LoadError, ProcessError: a sample was not applied, an alert did not arrive, a listener heard less than another.
    """
    cores = Cores.choose()
    say(str(cores))
    with tempfile.TemporaryDirectory(prefix="emberwatch-bench-") as name, webhook() as arrivals:
        folder = Path(name)
        secret, sinks = folder / "secret", folder / "sinks.toml"
        secret.write_text("whsec_" + base64.b64encode(os.urandom(32)).decode())
        sinks.write_text(
            f'[[sink]]\nname = "bench"\nkind = "cloudevents"\nurl = "http://127.0.0.1:{arrivals.port}/"\n'
            f'secrets = [{{ file = "{secret}" }}]\n'
        )
        with running_store(folder / "store", cores.others) as store:
            settings = {**SETTINGS, "store": store.url, "sinks_file": sinks}
            with running_server(folder / "service", cores.server, settings) as server:
                fleets = [BenchFleet.make(f"bench-{i}", options.vans, seed=i) for i in range(LANES)]
                bench = AlertBench(options, server, arrivals, fleets, load_checkpoint().warmup_samples)
                rows = measure(bench, cores, say)
    return {
        "commit": this_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": f"{describe_device(1)}; {cores}",
        "command": shlex.join(sys.argv),
        "correct": True,
        "rows": rows,
    }
