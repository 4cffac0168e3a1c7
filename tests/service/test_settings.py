"""Settings refuse what cannot work, by name."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from service.cli.serve import masked
from service.settings import Settings, is_loopback


def test_other_than_loopback_needs_an_explicit_word() -> None:
    """Without API keys the service is not opened to a network by accident."""
    with pytest.raises(ValidationError, match="not loopback"):
        Settings(host="0.0.0.0")  # noqa: S104
    assert Settings(host="0.0.0.0", allow_open_network=True).host == "0.0.0.0"  # noqa: S104
    assert Settings(host="0.0.0.0", keys_file=Path("keys.json")).host == "0.0.0.0"  # noqa: S104
    assert is_loopback("::1")
    assert is_loopback("localhost")
    assert not is_loopback("example.org")


def test_settings_come_from_the_environment_and_typing_errors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """EMBERWATCH_* sets; a wrong value names its setting."""
    monkeypatch.setenv("EMBERWATCH_MAX_WAIT_MS", "7.5")
    assert Settings().max_wait_ms == 7.5
    monkeypatch.setenv("EMBERWATCH_BACKEND", "cdua")
    with pytest.raises(ValidationError, match="backend"):
        Settings()


def test_sizes_that_contradict_each_other_are_refused() -> None:
    """A batch must fit the slots, a request the queue."""
    with pytest.raises(ValidationError, match=r"slots \(100\) must exceed max_batch_size"):
        Settings(slots=100)
    with pytest.raises(ValidationError, match="must hold two bodies"):
        Settings(max_body_bytes=200_000_000)
    with pytest.raises(ValidationError, match="must fit max_queue"):
        Settings(max_queue=10)


def test_printed_settings_hide_the_password() -> None:
    """`serve --print-settings` may be pasted into a ticket."""
    assert masked(Settings(store="redis://me:secret@db:6379/0"))["store"] == "redis://me:***@db:6379/0"
    assert "secret" not in masked(Settings(store="redis://db:6379/0?password=secret"))["store"]
    assert masked(Settings(store="redis://db:6379/0"))["store"] == "redis://db:6379/0"
    assert masked(Settings())["store"] == "embedded"
