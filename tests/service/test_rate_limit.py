"""Samples per second and key: counted in a real Redis, shared by workers, never in the way when it is slow."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry, Counter

from service.errors import BodyTooLarge, RateLimited
from service.gate.rate_limit import PAUSE_S, RedisHits, SampleRate, window_of
from tests.chaos.store_cluster import StoreCluster
from tests.processes import ServiceProcess, ValkeyProcess
from tests.service.conftest import create, sample
from tests.service.test_bad_input import assert_problem
from tests.service.test_keys import bearer


def failures() -> Counter:
    """A counter of its own."""
    return Counter("failures", "test", registry=CollectorRegistry())


def with_rate(
    url: str,
    per_s: float,
    burst: int,
    test: Callable[[SampleRate], Awaitable[None]],
    counter: Counter | None = None,
    timeout_s: float = 0.2,
) -> None:
    """Run a test with a limit on this store."""

    async def run() -> None:
        hits = RedisHits(url, "samples", *window_of(per_s, burst), timeout_s)
        await hits.start()
        try:
            await test(SampleRate(hits, per_s, burst, timeout_s, counter or failures()))
        finally:
            await hits.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("per_s", "burst", "window"), [(100, 100, (100, 1)), (100, 1_000, (1_000, 10)), (48, 50_000, (50_016, 1_042)), (1_000, 10, (1_000, 1))]
)  # fmt: skip
def test_the_window_holds_the_burst_and_keeps_the_rate(per_s: float, burst: int, window: tuple[int, int]) -> None:
    """Whole seconds; at least a burst passes, and never more than the rate in the long run."""
    samples, seconds = window_of(per_s, burst)
    assert (samples, seconds) == window
    assert samples >= burst
    assert samples / seconds <= per_s * 1.0001 or seconds == 1


def test_a_burst_passes_then_the_rate(valkey: ValkeyProcess, vehicle: str) -> None:
    """What does not fit is refused whole, with the time to wait; other keys are not affected; later it passes."""

    async def test(rate: SampleRate) -> None:
        await rate.take(vehicle, 150)
        with pytest.raises(RateLimited) as refused:
            await rate.take(vehicle, 60)
        assert refused.value.headers == {"Retry-After": "1"}
        await rate.take(vehicle, 50)
        await rate.take(f"{vehicle}.other", 200)
        await asyncio.sleep(4.1)
        await rate.take(vehicle, 150)

    with_rate(valkey.url, 100.0, 200, test)


def test_what_can_never_pass_is_not_told_to_wait(valkey: ValkeyProcess, vehicle: str) -> None:
    """More samples than the burst are a 413, or a sender would retry for ever."""

    async def test(rate: SampleRate) -> None:
        with pytest.raises(BodyTooLarge) as refused:
            await rate.take(vehicle, 201)
        assert refused.value.extra == {"limit_samples": 200}

    with_rate(valkey.url, 100.0, 200, test)


def test_workers_share_one_count_at_one_round_trip_each(valkey: ValkeyProcess, vehicle: str) -> None:
    """Two workers, a hundred requests: a hundred script calls, and the limit of one."""
    with valkey.client as client:

        async def test(one: SampleRate) -> None:
            async def other_worker(other: SampleRate) -> None:
                await one.take(vehicle, 1)
                before = client.info("commandstats")["cmdstat_evalsha"]["calls"]
                for i in range(99):
                    await (one, other)[i % 2].take(vehicle, 1)
                assert client.info("commandstats")["cmdstat_evalsha"]["calls"] - before == 99
                with pytest.raises(RateLimited):
                    await other.take(vehicle, 1)

            hits = RedisHits(valkey.url, "samples", 100, 10, timeout_s=1.0)
            await other_worker(SampleRate(hits, 10.0, 100, 1.0, failures()))
            await hits.close()

        with_rate(valkey.url, 10.0, 100, test)


def test_a_store_that_does_not_answer_lets_requests_pass() -> None:
    """One request waits its moment, the next ones do not wait at all, and each is counted."""
    counter = failures()
    with socket.create_server(("127.0.0.1", 0)) as deaf:

        async def test(rate: SampleRate) -> None:
            started = time.monotonic()
            for _ in range(50):
                await rate.take("key", 10)
            assert time.monotonic() - started < 0.5
            await asyncio.sleep(PAUSE_S)
            await rate.take("key", 10)

        with_rate(f"redis://127.0.0.1:{deaf.getsockname()[1]}/0", 1.0, 10, test, counter)
    assert counter._value.get() == 51


def test_a_cluster_counts_each_key_on_its_node(tmp_path: Path) -> None:
    """Workers share the counts on every node; without one of them its keys pass, counted, and the others keep their limit."""
    cluster = StoreCluster(tmp_path)
    counter = failures()
    keys = [f"key-{i}" for i in range(12)]
    try:
        cluster.start()
        url = cluster.url.replace("redis://", "redis-cluster://")

        async def test(one: SampleRate) -> None:
            async def other_worker(other: SampleRate) -> None:
                for key in keys:
                    await one.take(key, 60)
                    await other.take(key, 40)
                    with pytest.raises(RateLimited):
                        await (one, other)[len(key) % 2].take(key, 1)

            await beside(url, other_worker)
            holding = [{str(key).split("/")[1] for key in node.client.keys("ew:rate*")} for node in cluster.nodes]
            assert sorted(key for held in holding for key in held) == sorted(keys)
            assert all(holding)
            assert counter._value.get() == 0
            cluster.nodes[1].kill()
            for key in keys:
                if key in holding[1]:
                    await one.take(key, 1)
                else:
                    with pytest.raises(RateLimited):
                        await one.take(key, 1)
            assert counter._value.get() == len(holding[1])

        with_rate(url, 0.1, 100, test, counter, timeout_s=5.0)
    finally:
        cluster.stop()


async def beside(url: str, test: Callable[[SampleRate], Awaitable[None]]) -> None:
    """Run a test with the limit of another worker on the same store."""
    hits = RedisHits(url, "samples", 100, 1_000, timeout_s=5.0)
    await hits.start()
    await test(SampleRate(hits, 0.1, 100, 5.0, failures()))
    await hits.close()


def test_a_key_that_sends_too_much_is_a_429(tmp_path: Path, vehicle: str) -> None:
    """Through the whole service: 429 with Retry-After, nothing applied, the other key unaffected, and it passes later."""
    file = tmp_path / "keys.json"
    greedy, modest = create(file, "ingest"), create(file, "ingest", "read")
    service = ServiceProcess(tmp_path, keys_file=file, rate_limit_samples_per_s=5, rate_limit_burst=10).start()
    try:
        path = f"{service.url}/v1/vehicles/{vehicle}/telemetry"
        rows = [sample(i) for i in range(30)]
        assert httpx.post(path, json=rows[:8], headers=bearer(greedy)).status_code == 200
        refused = httpx.post(path, json=rows[8:16], headers=bearer(greedy))
        document = assert_problem(refused, 429)
        assert document["type"].endswith("rate-limited")
        assert document["verdict"] == "overloaded"
        assert int(refused.headers["Retry-After"]) == 2
        assert_problem(httpx.post(path, json=rows[8:30], headers=bearer(greedy)), 413)
        assert httpx.post(f"{path}", json=rows[8], headers=bearer(modest)).status_code == 200
        assert httpx.get(f"{service.url}/v1/vehicles/{vehicle}", headers=bearer(modest)).json()["seq"] == 8
        time.sleep(4.1)
        assert httpx.post(path, json=rows[9:17], headers=bearer(greedy)).status_code == 200
        metrics = httpx.get(f"{service.url}/metrics", headers=bearer(modest)).text
        assert 'emberwatch_samples_total{status="overloaded"} 8.0' in metrics
        assert "emberwatch_rate_limit_failures_total 0.0" in metrics
    finally:
        service.stop_if_running()
