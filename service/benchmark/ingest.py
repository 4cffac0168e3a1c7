"""What `emberwatch bench ingest` measures, in which order, and the report.

Every round is sized by ticks (one sample of each van) and ends early at a limit on time. A mode is measured only after
the states that it produced were the offline scan's, and once more at its end.
"""

import math
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from model.benchmarks import describe_backend, this_commit
from model.checkpoint import load_checkpoint
from model.runtime import recompute_fleet
from service.benchmark.bodies import BenchFleet, ts_of
from service.benchmark.ingest_options import JOURNAL, WRITE_THROUGH, IngestOptions, settings_of
from service.benchmark.lanes import Lane, LoadError, at_times, close, connect, in_order
from service.benchmark.processes import BenchServer, BenchStore, Cores, running_server, running_store
from service.records.vehicle_export import unpack_export

Row = dict[str, Any]

TOLERANCE = 1e-4  # promise 1
PROVING_TICKS = 12
WARM_UP_TICKS = 90  # beyond the first snapshots of all vans
FEW_TICKS = 2  # of a larger fleet, before it is measured: first snapshots are spread evenly over snapshot_every
SOME_STATES = 48
SLOWEST = 250  # samples per second below which a long round is given up
OPEN_LOOP_SHARE = 0.7
ROUND_LIMIT_S = 20.0


@dataclass(slots=True)
class Bench:
    """One mode under measurement."""

    mode: str
    options: IngestOptions
    server: BenchServer
    store: BenchStore
    fleet: BenchFleet
    say: Callable[[str], None]

    def row(self, name: str, values: Sequence[float], unit: str, **params: Any) -> Row:
        """A row of the report from one value of each round."""
        return {
            "name": name, "params": {"mode": self.mode, **params}, "unit": unit,
            "value": statistics.median(values), "lo": min(values), "hi": max(values),
            "peer": None, "ratio": None, "floor": None,
        }  # fmt: skip

    def prove(self, vans: Sequence[int]) -> None:
        """Every van has each tick exactly once, and these vans' states are those of the offline scan.

        Raises:
            LoadError: something is wrong, and nothing about this service is worth measuring.
        """
        fleet, checkpoint = self.fleet, load_checkpoint()
        held, wanted = self.server.listed(), (fleet.ticks, fleet.ticks - 1)
        wrong = [name for name in fleet.names if held.get(name) != wanted]
        if wrong:
            raise LoadError(f"{len(wrong)} vans do not have {fleet.ticks} samples, such as {held.get(wrong[0])}")
        ts_ms = np.tile(np.array([ts_of(tick) for tick in range(fleet.ticks)], np.int64), (len(vans), 1))
        signals = np.stack([tick[list(vans)] for tick in fleet.history], axis=1)
        for van, truth in zip(vans, recompute_fleet(checkpoint, ts_ms, signals), strict=True):
            state = unpack_export(self.server.get(f"/v1/vehicles/{fleet.names[van]}/state")).snapshot()
            error = relative_error(state.ssm, truth.ssm)
            if state.seq != fleet.ticks - 1 or not error < TOLERANCE:
                raise LoadError(f"the state of {fleet.names[van]} at seq {state.seq} is off by {error:.1e}")

    def measure(self, *, single_posts: bool) -> list[Row]:
        """Prove, measure, and prove once more. Raises LoadError."""
        vans, few, lanes = self.options.vans, self.options.few, connect(self.server.port, self.options.in_flight)
        self.batches(lanes, PROVING_TICKS if few else FEW_TICKS)
        close(lanes)
        proved = range(0, vans, 1 if few else max(1, vans // SOME_STATES))
        self.prove(proved)
        self.say(f"{self.mode}: {len(proved)} states are the offline scan's; measuring")
        rows = self.throughput()
        if single_posts and few:
            rows += self.single_posts()
        self.prove(range(0, vans, max(1, vans // 3)))
        self.say(f"{self.mode}: {self.fleet.ticks * vans:,} samples, and every van has each of them once")
        return rows

    def batches(self, lanes: Sequence[Lane], ticks: int) -> float:
        """Seconds for one sample of each van, `ticks` times, as columnar batches; every answer is checked."""
        vans, batch = self.options.vans, self.options.batch_size
        requests = [request for _ in range(ticks) for request in self.fleet.fleet_requests(batch)]
        limit_s = max(ROUND_LIMIT_S, ticks * vans / SLOWEST)
        responses, seconds = in_order(lanes, requests, time.perf_counter() + limit_s)
        if len(responses) < len(requests):
            raise LoadError(f"a round of {ticks} samples of each van took more than {limit_s:.0f} s")
        last = len(requests) // ticks - 1  # of a tick, with the vans that are left
        for i, response in enumerate(responses):
            size = batch if i % (last + 1) < last else vans - last * batch
            accepted([response], b'"applied":%d,' % size)
        return seconds

    def snapshots(self) -> float:
        """Written in the background so far."""
        return self.server.count("snapshots_total", result="written")

    def singles(self, lanes: Sequence[Lane], ticks: int, rate: float | None) -> tuple[float, list[float]]:
        """Samples per second and latencies of single posts, at a rate or (None) as fast as they are answered."""
        requests = [request for _ in range(ticks) for request in self.fleet.single_requests()]
        n = len(requests)
        due = [0.0] * n
        if rate is not None:
            due = np.cumsum(np.random.default_rng(self.fleet.ticks).exponential(1.0 / rate, n)).tolist()
        responses, latencies, seconds = at_times(lanes, requests, due, time.perf_counter() + ROUND_LIMIT_S)
        if len(responses) < n:
            raise LoadError(f"a round of {n} single posts took more than {ROUND_LIMIT_S} s")
        accepted(responses, b'"status":"applied"')
        return n / seconds, latencies

    def throughput(self) -> list[Row]:
        """Columnar batches: rate, processor time, store traffic and stages of a sample."""
        n, few, lanes = self.options.vans, self.options.few, connect(self.server.port, self.options.in_flight)
        try:
            warm_ticks = WARM_UP_TICKS if self.mode == JOURNAL else PROVING_TICKS
            warm_ticks = warm_ticks if few else 1
            warm_s = self.batches(lanes, warm_ticks)
            ticks = max(2 if few else 1, math.ceil(self.options.round_s * warm_ticks / warm_s))
            rates, cpu_us, traffic, store_us = list[float](), list[float](), list[float](), list[float]()
            snapshots, step_us = list[float](), list[float]()
            stages_before, client_before, began = self.server.stages(), time.process_time(), time.perf_counter()
            for _ in range(self.options.rounds):
                cpu, store_cpu, bytes_before = self.server.cpu_s(), self.store.cpu_s(), self.store.traffic()
                written, step_cpu = self.snapshots(), self.server.count("step_cpu_seconds_total")
                seconds = self.batches(lanes, ticks)
                rates.append(n * ticks / seconds)
                cpu_us.append((self.server.cpu_s() - cpu) / (n * ticks) * 1e6)
                traffic.append((self.store.traffic() - bytes_before) / (n * ticks))
                store_us.append((self.store.cpu_s() - store_cpu) / (n * ticks) * 1e6)
                snapshots.append((self.snapshots() - written) / (n * ticks) * 1e3)
                step_us.append((self.server.count("step_cpu_seconds_total") - step_cpu) / (n * ticks) * 1e6)
                self.say(f"{self.mode}: {rates[-1]:,.0f} samples/s, {cpu_us[-1]:.1f} us of processor a sample")
            busy = (time.process_time() - client_before) / (time.perf_counter() - began)
            self.say(f"{self.mode}: the client was busy {100 * busy:.0f} % of the time, requests built included")
            stages = self.server.stages()
        finally:
            close(lanes)
        samples = n * ticks * self.options.rounds
        spent = {name: (seconds - stages_before.get(name, 0.0)) / samples * 1e6 for name, seconds in stages.items()}
        batch = {"vans": n, "batch": self.options.batch_size, "in_flight": self.options.in_flight}
        return [
            self.row("ingest_throughput", rates, "samples/s", **batch),
            self.row("server_cpu_per_sample", cpu_us, "us", **batch),
            self.row("store_bytes_per_sample", traffic, "bytes", **batch),
            self.row("store_cpu_per_sample", store_us, "us", **batch),
            self.row("snapshots_per_1000_samples", snapshots, "count", **batch),
            self.row("step_cpu_per_sample", step_us, "us", **batch),
            self.row("step_share", [100.0 * s / c for s, c in zip(step_us, cpu_us, strict=True)], "%", **batch),
            *(self.row("stage_time", [us], "us", stage=stage, **batch) for stage, us in spent.items() if us > 0.005),
        ]

    def single_posts(self) -> list[Row]:
        """Single samples: closed loop, then open loop at a share of that."""
        lanes = connect(self.server.port, min(self.options.connections, len(self.fleet.names)))
        own = connect(self.server.port, len(self.fleet.names))
        try:
            rate, _ = self.singles(lanes, 2, None)
            ticks = max(1, math.ceil(self.options.round_s * rate / len(self.fleet.names)))
            cpu, store_cpu, before = self.server.cpu_s(), self.store.cpu_s(), self.fleet.ticks
            rates = [self.singles(lanes, ticks, None)[0] for _ in range(self.options.rounds)]
            posts = (self.fleet.ticks - before) * len(self.fleet.names)
            spent = [(self.server.cpu_s() - cpu) / posts * 1e6, (self.store.cpu_s() - store_cpu) / posts * 1e6]
            offered = OPEN_LOOP_SHARE * statistics.median(rates)
            self.say(f"{self.mode}: {statistics.median(rates):,.0f} single posts/s; now {offered:,.0f}/s, open loop")
            ticks = max(1, math.ceil(self.options.round_s * offered / len(self.fleet.names)))
            late = [self.singles(own, ticks, offered)[1] for _ in range(self.options.rounds)]
        finally:
            close([*lanes, *own])
        p99 = [1_000 * float(np.quantile(latencies, 0.99)) for latencies in late]
        p50 = [1_000 * float(np.quantile(latencies, 0.5)) for latencies in late]
        return [
            self.row("single_post_throughput", rates, "samples/s", connections=len(lanes)),
            self.row("server_cpu_per_single_post", spent[:1], "us", connections=len(lanes)),
            self.row("store_cpu_per_single_post", spent[1:], "us", connections=len(lanes)),
            self.row("single_post_p99", p99, "ms", rate=round(offered), connections=len(own)),
            self.row("single_post_p50", p50, "ms", rate=round(offered), connections=len(own)),
        ]


def accepted(responses: Sequence[bytes], mark: bytes) -> None:
    """Every response is a 200 with this mark. Raises LoadError with the first that is not."""
    for response in responses:
        if not response.startswith(b"HTTP/1.1 200") or mark not in response:
            overtaken = (
                "; batches on two connections overtook each other: try --in-flight 1" if b'"late"' in response else ""
            )
            raise LoadError(f"a request was not applied{overtaken}: {response[:1_500].decode(errors='replace')}")


def relative_error(value: "np.ndarray", truth: "np.ndarray") -> float:
    """Norm of the difference over the norm of the truth."""
    return float(np.linalg.norm(value.astype(np.float64) - truth) / np.linalg.norm(truth))


def measure_mode(
    mode: str, options: IngestOptions, cores: Cores, folder: Path, say: Callable[[str], None]
) -> list[Row]:
    """All rows of one mode, from a service and a store of its own."""
    settings = settings_of(mode, options)
    with (
        running_store(folder, cores.others) as store,
        running_server(folder, cores.server, {**settings, "store": store.url}) as server,
    ):
        bench = Bench(mode, options, server, store, BenchFleet.make(f"bench-{mode}", options.vans), say)
        rows = bench.measure(single_posts=mode == modes_in_order(options)[0])
        model = orjson.loads(server.get("/v1/model"))
    for row in rows:
        if row["name"] == "store_bytes_per_sample":
            row |= {"peer": "state", "ratio": model["bytes_per_vehicle"]["state"] / row["value"]}
    return rows


def modes_in_order(options: IngestOptions) -> list[str]:
    """The journal first: write-through leaves the disk with gigabytes to write."""
    return sorted(options.modes)


def measure_ingest(options: IngestOptions, say: Callable[[str], None]) -> Row:
    """The report; `correct` is always true, since nothing else gets as far.

    Raises:
        LoadError, ProcessError: the service is wrong, does not answer or does not start.
        ValueError: it cannot work in a mode that was asked for.
    """
    cores = Cores.choose(options.server_cores)
    say(str(cores))
    device = f"{describe_backend(str(settings_of(JOURNAL, options)['backend']))}; {cores}"
    rows: list[Row] = []
    for mode in modes_in_order(options):
        with tempfile.TemporaryDirectory(prefix="emberwatch-bench-", dir=options.folder) as folder:
            rows += measure_mode(mode, options, cores, Path(folder) / mode, say)
    compare(rows)
    return {
        "commit": this_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device,
        "command": shlex.join(sys.argv),
        "correct": True,
        "rows": rows,
    }


def compare(rows: list[Row]) -> None:
    """Set the journal's throughput beside write-through's, in place."""
    by_mode = {row["params"]["mode"]: row for row in rows if row["name"] == "ingest_throughput"}
    if {JOURNAL, WRITE_THROUGH} <= by_mode.keys():
        ratio = by_mode[JOURNAL]["value"] / by_mode[WRITE_THROUGH]["value"]
        by_mode[JOURNAL] |= {"peer": WRITE_THROUGH, "ratio": ratio}
