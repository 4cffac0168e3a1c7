"""docs/delivery.md says what is so: its file of sinks is read, its table has the defaults, its code runs."""

import re
from pathlib import Path

import pytest
from standardwebhooks import Webhook

from service.delivery.hub import KEPT, SERVED_PER_S
from service.delivery.outbox import DEAD_LETTERS, LIMIT, RETAINED
from service.delivery.payloads import JSON
from service.delivery.sink_client import MOST_OF_AN_ANSWER, NEVER_AGAIN, SinkClient
from service.delivery.sinks_file import AlertmanagerSink, PagerDutySink, Sink, read_sinks
from service.observe.metrics import Metrics
from service.settings import Settings
from tests.conftest import REPOSITORY
from tests.service.delivery.receivers import SECRET

TEXT = (REPOSITORY / "docs" / "delivery.md").read_text()


def block(language: str) -> str:
    """The only code block of a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    return str(found)


def test_the_example_is_read_and_its_receiver_verifies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All sinks of the page, and the page's own receiver takes what its webhook signs."""
    for name in ("DEPOT_SECRET", "PAGERDUTY_KEY"):
        monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("DEPOT_TOKEN", "t")
    (tmp_path / "sinks.toml").write_text(block("toml"))
    sinks = read_sinks(tmp_path / "sinks.toml")
    assert [sink.kind for sink in sinks] == ["alertmanager", "webhook", "cloudevents", "pagerduty"]
    assert sinks[1].headers["Authorization"].value.get_secret_value() == "Bearer t"
    scope: dict[str, object] = {}
    exec(block("python"), scope)  # noqa: S102  (it is ours)
    receive = scope["receive"]
    assert callable(receive)
    signed = SinkClient(sinks[1]).signed("van-1.thermal_risk.1.2-3", b'{"a": 1}')
    assert receive(b'{"a": 1}', signed | {"content-type": JSON}, SECRET) == {"a": 1}
    with pytest.raises(Exception, match="No matching signature"):
        receive(b'{"a": 2}', signed, SECRET)
    assert Webhook(SECRET)


def test_the_figures_are_the_codes() -> None:
    """Defaults, bounds and codes."""
    table = dict(re.findall(r"^\| (`[^|]*`) \| ([^|]*) \|", TEXT, re.MULTILINE))
    for names, model in (
        ("timeout_s", Sink), ("first_retry_s longest_retry_s", Sink), ("retry_for_s", Sink), ("concurrency", Sink),
        ("repeat_s expire_s", AlertmanagerSink),
    ):  # fmt: skip
        shown = table[", ".join(f"`{name}`" for name in names.split())]
        assert shown == ", ".join(f"{model.model_fields[name].default:,g}" for name in names.split())
    for word in PagerDutySink.model_fields["transitions"].default:
        assert f"`{word}`" in table["`transitions`"]
    for number in (RETAINED, LIMIT, DEAD_LETTERS, KEPT, SERVED_PER_S, Settings().max_listeners):
        assert f"{number:,}" in TEXT
    assert f"{MOST_OF_AN_ANSWER // 1024} KiB" in TEXT
    final = "400, 410, 413, 415 and 422 are final"
    assert final in TEXT
    assert {int(code) for code in re.findall(r"\d+", final)} == NEVER_AGAIN


def test_the_metrics_of_the_page_exist() -> None:
    """By name and labels."""
    families = {family.name for family in Metrics().registry.collect()}
    named = set(re.findall(r"`(emberwatch_[a-z_]+)", TEXT))
    assert len(named) >= 8
    assert {name.removesuffix("_total") for name in named} <= families
