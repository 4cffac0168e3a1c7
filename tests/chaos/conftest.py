"""Seeds, repetition, and the processes that every scenario needs."""

import os
import random
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.chaos.power import build_ledger
from tests.processes import ServiceProcess, ValkeyProcess

ROUNDS = int(os.environ.get("EMBERWATCH_CHAOS_ROUNDS", "1"))
RUN = os.environ.get(
    "PYTEST_XDIST_TESTRUNUID", uuid.uuid4().hex
)  # the processes of a run must agree on the names of tests
FIRST_SEED = int(os.environ.get("EMBERWATCH_CHAOS_SEED", int(RUN, 16) % 1_000_000))

StartWorker = Callable[..., ServiceProcess]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Each scenario runs EMBERWATCH_CHAOS_ROUNDS times; its seed is in its name, and EMBERWATCH_CHAOS_SEED repeats it."""
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", range(FIRST_SEED, FIRST_SEED + ROUNDS), ids="seed-{}".format)


@pytest.fixture
def rng(seed: int) -> random.Random:
    """When and where things happen."""
    return random.Random(seed)  # noqa: S311  (reproducible, not secret)


@pytest.fixture(scope="session")
def fsync_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library that makes a store's power cuttable."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: no power cut can be played (Debian: apt-get install g++)")
    return build_ledger(tmp_path_factory.mktemp("ledger"))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ValkeyProcess]:
    """A Valkey of the scenario's own, everysec."""
    process = ValkeyProcess(tmp_path / "store").start()
    yield process
    process.stop_if_running()


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[StartWorker]:
    """Starts a worker on a store's URL with short timeouts; all end with the test."""
    workers: list[ServiceProcess] = []

    def start(store_url: str, **settings: object) -> ServiceProcess:
        options = {"store_timeout_s": 1.0, "max_batch_size": 64, "slots": 160} | settings
        worker = ServiceProcess(tmp_path, store=store_url, name=f"worker-{len(workers)}", **options)  # type: ignore[arg-type]
        workers.append(worker)
        return worker.start()

    yield start
    for worker in workers:
        worker.stop_if_running()
