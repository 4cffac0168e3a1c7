"""The store by itself: what it refuses to start on."""

import asyncio

import pytest
from prometheus_client import Histogram

from service.store import Store, StoreMisconfigured
from tests.processes import ValkeyProcess


def test_a_store_that_would_lose_data_is_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    """An evicting store and another number of partitions stop the start, with what to do."""
    evicting = ValkeyProcess(tmp_path_factory.mktemp("evicting"), "--maxmemory-policy", "allkeys-lru").start()
    duration = Histogram("store", "for the test", ["op"], registry=None)

    async def check(partitions: int) -> None:
        store = Store(evicting.url, partitions, 5.0, duration, entry_bytes=144)
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
