"""The page in a real Chromium: what it shows, that it follows the service, that it can be used without a mouse, that it asks nobody else."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.browser import browser, tab
from tests.processes import ServiceProcess, ValkeyProcess, free_port, wait_until
from tests.service.conftest import create, sample

START_MS = int(time.time() * 1000) - 3_600_000


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    """One browser; each test has a context of its own."""
    with browser() as started:
        yield started


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyProcess]:
    """A store that may be killed."""
    process = ValkeyProcess(tmp_path_factory.mktemp("valkey"))
    yield process.start()
    process.stop_if_running()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, valkey: ValkeyProcess) -> Iterator[ServiceProcess]:
    """A service that raises alerts at next to no risk, with a small fleet in it."""
    process = ServiceProcess(
        tmp_path_factory.mktemp("service"),
        store=valkey.url,
        alert_threshold=1e-9,  # the model knows the hour of day: at some hours this fleet's risk is next to nothing
        resolve_threshold=5e-10,
        alert_for_s=0,
    ).start()
    for i in range(12):
        drive(process, f"van-{i:02}", 20)
    drive(process, "van-hot", 700)
    yield process
    process.stop_if_running()


@pytest.fixture
def page(chrome: Any, service: ServiceProcess) -> Iterator[Any]:
    """A fresh tab at the page, which fails the test if it says an error or asks anybody but the service."""
    with tab(chrome, service.url) as opened:
        yield opened


def drive(service: ServiceProcess, vehicle: str, n: int, first: int = 0) -> None:
    """Send a vehicle's samples."""
    body = [sample(i) | {"ts": START_MS + 5_000 * i} for i in range(first, first + n)]
    answer = httpx.post(f"{service.url}/v1/vehicles/{vehicle}/telemetry", json=body, timeout=60.0)
    assert answer.status_code == 200, answer.text


def test_the_fleet_is_there_and_follows_the_service_without_a_reload(page: Any, service: ServiceProcess) -> None:
    """Vehicles are listed with their status; one that reports for the first time appears by itself; search narrows it down."""
    page.get_by_role("link", name=re.compile("^van-hot, firing")).first.wait_for()
    page.evaluate("window.notReloaded = true")
    drive(service, "van-new", 3)
    page.get_by_role("link", name=re.compile("^van-new, warming up")).wait_for()
    assert page.evaluate("window.notReloaded") is True
    page.keyboard.press("/")
    page.keyboard.type("van-0")
    page.get_by_role("link", name=re.compile("^van-new,")).wait_for(state="detached")
    assert page.locator(".rows a").count() == 10


def test_a_vehicle_is_opened_and_left_with_the_keyboard(page: Any) -> None:
    """From the list into the vehicle's charts and back, without a mouse."""
    page.get_by_role("link", name=re.compile("^van-hot,")).first.wait_for()
    page.keyboard.press("/")
    page.keyboard.type("hot")
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="van-hot").wait_for()
    page.get_by_role("img", name=re.compile("^Risk: now")).wait_for()
    page.get_by_role("img", name=re.compile("^Motor temperature:")).wait_for()
    assert page.locator(".chart canvas").count() >= 6
    page.keyboard.press("Escape")
    page.get_by_role("searchbox").wait_for()


def test_an_alert_is_acknowledged_and_silenced_on_the_page(chrome: Any, page: Any, service: ServiceProcess) -> None:
    """From the keyboard, with a name; the service knows it afterwards, and a page that is open elsewhere shows it."""
    with tab(chrome, service.url) as elsewhere:
        for opened in (page, elsewhere):
            opened.locator(".pulse", has_text="live").wait_for()
        elsewhere.keyboard.press("2")
        page.keyboard.press("2")
        card = page.locator(".view.alerts [data-alert^='van-hot.thermal_risk']")
        card.get_by_role("button", name="Acknowledge").focus()
        page.keyboard.press("Enter")
        page.get_by_label("Your name").fill("Ada")
        page.get_by_label("Note").fill("calling the driver")
        page.keyboard.press("Tab")
        page.get_by_role("dialog").get_by_role("button", name="Acknowledge").press("Enter")
        card.get_by_text("Ada is on it").wait_for()
        elsewhere.get_by_text("calling the driver").wait_for()
    alerts = httpx.get(f"{service.url}/v1/alerts", params={"vehicle_id": "van-hot"}).json()["alerts"]
    assert [alert["acknowledged"]["by"] for alert in alerts if alert["rule"] == "thermal_risk"] == ["Ada"]
    card.get_by_role("button", name="Silence").click()
    page.get_by_label("Why").fill("at the workshop")
    page.get_by_role("dialog").get_by_role("button", name="Silence").click()
    page.get_by_text("at the workshop").wait_for()
    (silence,) = httpx.get(f"{service.url}/v1/silences").json()["silences"]
    assert (silence["vehicle_id"], silence["created_by"], silence["state"]) == ("van-hot", "Ada", "active")
    page.get_by_role("button", name="End it").click()
    page.get_by_text("at the workshop").wait_for(state="detached")


@pytest.mark.parametrize("view", ["fleet", "vehicle/van-hot", "alerts", "map", "service"])
def test_nothing_keeps_anybody_out(chrome: Any, service: ServiceProcess, view: str) -> None:
    """axe-core finds nothing to complain of, in the light and in the dark, at the width of a telephone and of a desk."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for scheme, width in (("light", 1280), ("dark", 390)):
        with tab(chrome, service.url, color_scheme=scheme, viewport={"width": width, "height": 800}) as page:
            page.goto(f"{service.url}/dashboard/#/{view}")
            page.locator(".pulse", has_text="live").wait_for()
            page.locator("h1").first.wait_for(state="attached")
            found = axe.run(page).response["violations"]
            assert [(one["id"], [node["html"] for node in one["nodes"]][:3]) for one in found] == []
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_store_that_is_gone_is_said_plainly_and_so_is_its_return(
    page: Any, service: ServiceProcess, valkey: ValkeyProcess
) -> None:
    """The banner says what is wrong and of when the figures are; they stay, and the banner goes when the store is back."""
    page.get_by_role("link", name=re.compile("^van-hot,")).first.wait_for()
    valkey.kill()
    banner = page.locator("#banner")
    banner.get_by_text("The store does not answer").wait_for()
    assert "What is shown is from" in banner.inner_text()
    assert page.get_by_role("link", name=re.compile("^van-hot,")).first.is_visible()
    valkey.start()
    banner.wait_for(state="hidden")
    drive(service, "van-back", 2)
    page.get_by_role("link", name=re.compile("^van-back,")).wait_for()


@pytest.mark.usefixtures("service")  # whose fleet is in the store
def test_with_keys_the_page_asks_for_one_and_keeps_it_out_of_addresses(
    chrome: Any, valkey: ValkeyProcess, tmp_path: Path
) -> None:
    """The files are open, the figures are not; a key that may read shows them and may not acknowledge. Beside the service as in it."""
    key = create(tmp_path / "keys.json", "read")
    guarded = ServiceProcess(tmp_path, store=valkey.url, keys_file=tmp_path / "keys.json").start()
    try:
        with beside(guarded) as url, tab(chrome, url) as page:
            dialog = page.get_by_role("dialog")
            dialog.get_by_label("API key").fill("ew_0_wrong")
            dialog.get_by_role("button", name="Use this key").click()
            dialog.get_by_text("unknown or revoked").wait_for()
            dialog.get_by_label("API key").fill(key)
            dialog.get_by_role("button", name="Use this key").click()
            page.get_by_role("link", name=re.compile("^van-hot,")).first.wait_for()
            refused = httpx.post(f"{url}/v1/vehicles/van-hot/sessions", headers={"Authorization": f"Bearer {key}"})
            assert refused.status_code == 404  # not the page's to ask
            assert page.evaluate("document.cookie + location.href").count(key) == 0
    finally:
        guarded.stop_if_running()


@contextmanager
def beside(service: ServiceProcess) -> Iterator[str]:
    """`emberwatch dashboard` for a service, in a process of its own; its URL."""
    port = free_port()
    command = [sys.executable, "-m", "service.cli", "dashboard", "--service", service.url, "--port", str(port)]
    process = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        try:
            return httpx.get(f"{url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(answers, f"the page at {url}")
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)
