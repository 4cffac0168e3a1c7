"""One service for the tests that only talk to it, and one Valkey for those that look at the store."""

import itertools
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from model.checkpoint import Checkpoint, load_checkpoint
from tests.processes import ServiceProcess, ValkeyProcess

START_MS = 1_760_000_000_000


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """A running service with the embedded store and small limits."""
    process = ServiceProcess(
        tmp_path_factory.mktemp("service"),
        max_body_bytes=1_000_000,
        max_queue=4_096,
        max_samples_per_request=500,
        max_vehicles_per_request=300,
    )
    yield process.start()
    process.stop_if_running()


@pytest.fixture(scope="session")
def http(service: ServiceProcess) -> Iterator[httpx.Client]:
    """A client of it."""
    with httpx.Client(base_url=service.url, timeout=60.0) as client:
        yield client


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProcess]:
    """A running Valkey, emptied by nobody: tests use vehicles of their own."""
    process = ValkeyProcess(tmp_path_factory.mktemp("valkey"))
    yield process.start()
    process.stop_if_running()


@pytest.fixture(scope="session")
def checkpoint() -> Checkpoint:
    """The shipped model."""
    return load_checkpoint()


_numbers = itertools.count()


@pytest.fixture
def vehicle() -> str:
    """An id that no other test uses."""
    return f"van-{next(_numbers)}"


def sample(i: int = 0, **signals: float) -> dict[str, Any]:
    """The i-th sample of a plausible drive."""
    values = {
        "latitude": 48.0 + 1e-4 * i,
        "longitude": 11.0,
        "speed": 2.2 + 0.1 * (i % 5),
        "state_of_charge": 80.0 - 0.01 * i,
        "motor_temperature": 60.0 + i % 3,
        "brake_events": float(i % 2),
    }
    return {"ts": START_MS + 5_000 * i, "seq": i, "signals": values | signals}
