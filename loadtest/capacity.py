"""How much of what a fleet needs, from what was measured of one core, one store and one GPU; renders docs/scale.md.

    python -m loadtest.capacity                       # the tables of docs/scale.md, from docs/scale/*.json
    python -m loadtest.capacity --write               # into the page
    python -m loadtest.capacity --vans 250000 --core-hour 0.05 --gigabyte-hour 0.004

`emberwatch bench ingest --mode journal --rounds 3 --round-s 2 --in-flight 1 --vans N --json > docs/scale/ingest-N.json` measures anew.
"""

import argparse
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.worker_simulation import Worker, closed_loop, open_loop

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
MEASURED = PAGE.with_suffix("")
STEADY = (PAGE.parent / "load" / "locust-steady.json", MEASURED / "steady-400.json")  # of the code that was fitted
PERIOD_S = 5.0  # a van's sample
USED = 0.7  # of a core, a shard or a GPU, at the busiest
SHARD_GB = 32.0  # memory of one Redis primary; half as much again is left to copy-on-write and replicas' buffers
WORKER_BASE_GB = 0.6  # interpreter, torch and numba (docs/state-sizes.md)
SMALL, LARGE, CHECKED = 24, 240, (60, 480)  # batches that the worker is fitted to, and checked at
CONNECTIONS = 64
HOURS_US = 3.6e9

Report = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Given:
    """What is stated elsewhere; tests/loadtest/test_capacity.py compares it with the source."""

    store_bytes: int = 487_808  # of a vehicle at most, fp32 snapshots (GET /v1/model)
    store_bytes_int8: int = 242_048  # the same with int8 snapshots
    worker_bytes: int = 278_352  # of a vehicle in the cache (GET /v1/model)
    gpu_batch: int = 4_096  # vehicles in one step
    gpu_step_us: float = 966.0  # of that batch on an H100 (docs/kernels.md)
    gpu_bytes: float = 80e9 * 0.9  # memory of an H100 for states


@dataclass(frozen=True, slots=True)
class Prices:
    """Assumptions, not measurements: put in your own."""

    core_hour: float = 0.04
    gigabyte_hour: float = 0.005


@dataclass(frozen=True, slots=True)
class Costs:
    """What one sample costs in microseconds of a processor, by how it is sent."""

    worker: Worker
    worker_post_us: float
    worker_batch_us: float
    store_post_us: float
    store_batch_us: float
    store_traffic: float  # bytes of a sample to and from the store


@dataclass(frozen=True, slots=True)
class Need:
    """What a fleet needs."""

    vans: int
    rate: float  # samples per second
    worker_cores: float
    worker_gb: float
    shards_by_processor: float
    shards_by_memory: float
    traffic_mb: float  # per second to and from the stores
    gpus_by_step: float
    gpus_by_memory: float

    @property
    def shards(self) -> int:
        """Primaries of the store."""
        return math.ceil(max(self.shards_by_processor, self.shards_by_memory))

    @property
    def first(self) -> str:
        """What runs out first as the fleet grows: the part of which most is needed."""
        return "memory of the store" if self.shards_by_memory > self.shards_by_processor else "processor of the store"

    def per_million(self, prices: Prices) -> float:
        """Price of a million samples: workers' cores, one core for each shard, memory of both."""
        gigabytes = self.worker_gb + self.shards * SHARD_GB
        hour = (self.worker_cores + self.shards) * prices.core_hour + gigabytes * prices.gigabyte_hour
        return hour / (self.rate * 3_600) * 1e6


def value(report: Report, name: str) -> float:
    """The one row of that name."""
    (found,) = [row["value"] for row in report["rows"] if row["name"] == name]
    return float(found)


def read(n: int, folder: Path = MEASURED) -> Report:
    """The benchmark of batches of n vans."""
    report: Report = json.loads((folder / f"ingest-{n}.json").read_text())
    return report


def fitted(small: Report, large: Report) -> Worker:
    """A batch's and a row's cost from two sizes of batches, a post's from single posts."""
    us_small, us_large = value(small, "server_cpu_per_sample"), value(large, "server_cpu_per_sample")
    per_batch = (us_small - us_large) / (1 / SMALL - 1 / LARGE)
    per_row = us_large - per_batch / LARGE
    measured = value(large, "server_cpu_per_single_post")
    low, high = 0.0, measured
    for _ in range(40):  # more work for a post means larger batches: the sum still rises with it
        middle = (low + high) / 2
        if closed_loop(Worker(per_batch, per_row, middle), CONNECTIONS).cpu_us > measured:
            high = middle
        else:
            low = middle
    return Worker(per_batch, per_row, (low + high) / 2)


def costs(folder: Path = MEASURED) -> Costs:
    """Of the reports in a folder."""
    large = read(LARGE, folder)
    return Costs(
        fitted(read(SMALL, folder), large),
        value(large, "server_cpu_per_single_post"),
        value(large, "server_cpu_per_sample"),
        value(large, "store_cpu_per_single_post"),
        value(large, "store_cpu_per_sample"),
        value(large, "store_bytes_per_sample"),
    )


def need(vans: int, of: Costs, *, batches: bool, int8: bool, given: Given | None = None) -> Need:
    """Of a fleet whose vans send a sample each five seconds: alone, or in batches of 240 by a gateway."""
    given = given or Given()
    rate = vans / PERIOD_S
    worker_us = of.worker_batch_us if batches else of.worker_post_us
    store_us = of.store_batch_us if batches else of.store_post_us
    cores = rate * worker_us / 1e6 / USED
    gigabytes = vans * (given.store_bytes_int8 if int8 else given.store_bytes) / 1e9
    return Need(
        vans=vans,
        rate=rate,
        worker_cores=cores,
        worker_gb=vans * given.worker_bytes / 1e9 + math.ceil(cores) * WORKER_BASE_GB,
        shards_by_processor=rate * store_us / 1e6 / USED,
        shards_by_memory=gigabytes / (SHARD_GB * USED),
        traffic_mb=rate * of.store_traffic / 1e6,
        gpus_by_step=rate * given.gpu_step_us / given.gpu_batch / 1e6 / USED,
        gpus_by_memory=vans * given.worker_bytes / given.gpu_bytes,
    )


def need_table(of: Costs, fleets: tuple[int, ...], prices: Prices) -> str:
    """By size of the fleet and how it sends."""
    head = ["vans", "sent", "snapshots", "samples/s", "workers' cores", "their memory, GB", "shards for the processor"]
    head += ["shards for the memory", "MB/s to the stores", "price of a million samples", "most needed of"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    for vans in fleets:
        for batches, int8 in ((False, False), (True, False), (True, True)):
            n = need(vans, of, batches=batches, int8=int8)
            lines.append(
                f"| {vans:,} | {'batches of 240' if batches else 'one by one'} | {'int8' if int8 else 'fp32'} | {n.rate:,.0f} "
                f"| {n.worker_cores:,.1f} | {n.worker_gb:,.0f} | {n.shards_by_processor:,.1f} | {n.shards_by_memory:,.1f} "
                f"| {n.traffic_mb:,.0f} | {n.per_million(prices):.3f} | {n.first} |"
            )
    return "\n".join(lines)


def gpu_table(of: Costs, fleets: tuple[int, ...]) -> str:
    """What a GPU's kernel and its memory carry."""
    lines = ["| vans | H100 for the steps | H100 for the states of all | samples/s |", "| --- | --- | --- | --- |"]
    for vans in fleets:
        n = need(vans, of, batches=True, int8=False)
        lines.append(f"| {vans:,} | {n.gpus_by_step:.2f} | {n.gpus_by_memory:,.1f} | {n.rate:,.0f} |")
    return "\n".join(lines)


def constant_table(of: Costs) -> str:
    """What everything else follows from."""
    rows = [
        ("worker, a batch of columns", f"{of.worker.per_batch_us:,.0f} us, and {of.worker.per_row_us:.1f} us a sample"),
        (
            "worker, a single post",
            f"{of.worker.per_post_us:,.0f} us beside its part of a batch; {of.worker_post_us:,.0f} us in all",
        ),
        ("worker, a sample in batches of 240", f"{of.worker_batch_us:.1f} us"),
        ("store, a sample in batches of 240", f"{of.store_batch_us:.1f} us"),
        ("store, a single post", f"{of.store_post_us:.1f} us"),
        ("to and from the store", f"{of.store_traffic:,.0f} bytes a sample"),
    ]
    return "\n".join(["| of a core | measured |", "| --- | --- |", *(f"| {what} | {said} |" for what, said in rows)])


@dataclass(frozen=True, slots=True)
class Check:
    """A size at which the simulation was not fitted."""

    what: str
    predicted_us: float
    measured_us: float

    @property
    def ratio(self) -> float:
        """Predicted over measured."""
        return self.predicted_us / self.measured_us


def checks(of: Costs, folder: Path = MEASURED, steady: Sequence[Path] = STEADY) -> list[Check]:
    """Processor time of a sample, simulated and measured, at sizes of which the fit knows nothing.

    `steady`: reports with the scenario of that name, in which the service had time enough and vans posted one by one.
    """
    found = []
    for n in CHECKED:
        size = n / math.ceil(n / of.worker.max_batch)  # more than one step takes at once is cut into equal parts
        predicted = of.worker.per_batch_us / size + of.worker.per_row_us
        found.append(Check(f"batches of {n}", predicted, value(read(n, folder), "server_cpu_per_sample")))
    for n in (SMALL, CHECKED[0]):
        measured = value(read(n, folder), "server_cpu_per_single_post")
        found.append(Check(f"single posts on {n} connections", closed_loop(of.worker, n).cpu_us, measured))
    for path in steady:
        rows = [row for row in json.loads(path.read_text())["rows"] if row["params"]["scenario"] == "steady"]
        rate, measured = (value({"rows": rows}, name) for name in ("offered_load", "server_cpu_per_sample"))
        found.append(Check(f"{rate:,.0f} single posts/s", open_loop(of.worker, rate, 4_000).cpu_us, measured))
    return found


def check_table(found: list[Check]) -> str:
    """Side by side."""
    lines = ["| at | simulated, us/sample | measured, us/sample | ratio |", "| --- | --- | --- | --- |"]
    lines += [f"| {c.what} | {c.predicted_us:,.0f} | {c.measured_us:,.0f} | {c.ratio:.2f} |" for c in found]
    return "\n".join(lines)


def blocks() -> dict[str, str]:
    """The generated parts of docs/scale.md by name."""
    of = costs()
    reports = [read(n) for n in (SMALL, *CHECKED, LARGE)]
    source = "; ".join(f"`{re.sub(r'^.*__main__.py', 'emberwatch', r['command'])}`" for r in reports[:1])
    device = f"commit {reports[-1]['commit']}, {reports[-1]['date'][:10]}, {reports[-1]['device']}"
    return {
        "constants": constant_table(of) + f"\n\nFrom {source} and the like with other `--vans` ({device}).",
        "check": check_table(checks(of)),
        "need": need_table(of, (10_000, 100_000, 1_000_000, 10_000_000), Prices()),
        "gpu": gpu_table(of, (100_000, 1_000_000, 10_000_000)),
    }


def rendered(text: str) -> str:
    """The page with its generated parts made anew."""
    for name, block in blocks().items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        text = pattern.sub(lambda match, block=block: f"{match[1]}\n{block}\n\n{match[2]}", text)  # type: ignore[misc]
    return text


def main() -> None:
    """Print, or write into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into docs/scale.md")
    parser.add_argument("--vans", type=int, help="one fleet of your own")
    parser.add_argument("--core-hour", type=float, default=Prices().core_hour)
    parser.add_argument("--gigabyte-hour", type=float, default=Prices().gigabyte_hour)
    options = parser.parse_args()
    if options.write:
        PAGE.write_text(rendered(PAGE.read_text()))
    elif options.vans:
        print(need_table(costs(), (options.vans,), Prices(options.core_hour, options.gigabyte_hour)))
    else:
        print("\n\n".join(blocks().values()))


if __name__ == "__main__":
    main()
