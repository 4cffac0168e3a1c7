"""Workers for tests that look at the engine from inside: each has its own cache and its own connections."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from prometheus_client import Counter, Gauge

from model.checkpoint import Checkpoint
from model.runtime import ModelRuntime, Recomputed, recompute
from service.alerting.alerts import AlertPolicy, Rule
from service.alerting.record import Record, field_of, read_record
from service.engine.context import EngineOptions
from service.engine.engine import StateEngine
from service.observe.metrics import Metrics
from service.records.head import Heads
from service.records.history import Retention
from service.records.journal import JournalLayout
from service.records.state_codec import Snapshot
from service.samples import CURRENT_EPOCH, NO_SEQ, Answers, Samples, Status
from service.store.store import Store
from service.store.store_check import Durability
from service.store.store_keys import partition_of
from tests.service.conftest import START_MS, sample

T = TypeVar("T")
PARTITIONS = 4


def policy(threshold: float = 0.99) -> AlertPolicy:
    """A policy that seldom raises."""
    return AlertPolicy(threshold, threshold / 2, 0.0, 0.0, warmup_samples=0, horizon_s=7_200.0)


def told(client: Any, vehicle: str) -> list[Record]:
    """What the stream of changes has of a vehicle, in order."""
    stream = f"{{ew:{partition_of(vehicle, PARTITIONS)}}}:transitions"
    records = [json.loads(entry[b"alert"]) for _, entry in client.xrange(stream)]
    return [record for record in records if record["vehicle_id"] == vehicle]


def words(answers: Answers) -> list[str]:
    """The statuses, by name."""
    return [Status(int(status)).word for status in answers.status]


def count(counter: Counter | Gauge, *labels: str) -> float:
    """What a Prometheus counter stands at."""
    child: Any = counter.labels(*labels) if labels else counter
    return float(child._value.get())


@dataclass
class Worker:
    """One engine with its store."""

    checkpoint: Checkpoint
    engine: StateEngine
    store: Store
    metrics: Metrics

    def samples(self, *named: tuple[str, int], numbered: bool = True, epoch: int = CURRENT_EPOCH) -> Samples:
        """The i-th sample of each vehicle named."""
        names = self.checkpoint.schema.signal_names
        signals = [[sample(i)["signals"].get(name, np.nan) for name in names] for _, i in named]
        return Samples.of(
            [vehicle for vehicle, _ in named],
            np.array([START_MS + 5_000 * i for _, i in named], np.int64),
            np.array([i if numbered else NO_SEQ for _, i in named], np.int64),
            np.full(len(named), epoch, np.int64),
            np.array(signals, np.float64).reshape(len(named), len(names)),
        )

    async def apply(self, *named: tuple[str, int]) -> Answers:
        """Apply the n-th samples of vehicles as one batch."""
        return await self.engine.apply(self.samples(*named))

    async def stream(self, vehicle: str, first: int, last: int) -> None:
        """Apply the samples [first, last) one by one."""
        for i in range(first, last):
            assert words(await self.apply((vehicle, i))) == ["applied"], i

    async def run(self, vehicle: str, first: int, last: int) -> Answers:
        """Apply the samples [first, last) as one run."""
        return await self.apply(*((vehicle, i) for i in range(first, last)))

    async def state(self, vehicle: str) -> Snapshot:
        """The state as the engine tells it."""
        exported = await self.engine.state(vehicle)
        assert exported is not None
        assert exported.snapshot is not None
        return exported.snapshot

    async def head(self, vehicle: str) -> Heads:
        """The head in the store, (1,)."""
        return self.engine.context.layout.unpack((await self.store.heads([vehicle]))[0] or b"")

    async def alerts(self, vehicle: str) -> list[Record]:
        """The vehicle's last alerts in the store."""
        found = await self.store.alerts.of(vehicle, [field_of(vehicle, rule.word) for rule in Rule])
        return [record for data in found if (record := read_record(data)) is not None]

    async def written(self) -> None:
        """Wait until no snapshot is in hand."""
        await self.engine._snapshots.close()

    def offline(self, n: int, *, first: int = 0) -> Recomputed:
        """The samples [first, n), by the float64 scan."""
        return self.offline_of(self.samples(*(("van", i) for i in range(first, n))))

    def offline_of(self, samples: Samples) -> Recomputed:
        """One vehicle's samples, by the float64 scan."""
        return recompute(self.checkpoint, samples.ts_ms, samples.signals)


def worker(
    url: str,
    checkpoint: Checkpoint,
    *,
    n_slots: int = 16,
    alerts: AlertPolicy | None = None,
    snapshot_every: int = 60,
    backend: str = "reference",
    durability: Durability = "everysec",
    clock: Callable[[], float] = time.time,
    retention: Retention | None = None,
) -> Worker:
    """A new worker with an empty cache."""
    metrics = Metrics()
    entry_bytes = JournalLayout(checkpoint.config.d_input).dtype.itemsize
    store = Store(
        url,
        PARTITIONS,
        5.0,
        metrics.store_duration,
        entry_bytes=entry_bytes,
        durability=durability,
        retention=retention,
    )
    engine = StateEngine(
        checkpoint,
        ModelRuntime(checkpoint, backend, n_slots),
        store,
        metrics,
        alerts or policy(),
        EngineOptions(n_slots=n_slots, snapshot_every=snapshot_every, retention=retention),
        clock,
    )
    return Worker(checkpoint, engine, store, metrics)


def run(workers: list[Worker], scenario: Callable[[], Awaitable[T]]) -> T:
    """Run a scenario and close its workers, in one event loop."""

    async def whole() -> T:
        try:
            return await scenario()
        finally:
            for each in workers:
                await each.engine.close()
                await each.store.close()

    return asyncio.run(whole())


def close_to(state: Snapshot, truth: Recomputed, tolerance: float = 1e-4) -> bool:
    """Promise 1, for both parts of the state."""
    pairs = ((state.ssm, truth.ssm), (state.conv, truth.conv))
    return all(np.linalg.norm(value - true) < tolerance * np.linalg.norm(true) for value, true in pairs)
