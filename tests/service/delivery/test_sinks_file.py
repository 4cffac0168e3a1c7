"""The sinks file: what it refuses, and that no secret gets out of it."""

import json
from pathlib import Path

import pytest

from service.cli.serve import masked
from service.delivery.sinks_file import PagerDutySink, SinksFileError, WebhookSink, read_sinks, shown
from service.settings import Settings
from tests.service.delivery.outboxes import sinks_of
from tests.service.delivery.receivers import SECRET

GOOD = '[[sink]]\nname = "a"\nkind = "webhook"\nurl = "https://example.org/hook"\nsecrets = [SECRET]\n'


def test_every_kind_of_sink_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All four kinds, secrets from a file and from the environment, with the defaults of each."""
    monkeypatch.setenv("PAGERDUTY_KEY", "R" * 32)
    text = GOOD + (
        '[[sink]]\nname = "b"\nkind = "cloudevents"\nurl = "http://127.0.0.1:1/x"\nsecrets = [SECRET, SECRET]\n'
        '[[sink]]\nname = "c"\nkind = "alertmanager"\nurl = "http://am:9093"\nplain_http = true\n'
        '[[sink]]\nname = "d"\nkind = "pagerduty"\nrouting_key = { env = "PAGERDUTY_KEY" }\n'
    )
    a, b, c, d = sinks_of(tmp_path, text)
    assert isinstance(a, WebhookSink)
    assert a.secrets[0].value.get_secret_value() == SECRET
    assert [sink.kind for sink in (b, c)] == ["cloudevents", "alertmanager"]
    assert isinstance(d, PagerDutySink)
    assert d.routing_key.value.get_secret_value() == "R" * 32
    assert "acknowledged" in d.transitions
    assert "acknowledged" not in a.transitions


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[sink]", "is not TOML"),
        (GOOD + GOOD, "two sinks are named a"),
        (GOOD.replace('"webhook"', '"smoke"'), "sink a"),
        (GOOD.replace("https://example.org", "http://example.org"), "sink a: url is http:// to another machine"),
        (GOOD.replace("https://", "https://user:hunter2@"), "sink a.url: must not contain a password"),
        (GOOD.replace("https://example.org/hook", "ftp://example.org"), "sink a.url: must be https://host"),
        (GOOD.replace("SECRET", '"whsec_hunter2"'), "sink a.secrets.0: a secret is named, not written here"),
        (GOOD.replace("SECRET", '{ env = "NOT_SET_ANYWHERE" }'), "variable NOT_SET_ANYWHERE is not set, or empty"),
        (GOOD.replace("SECRET", '{ file = "/nowhere" }'), "file /nowhere cannot be read"),
        (GOOD.replace("SECRET", '{ env = "HUNTER" }'), "sink a.secrets: must be 24 to 64 bytes in base64, has 5"),
        (GOOD + "timeout_s = 0\n", "sink a.timeout_s"),
        (GOOD + "tiemout_s = 1\n", "sink a.tiemout_s: Extra inputs are not permitted"),
        (GOOD + 'transitions = ["lapsed"]\n', "sink a.transitions.0"),
        (GOOD + 'ca_file = "/nowhere.pem"\n', "ca_file /nowhere.pem is not a file"),
        (
            '[[sink]]\nname = "c"\nkind = "alertmanager"\nurl = "https://am"\nrepeat_s = 60\nexpire_s = 100\n',
            "sink c: expire_s (100) must be at least three times repeat_s (60)",
        ),
    ],
)
def test_a_mistake_is_named_and_no_value_shown(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has the sink, the field and the reason, and nothing that might be a secret."""
    monkeypatch.setenv("HUNTER", "aHVudGU=")
    with pytest.raises(SinksFileError) as caught:
        sinks_of(tmp_path, text)
    assert message in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "aHVudGU" not in str(caught.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    """Its path and the reason."""
    with pytest.raises(SinksFileError, match=r"sinks\.toml cannot be read: No such file"):
        read_sinks(tmp_path / "sinks.toml")


def test_settings_are_printed_without_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `serve --print-settings` prints of the sinks: where a secret is, never what it is, and no path of a URL."""
    monkeypatch.setenv("TOKEN", "hunter2")
    sinks_of(tmp_path, GOOD + 'headers = { Authorization = { env = "TOKEN", prefix = "Bearer " } }\n')
    printed = json.dumps(masked(Settings(sinks_file=tmp_path / "sinks.toml")))
    (sink,) = json.loads(printed)["sinks"]
    assert sink["url"] == "https://example.org/***"
    assert sink["secrets"] == [{"file": str(tmp_path / "secret"), "prefix": ""}]
    assert sink["headers"] == {"Authorization": {"env": "TOKEN", "prefix": "Bearer "}}
    for secret in ("hunter2", SECRET, SECRET.removeprefix("whsec_"), "/hook"):
        assert secret not in printed


def test_a_sink_shows_nothing_when_it_is_logged(tmp_path: Path) -> None:
    """Neither its repr nor what is shown of it has the secret."""
    (sink,) = sinks_of(tmp_path, GOOD)
    assert SECRET not in repr(sink)
    assert SECRET not in str(shown(sink))
