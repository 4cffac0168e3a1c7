"""The service under load, seen from outside: over HTTP, on this machine only."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx

START_TIMEOUT_S = 120.0
SERIES = re.compile(r"^(emberwatch_\w+?)(?:\{(.*)\})? (\S+)$", re.MULTILINE)


def loopback(url: str) -> str:
    """The URL, if it is of this machine. Raises ValueError: load goes nowhere else."""
    if httpx.URL(url).host not in {"127.0.0.1", "localhost", "::1"}:
        raise ValueError(f"load goes to this machine only, not to {url}")
    return url.rstrip("/")


def free_port() -> int:
    """A TCP port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def started_service(settings: Mapping[str, object] | None = None) -> Iterator[str]:
    """URL of a service of our own on a free port, with a throw-away data folder. Raises RuntimeError with its log."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="emberwatch-load-") as folder:
        environment = {f"EMBERWATCH_{name.upper()}": str(value) for name, value in (settings or {}).items()}
        environment |= {"EMBERWATCH_PORT": str(port), "EMBERWATCH_DATA_DIR": folder, "OMP_NUM_THREADS": "1"}
        # What is sent is made up, and an anomaly rightly.
        environment |= {"EMBERWATCH_LOG_LEVEL": "warning", "EMBERWATCH_TELEMETRY_ANOMALY": "false"}
        log = Path(folder) / "service.log"
        with log.open("wb") as out:
            command = [sys.executable, "-m", "service.cli", "serve"]
            process = subprocess.Popen(command, env=os.environ | environment, stdout=out, stderr=out)
        try:
            wait_until_ready(url, process, log)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=60)


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until it takes samples. Raises RuntimeError."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/readyz").status_code == httpx.codes.OK:
                return
        time.sleep(0.1)
    raise RuntimeError(f"the service does not come up:\n{log.read_text()[-3_000:]}")


def scrape(url: str) -> dict[str, float]:
    """The service's metrics: value by name, or by name and label values with spaces between."""
    found: dict[str, float] = {}
    for name, labels, value in SERIES.findall(httpx.get(f"{url}/metrics", timeout=30.0).raise_for_status().text):
        key = " ".join([name.removeprefix("emberwatch_"), *re.findall(r'"([^"]*)"', labels)])
        found[key] = found.get(key, 0.0) + float(value)
    return found
