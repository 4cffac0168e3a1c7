"""Two workers behind HAProxy with the configuration that is shipped, with stickiness and without."""

import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.balancer import Balancer
from tests.chaos.conftest import StartWorker
from tests.chaos.counters import counter
from tests.chaos.senders import Fleet
from tests.chaos.truth import check
from tests.processes import ServiceProcess, ValkeyProcess, wait_until

CONFLICTS = "emberwatch_commit_conflicts_total"


@pytest.fixture(autouse=True)
def _haproxy_installed() -> None:
    if shutil.which("haproxy") is None:
        message = "haproxy is not installed (Debian: apt-get install haproxy)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture
def workers(store: ValkeyProcess, start_worker: StartWorker) -> list[ServiceProcess]:
    """Two on one store."""
    return [start_worker(store.url) for _ in range(2)]


@pytest.fixture
def sticky(tmp_path: Path, workers: list[ServiceProcess]) -> Iterator[Balancer]:
    """As shipped."""
    balancer = Balancer(tmp_path / "haproxy.cfg", workers, sticky=True)
    yield balancer
    balancer.stop()


@pytest.fixture
def restless(tmp_path: Path, workers: list[ServiceProcess]) -> Iterator[Balancer]:
    """Requests take turns, whichever van they are of."""
    balancer = Balancer(tmp_path / "haproxy.cfg", workers, sticky=False)
    yield balancer
    balancer.stop()


def test_every_van_stays_with_one_worker_until_that_dies(
    seed: int, rng: random.Random, sticky: Balancer, workers: list[ServiceProcess]
) -> None:
    """No commit is lost to the other worker; one dies under load and comes back, and every state is exact."""
    fleet = Fleet([sticky.url], seed, n_vans=16)
    with fleet.sending():
        time.sleep(1.5)
        with fleet.silence():
            slots = [counter(worker.url, "emberwatch_slots_used") for worker in workers]
            assert sum(slots) == 16, "every van is in the memory of one worker only"
            assert min(slots) > 0, "the vans are spread"
            assert [counter(worker.url, CONFLICTS) for worker in workers] == [0, 0]
        victim = rng.choice(workers)
        time.sleep(rng.uniform(0.1, 0.5))
        victim.kill()
        time.sleep(rng.uniform(1.0, 2.5))
        victim.start()
        time.sleep(2.0)
    check(sticky.url, fleet.vans)
    assert counter(victim.url, "emberwatch_slots_used") > 0, "its vans came back"


def test_without_stickiness_it_is_slower_and_right(
    seed: int, restless: Balancer, workers: list[ServiceProcess]
) -> None:
    """Every van visits both workers: commits are lost and made again, every state is exact. Without workers: a 503."""
    fleet = Fleet([restless.url], seed)
    with fleet.sending():
        time.sleep(2.5)
    check(restless.url, fleet.vans)
    assert sum(counter(worker.url, CONFLICTS) for worker in workers) > 0
    assert all(counter(worker.url, "emberwatch_slots_used") == len(fleet.vans) for worker in workers)
    for worker in workers:
        worker.kill()
    wait_until(lambda: httpx.get(f"{restless.url}/readyz").status_code == 503, "the proxy to notice", timeout_s=20)
    answer = httpx.post(f"{restless.url}/v1/vehicles/van/telemetry", json={})
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["type"] == "urn:emberwatch:problem:no-worker"
