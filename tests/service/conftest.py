"""One service for the tests that only talk to it, and one Valkey for those that look at the store."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.checkpoint import Checkpoint, load_checkpoint
from service.gate.keys import edit_keys, new_key
from tests.processes import ServiceProcess, ValkeyProcess

START_MS = 1_760_000_000_000
BESIEGED_CONNECTIONS, HEAD_S, BODY_S = 1_500, 4.0, 3.0  # limits of the besieged service


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
def besieged_keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key file that tests add to."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    create(file, "read", name="first")
    return file


@pytest.fixture(scope="session")
def fleet_key(besieged_keys: Path) -> str:
    """What the fleet's gateway sends with."""
    return create(besieged_keys, "ingest", "read")


@pytest.fixture(scope="session")
def besieged_service(
    tmp_path_factory: pytest.TempPathFactory, besieged_keys: Path, fleet_key: str
) -> Iterator[ServiceProcess]:
    """A service with keys and small limits, for hostile senders."""
    assert fleet_key
    process = ServiceProcess(
        tmp_path_factory.mktemp("overload"),
        keys_file=besieged_keys,
        max_connections=BESIEGED_CONNECTIONS,
        head_timeout_s=HEAD_S,
        body_timeout_s=BODY_S,
        max_body_bytes=1_000_000,
        max_inflight_bytes=8_000_000,
        slots=600,
    )
    yield process.start()
    process.stop_if_running()


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


def create(file: Path, *scopes: str, name: str = "test") -> str:
    """A new key in the file."""
    record, key = new_key(name, scopes)
    with edit_keys(file) as keys:
        keys[record.id] = record
    return key


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
