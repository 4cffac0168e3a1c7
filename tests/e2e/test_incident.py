"""From a fault to its repair: one incident through the service, a signed webhook, an Alertmanager and the page."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.alertmanager import alertmanager, held, need_alertmanager, statuses
from tests.e2e.browser import browser, tab
from tests.e2e.incident import A_MINUTE_MS, BEFORE_MS, Incident, backfill, foresee, stream
from tests.processes import ServiceProcess, free_port, wait_until
from tests.service.delivery.receivers import SECRET, Receiver, receiving

SPEED = 60.0


@pytest.fixture
def hook() -> Iterator[Receiver]:
    """Who takes our signed webhooks."""
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def pager() -> Iterator[Receiver]:
    """Whom the Alertmanager tells."""
    with receiving() as receiver:
        yield receiver


def sinks_file(folder: Path, hook: Receiver, alertmanager_port: int) -> Path:
    """Both sinks; the webhook is also told who acknowledges."""
    (folder / "secret").write_text(SECRET)
    path = folder / "sinks.toml"
    path.write_text(
        f'[[sink]]\nname = "hook"\nkind = "webhook"\nurl = "{hook.url}"\nsecrets = [{{ file = "{folder / "secret"}" }}]\n'
        'transitions = ["firing", "escalated", "acknowledged", "stale", "resolved"]\n'
        f'[[sink]]\nname = "am"\nkind = "alertmanager"\nurl = "http://127.0.0.1:{alertmanager_port}"\n'
    )
    return path


def test_a_fault_is_told_seen_acknowledged_mended_and_over(tmp_path: Path, hook: Receiver, pager: Receiver) -> None:
    """At 60 times real time, shipped weights and thresholds; the times are those that the evaluation foresees."""
    need_alertmanager()
    port = free_port()
    sinks = sinks_file(tmp_path, hook, port)
    with browser() as chrome, alertmanager(tmp_path, port, pager) as told, ThreadPoolExecutor(1) as road:
        incident = foresee()
        service = ServiceProcess(tmp_path, sinks_file=sinks, telemetry_anomaly=True).start()
        try:
            backfill(service.url, incident.between(0, incident.fired_ms - BEFORE_MS))
            with tab(chrome, service.url) as page:
                row(page, incident.ill, "quiet").wait_for()
                page.evaluate("window.notReloaded = true")
                part = incident.between(incident.fired_ms - BEFORE_MS, incident.mended_ms)
                sending = road.submit(stream, service.url, part, SPEED)
                wait_until(lambda: said(hook, incident)[:1] == ["firing"], "the webhook")
                wait_until(lambda: vehicles(told) == {incident.ill}, "the Alertmanager")
                row(page, incident.ill, "firing").wait_for()
                acknowledge(page, incident.ill)
                wait_until(lambda: "acknowledged" in said(hook, incident), "the webhook to know who has it")
                sending.result(timeout=120)
                assert record(service, incident)["phase"] in {"firing", "recovering"}
                sending = road.submit(stream, service.url, incident.between(incident.mended_ms, 2**62), SPEED)
                wait_until(lambda: said(hook, incident)[-1] == "resolved", "the webhook to be told of the end")
                sending.result(timeout=120)
                wait_until(lambda: vehicles(told) == set(), "the Alertmanager to be told of the end")
                wait_until(lambda: statuses(pager, incident.ill)[-1:] == ["resolved"], "its own receiver")
                over_on_the_page(page, incident.ill)
            assert_one_alert_and_its_reasons(service, incident)
            assert_the_webhook_heard_one_story(hook, incident)
            assert "firing" in statuses(pager, incident.ill)
        finally:
            service.stop_if_running()


def row(page: Any, vehicle: str, word: str) -> Any:
    """The vehicle's row in the fleet's list, once it says this word."""
    return page.get_by_role("link", name=re.compile(f"^{vehicle}, {word}")).first


def acknowledge(page: Any, vehicle: str) -> None:
    """As an operator does it who sees the alert beside the list."""
    card = page.get_by_role("complementary").locator(f"[data-alert^='{vehicle}.thermal_risk']")
    card.get_by_role("button", name="Acknowledge").click()
    page.get_by_label("Your name").fill("Ada")
    page.get_by_label("Note").fill("it comes to the workshop")
    page.get_by_role("dialog").get_by_role("button", name="Acknowledge").click()
    card.get_by_text("Ada is on it").wait_for()
    row(page, vehicle, "firing, acknowledged").wait_for()


def over_on_the_page(page: Any, vehicle: str) -> None:
    """The vehicle is quiet, nobody is needed, and the alert is among the past ones with who had it; without a reload."""
    row(page, vehicle, "quiet").wait_for()
    page.get_by_text("Nothing needs you now.").wait_for()
    page.keyboard.press("2")
    card = page.locator(f".view.alerts .is-resolved[data-alert^='{vehicle}.thermal_risk']")
    card.get_by_text("Ada is on it").wait_for()
    page.get_by_text("No alert is open.").wait_for()
    assert page.evaluate("window.notReloaded") is True


def notices(hook: Receiver) -> list[dict[str, Any]]:
    """What the webhook was told, each signature found good; what was told again with the same id is the same, and left out."""
    found: dict[str, dict[str, Any]] = {}
    for got in list(hook.got):
        assert found.setdefault(got.id, got.verified()) == got.json
    return list(found.values())


def said(hook: Receiver, incident: Incident) -> list[str]:
    """The webhook's story of the vehicle's risk, in order: the status, or that somebody has it."""
    found = []
    for notice in notices(hook):
        (alert,) = notice["alerts"]
        assert (alert["labels"]["vehicle_id"], alert["labels"]["rule"]) == (incident.ill, "thermal_risk")
        acknowledged = notice["status"] == "firing" and "acknowledged_by" in alert["annotations"]
        found.append("acknowledged" if acknowledged else notice["status"])
    return found


def vehicles(alertmanager_url: str) -> set[str]:
    """Of which the Alertmanager holds an alert."""
    return {vehicle for vehicle, _ in held(alertmanager_url)}


def record(service: ServiceProcess, incident: Incident) -> dict[str, Any]:
    """The vehicle's only alert, by the read API."""
    (alert,) = httpx.get(f"{service.url}/v1/alerts", params={"vehicle_id": incident.ill}).json()["alerts"]
    assert alert["rule"] == "thermal_risk"
    return dict(alert)


def assert_one_alert_and_its_reasons(service: ServiceProcess, incident: Incident) -> None:
    """It fired and resolved when it should by the vehicle's clock, says why, and the healthy van had none."""
    alerts = httpx.get(f"{service.url}/v1/alerts").json()["alerts"]
    assert [alert["vehicle_id"] for alert in alerts] == [incident.ill]
    alert = record(service, incident)
    assert alert["phase"] == "resolved"
    assert abs(alert["fired_ms"] - incident.fired_ms) <= A_MINUTE_MS
    assert abs(alert["resolved_ms"] - incident.resolved_ms) <= A_MINUTE_MS
    assert incident.mended_ms < alert["resolved_ms"]
    assert alert["acknowledged"]["by"] == "Ada"
    assert alert["peak_risk"] >= alert["threshold"]
    assert alert["contributions"]
    assert alert["position"] is not None
    vans = {van["vehicle_id"]: van for van in httpx.get(f"{service.url}/v1/vehicles").json()["vehicles"]}
    assert vans.keys() == {incident.ill, incident.healthy}


def assert_the_webhook_heard_one_story(hook: Receiver, incident: Incident) -> None:
    """All is of one alert; it fires once, ends once and last, and the end knows who had it."""
    told = notices(hook)
    assert {notice["alerts"][0]["fingerprint"] for notice in told} == {told[0]["alerts"][0]["fingerprint"]}
    story = said(hook, incident)
    assert (story[0], story[-1]) == ("firing", "resolved")
    assert story.count("resolved") == 1
    assert told[-1]["alerts"][0]["annotations"]["acknowledged_by"] == "Ada"
