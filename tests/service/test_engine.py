"""The state engine over a real Valkey: writers that fight, answers that come from the truth, states that are refused."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import pytest
from prometheus_client import Histogram

from model.checkpoint import Checkpoint, load_checkpoint
from model.runtime import ModelRuntime, StepScores, recompute
from service.alerts import AlertPolicy
from service.engine import StateEngine
from service.errors import StoreUnavailable
from service.head import VERSION
from service.metrics import Metrics
from service.state_codec import unpack_snapshot
from service.store import Store, StoreMisconfigured, partition_of
from service.verdict import Answer, Status
from service.wire import Sample, SampleReader
from tests.processes import ValkeyProcess
from tests.service.conftest import sample

T = TypeVar("T")
PARTITIONS = 4


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """The shipped model."""
    return load_checkpoint()


@dataclass
class Worker:
    """One engine with its own cache and its own connection."""

    engine: StateEngine
    store: Store
    metrics: Metrics
    reader: SampleReader

    async def apply(self, *samples: tuple[str, int]) -> list[Answer]:
        """Apply the n-th samples of vehicles as one batch."""
        return await self.engine.apply([self.read(vehicle, i) for vehicle, i in samples])

    def read(self, vehicle: str, i: int) -> Sample:
        """The i-th sample."""
        parsed = self.reader.read(vehicle, sample(i))
        assert isinstance(parsed, Sample)
        return parsed

    async def state(self, vehicle: str) -> tuple[int, int, np.ndarray]:
        """Epoch, seq and ssm_state in the store."""
        stored = (await self.store.load([vehicle]))[0]
        assert stored is not None
        assert stored.snapshot is not None
        snapshot = unpack_snapshot(stored.snapshot)
        return snapshot.epoch, snapshot.seq, snapshot.ssm


def policy(threshold: float = 0.99) -> AlertPolicy:
    """A policy that seldom raises."""
    return AlertPolicy(threshold, threshold / 2, 0.0, 0.0, warmup_samples=0, horizon_s=7_200.0)


def worker(url: str, checkpoint: Checkpoint, *, n_slots: int = 8, alerts: AlertPolicy | None = None) -> Worker:
    """A new worker with an empty cache."""
    metrics = Metrics()
    store = Store(url, PARTITIONS, 5.0, metrics.store_duration)
    engine = StateEngine(
        checkpoint,
        ModelRuntime(checkpoint, "reference", n_slots),
        store,
        metrics,
        policy=alerts or policy(),
        n_slots=n_slots,
        max_future_skew_s=300.0,
    )
    return Worker(engine, store, metrics, SampleReader(checkpoint.schema))


def run(workers: list[Worker], scenario: Callable[[], Awaitable[T]]) -> T:
    """Run a scenario and close its workers, in one event loop."""

    async def whole() -> T:
        try:
            return await scenario()
        finally:
            for each in workers:
                each.engine.close()
                await each.store.close()

    return asyncio.run(whole())


def offline(checkpoint: Checkpoint, reader: SampleReader, vehicle: str, n: int) -> np.ndarray:
    """The ssm_state after the first n samples, by the float64 scan."""
    read = [reader.read(vehicle, sample(i)) for i in range(n)]
    samples = [each for each in read if isinstance(each, Sample)]
    ts, signals = np.array([each.ts_ms for each in samples]), np.stack([each.signals for each in samples])
    return recompute(checkpoint, ts, signals).ssm


def close_to(value: np.ndarray, truth: np.ndarray) -> bool:
    """Promise 1."""
    return bool(np.linalg.norm(value - truth) < 1e-4 * np.linalg.norm(truth))


def test_a_conflict_recomputes_from_what_the_winner_wrote(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """Two workers take turns on one vehicle; the one whose cache is behind loses, reloads and applies on top."""
    one, two = (worker(valkey.url, checkpoint) for _ in range(2))

    async def scenario() -> None:
        for i in range(12):
            (answer,) = await (one if i % 2 else two).apply((vehicle, i))
            assert answer.status is Status.APPLIED
        epoch, seq, ssm = await one.state(vehicle)
        assert (epoch, seq) == (1, 11)
        assert close_to(ssm, offline(checkpoint, one.reader, vehicle, 12))
        conflicts = sum(each.metrics.commit_conflicts._value.get() for each in (one, two))
        assert conflicts == 10  # every turn after each worker's first

    run([one, two], scenario)


def test_two_workers_at_once_apply_each_sample_exactly_once(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """The same samples sent to both at the same moment: one applies, the other says duplicate; the state is right."""
    one, two = (worker(valkey.url, checkpoint) for _ in range(2))

    async def scenario() -> None:
        for i in range(25):
            answers = await asyncio.gather(one.apply((vehicle, i)), two.apply((vehicle, i)))
            assert sorted(answer.status.value for (answer,) in answers) == ["applied", "duplicate"]
        _, seq, ssm = await one.state(vehicle)
        assert seq == 24
        assert close_to(ssm, offline(checkpoint, one.reader, vehicle, 25))

    run([one, two], scenario)


def test_one_vehicles_conflict_does_not_fail_its_batch(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """In a batch of three where one was moved by another worker, all three are applied."""
    one, two = (worker(valkey.url, checkpoint) for _ in range(2))
    names = [f"{vehicle}.{i}" for i in range(3)]

    async def scenario() -> None:
        await one.apply(*((name, 0) for name in names))
        await two.apply((names[1], 1))
        answers = await one.apply((names[0], 1), (names[1], 2), (names[2], 1))
        assert [answer.status for answer in answers] == [Status.APPLIED] * 3
        for name, n in zip(names, (2, 3, 2), strict=True):
            assert close_to((await one.state(name))[2], offline(checkpoint, one.reader, name, n))

    run([one, two], scenario)


def test_a_refusal_from_a_cached_head_is_confirmed(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """After another worker's reset, what our cache calls a duplicate is a new sample of the new session."""
    one, two = (worker(valkey.url, checkpoint) for _ in range(2))

    async def scenario() -> None:
        for i in range(3):
            await one.apply((vehicle, i))
        assert await two.engine.reset(vehicle) == 2
        (answer,) = await one.apply((vehicle, 0))
        assert answer.status is Status.APPLIED
        assert (await one.state(vehicle))[:2] == (2, 0)

    run([one, two], scenario)


def test_eviction_loses_nothing(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """Ten vehicles in turn through three slots end in the states of the offline scan."""
    small = worker(valkey.url, checkpoint, n_slots=4)
    names = [f"{vehicle}.{i}" for i in range(10)]

    async def scenario() -> None:
        for i in range(4):
            for first in range(0, 10, 2):
                answers = await small.apply((names[first], i), (names[first + 1], i))
                assert {answer.status for answer in answers} == {Status.APPLIED}
        for name in names:
            assert close_to((await small.state(name))[2], offline(checkpoint, small.reader, name, 4))
        assert small.metrics.slots_used._value.get() == 3

    run([small], scenario)


def test_a_store_that_is_gone_defers_and_forgets(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint, vehicle: str
) -> None:
    """While the store is down samples are deferred with the reason; afterwards the stream goes on where the truth is."""
    own = ValkeyProcess(tmp_path_factory.mktemp("own"))
    own.start()
    under_test = worker(own.url, checkpoint)

    async def scenario() -> None:
        for i in range(3):
            await under_test.apply((vehicle, i))
        own.kill()
        (answer,) = await under_test.apply((vehicle, 3))
        assert answer.status is Status.DEFERRED
        assert answer.reason is not None
        assert "store" in answer.reason
        with pytest.raises(StoreUnavailable):
            await under_test.engine.reset(vehicle)
        own.start()
        answers = [(await under_test.apply((vehicle, i)))[0].status.value for i in range(5)]
        assert answers == ["duplicate"] * 3 + ["applied"] * 2
        assert close_to((await under_test.state(vehicle))[2], offline(checkpoint, under_test.reader, vehicle, 5))

    try:
        run([under_test], scenario)
    finally:
        own.stop_if_running()


def test_a_damaged_snapshot_starts_cold_and_is_counted(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """A snapshot that is gone or damaged is never loaded: zero state, warm-up, a counter; the session goes on."""
    writer, reader = worker(valkey.url, checkpoint), worker(valkey.url, checkpoint)

    async def scenario() -> None:
        for i in range(3):
            await writer.apply((vehicle, i))
        with valkey.client as client:
            (key,) = client.keys(f"*v:{vehicle}:snap:*")
            client.setrange(key, 1_000, b"\x55\x55\x55\x55")
        assert (await reader.apply((vehicle, 2)))[0].status is Status.DUPLICATE
        (answer,) = await reader.apply((vehicle, 3))
        assert answer.status is Status.APPLIED
        assert reader.metrics.state_resets.labels("unusable")._value.get() == 1
        backwards = reader.read(vehicle, 4)
        backwards = Sample(vehicle, backwards.ts_ms - 60_000, 4, None, backwards.signals)
        assert (await reader.engine.apply([backwards]))[0].status is Status.LATE
        head = reader.engine.layout.unpack((await reader.store.heads([vehicle]))[0] or b"")
        assert int(head["samples"][0]) == 1
        assert int(head["seq"][0]) == 3

    run([writer, reader], scenario)


def test_a_head_of_another_layout_goes_on_where_it_was(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """What a later version wrote, or rubbish, is salvaged and committed over; other vehicles of the batch do not notice."""
    under_test = worker(valkey.url, checkpoint)
    other, short = f"{vehicle}.other", f"{vehicle}.short"

    async def scenario() -> None:
        with valkey.client as client:
            later = VERSION.pack(4, 99, 20, 77, 1_760_000_000_000) + b"a later layout"
            client.set(f"{{ew:{partition_of(vehicle, PARTITIONS)}}}:v:{vehicle}:head", later)
            client.set(f"{{ew:{partition_of(short, PARTITIONS)}}}:v:{short}:head", b"rubbish")
        answers = await under_test.apply((vehicle, 20), (other, 0), (short, 0))
        assert [a.status.value for a in answers] == ["duplicate", "applied", "applied"]
        answers = await under_test.apply((vehicle, 21), (other, 1), (short, 1))
        assert [a.status.value for a in answers] == ["applied"] * 3
        assert (await under_test.state(vehicle))[:2] == (4, 21)
        assert under_test.metrics.commit_conflicts._value.get() == 0

    run([under_test], scenario)


def test_a_firing_alert_outlives_a_cold_start(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """When the state is lost, a firing alert goes on and resolves under the same id when risk is low."""
    alarmed = worker(valkey.url, checkpoint, alerts=policy(threshold=1e-9))
    calm = worker(valkey.url, checkpoint)

    async def scenario() -> None:
        await alarmed.apply((vehicle, 0))
        (firing,) = [a for a in await calm.store.alerts() if a["vehicle_id"] == vehicle]
        with valkey.client as client:
            client.delete(*client.keys(f"*v:{vehicle}:snap:*"))
        await calm.apply((vehicle, 1))
        (resolved,) = [a for a in await calm.store.alerts() if a["vehicle_id"] == vehicle]
        assert (resolved["phase"], resolved["id"]) == ("resolved", firing["id"])
        assert calm.metrics.alert_transitions.labels("thermal_risk", "resolved")._value.get() == 1

    run([alarmed, calm], scenario)


def test_a_risk_that_is_not_finite_is_refused_and_stored_nowhere(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One vehicle's NaN is its own: it is refused with the reason, its neighbour is applied, the next sample works."""
    under_test = worker(valkey.url, checkpoint)
    other = f"{vehicle}.other"

    async def scenario() -> None:
        await under_test.apply((vehicle, 0), (other, 0))
        step = under_test.engine._runtime.step

        def broken(slots: Any, features: Any) -> StepScores:
            scores = step(slots, features)
            scores.risk[0] = np.nan
            return scores

        monkeypatch.setattr(under_test.engine._runtime, "step", broken)
        bad, good = await under_test.apply((vehicle, 1), (other, 1))
        assert (bad.status, good.status) == (Status.INVALID, Status.APPLIED)
        assert bad.reason is not None
        assert "finite" in bad.reason
        monkeypatch.undo()
        assert (await under_test.apply((vehicle, 1)))[0].status is Status.APPLIED
        assert close_to((await under_test.state(vehicle))[2], offline(checkpoint, under_test.reader, vehicle, 2))

    run([under_test], scenario)


def test_a_resolved_alert_outlives_further_resets(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """The last alert of a vehicle stays on record when its next session is reset too."""
    under_test = worker(valkey.url, checkpoint, alerts=policy(threshold=1e-9))

    async def scenario() -> None:
        await under_test.apply((vehicle, 0))
        for _ in range(2):
            await under_test.engine.reset(vehicle)
        assert [a["phase"] for a in await under_test.store.alerts() if a["vehicle_id"] == vehicle] == ["resolved"]

    run([under_test], scenario)


def test_many_lists_at_once_leave_the_store_to_telemetry(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """A hundred list requests at once neither fail nor make a sample fail."""
    under_test = worker(valkey.url, checkpoint)

    async def scenario() -> None:
        lists = [asyncio.create_task(under_test.store.vehicles_by_risk(10, None)) for _ in range(100)]
        answers = [(await under_test.apply((vehicle, i)))[0].status for i in range(3)]
        assert answers == [Status.APPLIED] * 3
        assert len(await asyncio.gather(*lists)) == 100

    run([under_test], scenario)


def test_old_snapshots_do_not_pile_up(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """However many samples, a vehicle has one head and one snapshot, and neither expires."""
    under_test = worker(valkey.url, checkpoint)

    async def scenario() -> None:
        for i in range(20):
            await under_test.apply((vehicle, i))
        with valkey.client as client:
            keys = client.keys(f"*v:{vehicle}:*")
            assert len(keys) == 2
            assert [client.ttl(key) for key in keys] == [-1, -1]

    run([under_test], scenario)


def test_alerts_commit_with_the_sample_and_end_with_the_session(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """A firing alert is in the store when its sample is answered; a reset resolves it; the stream has every change."""
    under_test = worker(valkey.url, checkpoint, alerts=policy(threshold=1e-9))

    async def scenario() -> None:
        await under_test.apply((vehicle, 0))
        alert = next(a for a in await under_test.store.alerts() if a["vehicle_id"] == vehicle)
        assert (alert["phase"], alert["seq"], alert["rule"]) == ("firing", 0, "thermal_risk")
        await under_test.engine.reset(vehicle)
        resolved = next(a for a in await under_test.store.alerts() if a["vehicle_id"] == vehicle)
        assert (resolved["phase"], resolved["id"]) == ("resolved", alert["id"])
        stream = f"{{ew:{partition_of(vehicle, PARTITIONS)}}}:transitions"
        with valkey.client as client:
            phases = [entry[b"alert"] for _, entry in client.xrange(stream) if vehicle.encode() in entry[b"alert"]]
        assert len(phases) == 2

    run([under_test], scenario)


def test_a_store_that_would_lose_data_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An evicting store and another number of partitions stop the start, with what to do."""
    evicting = ValkeyProcess(tmp_path_factory.mktemp("evicting"), "--maxmemory-policy", "allkeys-lru").start()
    duration = Histogram("store", "for the test", ["op"], registry=None)

    async def check(partitions: int) -> None:
        store = Store(evicting.url, partitions, 5.0, duration)
        try:
            await store.check()
        finally:
            await store.close()

    try:
        with pytest.raises(StoreMisconfigured, match="CONFIG SET maxmemory-policy noeviction"):
            asyncio.run(check(16))  # refused, and leaves no mark: the next number of partitions is free
        with evicting.client as client:
            client.config_set("maxmemory-policy", "noeviction")
        asyncio.run(check(4))
        with pytest.raises(StoreMisconfigured, match="has 4 partitions"):
            asyncio.run(check(8))
    finally:
        evicting.stop_if_running()
