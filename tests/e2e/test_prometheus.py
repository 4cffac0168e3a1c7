"""A real Prometheus scrapes the running service, with the scrape configuration that is shipped."""

import os
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.conftest import REPOSITORY
from tests.processes import ServiceProcess, free_port, wait_until


@pytest.fixture(autouse=True)
def _prometheus_installed() -> None:
    if shutil.which("prometheus") is None or shutil.which("promtool") is None:
        message = "prometheus and promtool are not installed (Debian: apt-get install prometheus)"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@pytest.fixture
def busy_service(tmp_path: Path) -> "ServiceProcess":
    """A service that has seen a few requests of each kind."""
    service = ServiceProcess(tmp_path).start()
    for i in range(3):
        sample = {"ts": 1_760_000_000_000 + 5_000 * i, "seq": i, "signals": {"speed": 3.0}}
        httpx.post(f"{service.url}/v1/vehicles/van-1/telemetry", json=sample).raise_for_status()
    httpx.post(f"{service.url}/v1/vehicles/van-1/telemetry", json={})
    httpx.get(f"{service.url}/nothing")
    return service


def test_the_exposition_is_clean(busy_service: ServiceProcess) -> None:
    """`promtool check metrics` finds nothing to say about names, types or help texts."""
    try:
        text = httpx.get(f"{busy_service.url}/metrics").text
        done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    finally:
        busy_service.stop_if_running()


def test_prometheus_scrapes_the_service(busy_service: ServiceProcess, tmp_path: Path) -> None:
    """The shipped configuration, pointed at our port, brings the samples' count into Prometheus."""
    shipped = (REPOSITORY / "deploy" / "prometheus" / "prometheus.yml").read_text()
    assert "127.0.0.1:8000" in shipped
    config = tmp_path / "prometheus.yml"
    rules = REPOSITORY / "deploy" / "prometheus" / "rules"
    shipped = shipped.replace("rules/*.yml", f"{rules}/*.yml").replace("5s", "1s")
    config.write_text(shipped.replace("127.0.0.1:8000", f"127.0.0.1:{busy_service.port}"))
    subprocess.run(["promtool", "check", "config", str(config)], check=True, capture_output=True)
    url = f"http://127.0.0.1:{free_port()}"
    prometheus = subprocess.Popen(
        [
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={tmp_path / 'tsdb'}",
            f"--web.listen-address={url.removeprefix('http://')}",
        ],
        stderr=subprocess.DEVNULL,
    )

    def query(expression: str) -> list[str]:
        try:
            answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}).json()
        except httpx.TransportError:
            return []
        return [series["value"][1] for series in answer["data"]["result"]]

    try:
        applied = 'emberwatch_samples_total{job="emberwatch",status="applied"}'
        wait_until(lambda: query(applied) == ["3"], "prometheus to have scraped", timeout_s=60)
        assert query('up{job="emberwatch"}') == ["1"]
        assert query('emberwatch_samples_total{status="invalid"}') == ["1"]
        assert query("emberwatch_slots_used") == ["1"]
    finally:
        prometheus.terminate()
        prometheus.wait()
        busy_service.stop_if_running()
