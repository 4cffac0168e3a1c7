"""A real Prometheus Alertmanager receives alerts, keeps them through its own restart, and passes on their end."""

import asyncio
from pathlib import Path

import httpx
import pytest

from service.delivery.notice import Notice
from service.delivery.payloads import body_of
from service.delivery.sinks_file import WebhookSink
from tests.e2e.alertmanager import alertmanager, held, need_alertmanager, statuses
from tests.processes import ValkeyProcess, free_port
from tests.service.delivery.outboxes import alert, commit, sinks_of, until, webhook, working
from tests.service.delivery.receivers import Receiver, receiving


@pytest.fixture(autouse=True)
def _alertmanager_installed() -> None:
    need_alertmanager()


def test_an_alert_fires_escalates_survives_a_restart_and_resolves(tmp_path: Path) -> None:
    """Alertmanager shows it firing; restarted without memory it is told again; when it is over nothing is left."""
    valkey = ValkeyProcess(tmp_path / "valkey").start()
    port = free_port()
    text = f'[[sink]]\nname = "am"\nkind = "alertmanager"\nurl = "http://127.0.0.1:{port}"\nrepeat_s = 1\n'
    text += "first_retry_s = 0.1\nlongest_retry_s = 0.5\n"

    async def scenario(receiver: Receiver) -> None:
        with valkey.client as client:
            async with working(valkey.url, sinks_of(tmp_path, text)) as worker:
                with alertmanager(tmp_path, port, receiver) as url:
                    commit(client, alert("van-1", "firing", 0), alert("van-2", "firing", 0))
                    await until(lambda: set(held(url)) == {("van-1", "warning"), ("van-2", "warning")}, "both to fire")
                    commit(client, alert("van-1", "escalated", 1, severity="critical"))
                    await until(
                        lambda: set(held(url)) == {("van-1", "critical"), ("van-2", "warning")}, "the escalation"
                    )
                    await until(lambda: len(receiver.got) >= 2, "its own notices")
                with alertmanager(tmp_path, port, receiver) as url:
                    await until(lambda: set(held(url)) == {("van-1", "critical"), ("van-2", "warning")}, "repeats")
                    commit(client, alert("van-1", "resolved", 2, severity="critical"))
                    commit(client, alert("van-2", "stale", 1))
                    await until(lambda: set(held(url)) == {("van-2", "warning")}, "the end of one")
                    await until(lambda: statuses(receiver, "van-1")[-1:] == ["resolved"], "it to be passed on")
                    await asyncio.sleep(2.5)  # the repeats go on, and bring nothing back to life
                    assert set(held(url)) == {("van-2", "warning")}
            assert worker.count("am", "repeated") > 0
            assert worker.count("am", "dead") == 0

    try:
        with receiving() as receiver:
            asyncio.run(scenario(receiver))
            assert "firing" in statuses(receiver, "van-2")
            assert "resolved" not in statuses(receiver, "van-2")  # a vehicle that is silent resolves nothing
            assert_same_shape(receiver, tmp_path)
    finally:
        valkey.stop_if_running()


def assert_same_shape(receiver: Receiver, folder: Path) -> None:
    """Our own webhook has the members that Alertmanager's has, of the same types."""
    (sink,) = sinks_of(folder, webhook("hook", "http://127.0.0.1:1/x"))
    assert isinstance(sink, WebhookSink)
    notice = Notice.of(alert("van-2"), 0)
    ours = httpx.Response(200, content=body_of(sink, notice, 0)[0]).json()
    theirs = next(got.json for got in receiver.got if got.json["groupLabels"]["vehicle_id"] == "van-2")
    assert ours.keys() == theirs.keys()
    assert {name: type(value) for name, value in ours.items()} == {name: type(value) for name, value in theirs.items()}
    assert ours["alerts"][0].keys() == theirs["alerts"][0].keys()
    assert ours["groupLabels"] == theirs["groupLabels"]
    assert ours["commonLabels"] == theirs["commonLabels"]
    assert ours["alerts"][0]["endsAt"] == theirs["alerts"][0]["endsAt"] == "0001-01-01T00:00:00Z"
