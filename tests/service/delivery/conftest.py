"""A Valkey for the outboxes, empty at the start of each test."""

from collections.abc import Iterator

import pytest
import redis

from tests.processes import ValkeyProcess


@pytest.fixture(scope="session")
def _outboxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProcess]:
    process = ValkeyProcess(tmp_path_factory.mktemp("outboxes"))
    yield process.start()
    process.stop_if_running()


@pytest.fixture
def store(_outboxes: ValkeyProcess) -> Iterator["redis.Redis"]:
    """A client of it."""
    with _outboxes.client as client:
        client.flushall()
        yield client


@pytest.fixture
def url(_outboxes: ValkeyProcess) -> str:
    """Its URL."""
    return _outboxes.url
