"""The store by itself: what it refuses to start on."""

import asyncio

import pytest
from prometheus_client import Histogram

from service.store.store import Store
from service.store.store_check import Durability, StoreMisconfigured
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


def test_durability_fsync_is_refused_where_nothing_is_written_to_disk(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A store without an append-only file cannot promise what `fsync` says; `everysec` starts with a warning."""
    forgetful = ValkeyProcess(tmp_path_factory.mktemp("forgetful"), "--appendonly", "no").start()
    duration = Histogram("store", "for the test", ["op"], registry=None)

    async def check(durability: Durability) -> None:
        store = Store(forgetful.url, 4, 5.0, duration, entry_bytes=144, durability=durability)
        try:
            await store.check()
        finally:
            await store.close()

    try:
        with pytest.raises(StoreMisconfigured, match="CONFIG SET appendonly yes"):
            asyncio.run(check("fsync"))
        asyncio.run(check("everysec"))
        with forgetful.client as client:
            client.config_set("appendonly", "yes")
        with pytest.raises(StoreMisconfigured, match="CONFIG SET appendfsync always"):
            asyncio.run(check("fsync"))  # WAITAOF answers too early under everysec: ADR 7
        with forgetful.client as client:
            client.config_set("appendfsync", "always")
        asyncio.run(check("fsync"))
        with forgetful.client as client:
            client.execute_command("ACL", "SETUSER", "default", "-config")
        with pytest.raises(StoreMisconfigured, match="Allow CONFIG GET"):
            asyncio.run(check("fsync"))
    finally:
        forgetful.kill()  # asked to stop while it begins its append-only file, it would go on
