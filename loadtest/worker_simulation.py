"""One worker on one core as a queue: posts are read, rows wait for company, a batch is computed, the store answers.

What takes processor time is done one after the other; while the store works the next posts are read. A batch begins when its first row
has waited `max_wait_us` and the core is free, or when it is full. From this follow how large batches get at a load, and so what a
sample costs. Distributions of service times are left out: the simulation is of means.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass

STORE_US = 700.0  # from the commit's sending to its answer, not the worker's processor
FEW = 200  # samples at the beginning that are not counted


@dataclass(frozen=True, slots=True)
class Worker:
    """Processor time in microseconds of a batch, of a row in it, and of a post that brings one row."""

    per_batch_us: float
    per_row_us: float
    per_post_us: float
    max_batch: int = 256
    max_wait_us: float = 2_000.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of a simulated run: means over samples, and latencies from the post's arrival to its answer."""

    cpu_us: float
    batch: float
    rate: float  # samples per second
    p50_us: float
    p99_us: float


def simulate(worker: Worker, arrivals: list[float], n: int, again: Callable[[float], float | None]) -> Outcome:
    """Until n samples are answered.

    Args:
        worker: what things cost.
        arrivals: times in us of the first posts.
        n: samples.
        again: when the sender of an answered post posts again, if it does.
    """
    heapq.heapify(arrivals)
    now = spent = counted = 0.0
    rows: list[tuple[float, float]] = []  # (arrival, read at) of rows that wait for a batch
    latencies: list[float] = []
    batches = answered = 0
    began = None
    while answered < n and (arrivals or rows):
        begin = rows[0][1] + worker.max_wait_us if rows else float("inf")
        if arrivals and len(rows) < worker.max_batch and max(now, arrivals[0]) < max(now, begin):
            arrival = heapq.heappop(arrivals)
            now = max(now, arrival) + worker.per_post_us
            rows.append((arrival, now))
            cost = worker.per_post_us
        else:
            size = len(rows)
            cost = worker.per_batch_us + size * worker.per_row_us
            now = max(now, begin if size < worker.max_batch else now) + cost
            answer = now + STORE_US
            for arrival, _ in rows:
                if (posted := again(answer)) is not None:
                    heapq.heappush(arrivals, posted)
                if answered >= FEW:
                    latencies.append(answer - arrival)
                answered += 1
            rows.clear()
            if answered >= FEW:
                batches += 1
        if answered >= FEW:
            began = now if began is None else began
            spent += cost
            counted = float(len(latencies))
    latencies.sort()
    m = max(1, len(latencies))
    elapsed = max(1e-9, now - (began or 0.0))
    return Outcome(
        spent / max(1.0, counted), counted / max(1, batches), counted / elapsed * 1e6,
        latencies[m // 2], latencies[int(0.99 * m)],
    )  # fmt: skip


def closed_loop(worker: Worker, connections: int, n: int = 6_000) -> Outcome:
    """Each connection posts again when it was answered."""
    return simulate(worker, [float(i) for i in range(connections)], n, lambda answer: answer)


def open_loop(worker: Worker, rate: float, n: int, seed: int = 0) -> Outcome:
    """Posts arrive as they please, `rate` of them in a second."""
    rng = random.Random(seed)  # noqa: S311  (reproducible, not secret)
    arrivals, at = [], 0.0
    for _ in range(n + FEW):
        at += rng.expovariate(rate) * 1e6
        arrivals.append(at)
    return simulate(worker, arrivals, n + FEW, lambda _: None)
