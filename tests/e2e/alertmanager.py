"""A real Prometheus Alertmanager for tests."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import wait_until
from tests.service.delivery.receivers import Receiver

PROGRAM = "prometheus-alertmanager"


def need_alertmanager() -> None:
    """Skips the test, aloud, where there is none; fails it in CI."""
    if shutil.which(PROGRAM) is None:
        message = f"{PROGRAM} is not installed (Debian: apt-get install {PROGRAM})"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)


@contextmanager
def alertmanager(folder: Path, port: int, receiver: Receiver) -> Iterator[str]:
    """A running Alertmanager that passes on to a webhook; its URL."""
    config = folder / "alertmanager.yml"
    config.write_text(
        "route: {receiver: hook, group_by: [alertname, vehicle_id], group_wait: 1s, group_interval: 1s}\n"
        f"receivers: [{{name: hook, webhook_configs: [{{url: '{receiver.url}', send_resolved: true}}]}}]\n"
    )
    url = f"http://127.0.0.1:{port}"
    options = [f"--config.file={config}", f"--storage.path={folder / 'alertmanager'}", "--cluster.listen-address="]
    process = subprocess.Popen(
        [PROGRAM, *options, f"--web.listen-address=127.0.0.1:{port}"], stderr=subprocess.DEVNULL, cwd=folder
    )

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/-/ready").status_code == 200
        except httpx.TransportError:
            return False

    try:
        wait_until(ready, "the Alertmanager", timeout_s=60)
        yield url
    finally:
        process.terminate()
        process.wait()


def held(url: str) -> dict[tuple[str, str], str]:
    """What the Alertmanager holds: its state, by vehicle and severity."""
    alerts: list[dict[str, Any]] = httpx.get(f"{url}/api/v2/alerts").json()
    return {(a["labels"]["vehicle_id"], a["labels"]["severity"]): a["status"]["state"] for a in alerts}


def statuses(receiver: Receiver, vehicle: str) -> list[str]:
    """The statuses of the groups that the Alertmanager told of a vehicle."""
    return [got.json["status"] for got in list(receiver.got) if got.json["groupLabels"]["vehicle_id"] == vehicle]
