"""`emberwatch demo`: the service with its embedded store and a small live fleet, on one machine, until Ctrl-C."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import httpx
import typer

from service.cli.options import ApiKeyOption
from service.cli.output import CANNOT_ASK, console, refusing, train_extra
from service.client import Client, ClientError, Tally, wire_samples

if TYPE_CHECKING:
    from service.cli.demo_fleet import DemoVan

SAMPLES_PER_REQUEST = 6  # half a minute of driving
START_TIMEOUT_S = 120.0


def demo(
    vans: Annotated[int, typer.Option(min=1, max=6, help="Vans in the fleet.")] = 6,
    hours: Annotated[float, typer.Option(min=0.01, max=48, help="Simulated hours to stream.")] = 24.0,
    speed: Annotated[float, typer.Option(min=1, help="Times real time.")] = 180.0,
    port: Annotated[int, typer.Option(help="Port of the service; a free one is taken if it is in use.")] = 8000,
    data_dir: Annotated[Path, typer.Option(help="Folder of the embedded store; kept.")] = Path(".emberwatch/demo"),
    key: ApiKeyOption = None,
) -> None:
    """Start the service, stream a simulated fleet with faults into it, and print alerts as they come."""
    with refusing(ClientError), train_extra():
        from service.cli.demo_fleet import simulate_fleet  # noqa: PLC0415  (the simulator is an extra)

        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        console.print(f"simulating {vans} vans for {hours:g} h ...")
        fleet = simulate_fleet(vans, hours)
        with running_service(port, data_dir) as url, Client(url, key) as client:
            greet(url, client)
            stop = threading.Event()
            with ThreadPoolExecutor(vans + 1, "van") as pool:
                streams = [pool.submit(drive, url, key, van, speed, stop) for van in fleet]
                try:
                    report_alerts(client, lambda: all(stream.done() for stream in streams))
                except KeyboardInterrupt:
                    console.print("stopping ...")
                finally:
                    stop.set()
            statuses = sum((stream.result().statuses for stream in streams), Counter[str]())
            console.print(f"samples: {dict(statuses)}", highlight=False)
            console.print(f"the data stays in {data_dir}; `make demo` goes on with new sessions", highlight=False)


def drive(url: str, key: str | None, van: "DemoVan", speed: float, stop: threading.Event) -> Tally:
    """Stream one van at `speed` times real time, from a new session on, until its trace or the demo ends; say when it truly overheats."""
    tally = Tally()
    samples = list(wire_samples(van.recording))
    events = deque(van.events)
    with Client(url, key) as client:
        client.post(f"/v1/vehicles/{van.vehicle_id}/sessions")
        started = time.monotonic()
        for start in range(0, len(samples), SAMPLES_PER_REQUEST):
            part = samples[start : start + SAMPLES_PER_REQUEST]
            due = started + (part[-1]["ts"] - samples[0]["ts"]) / 1000.0 / speed
            if stop.wait(max(0.0, due - time.monotonic())):
                break
            client.send(van.vehicle_id, part, tally)
            while events and events[0][0] <= part[-1]["ts"]:
                ts_ms, cause = events.popleft()
                say(ts_ms, "yellow", "overheats", van.vehicle_id, f"{cause}, says the simulator")
    return tally


def say(ts_ms: int, colour: str, what: str, vehicle: str, more: str) -> None:
    """One line about one van, at the samples' time."""
    when = datetime.fromtimestamp(ts_ms / 1000, UTC)
    console.print(f"{when:%d %b %H:%M:%S}  [{colour}]{what:>9}[/{colour}]  {vehicle}  {more}", highlight=False)


def greet(url: str, client: Client) -> None:
    """Where to look."""
    model = client.get("/v1/model")
    console.print(f"[bold]Emberwatch is running[/bold] at {url} (backend {model['backend']})")
    for what, path in (
        ("page", "/dashboard/"),
        ("API", "/docs"),
        ("vehicles", "/v1/vehicles"),
        ("alerts", "/v1/alerts"),
        ("metrics", "/metrics"),
    ):
        console.print(f"  {what:>8}  {url}{path}")
    console.print(
        f"An alert fires when the risk has been {model['alert_threshold']:.3f} or more for a minute, the model's own threshold. "
        "The vans were chosen so that there is something to see: with all six, three of which the model warns, one whose "
        "overheating it does not foresee, and two healthy ones (service/cli/demo_choice.py). docs/evaluation.md says how good "
        "the model is on vans that nobody chose. Ctrl-C stops.",
        highlight=False,
    )


def report_alerts(client: Client, finished: Any) -> None:
    """Print every change of an alert until `finished()`."""
    known = {(alert["id"], alert["phase"]) for alert in client.get("/v1/alerts")["alerts"]}
    while not finished():
        time.sleep(0.5)
        for alert in reversed(client.get("/v1/alerts")["alerts"]):
            key = (alert["id"], alert["phase"])
            if key not in known and alert["phase"] not in {"pending", "recovering"}:
                known.add(key)
                colour = "red" if alert["phase"] == "firing" else "green"
                more = f"risk {alert['risk']:.3f}  seq {alert['seq']}"
                say(alert["updated_ms"], colour, alert["phase"], alert["vehicle_id"], more)


@contextmanager
def running_service(port: int, data_dir: Path) -> Iterator[str]:
    """`emberwatch serve` in a process of its own, ready; stopped by SIGTERM afterwards.

    Raises:
        ClientError: it did not come up; the message shows its last words.
    """
    if port_taken(port):
        port = 0
    if port == 0:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    data_dir.mkdir(parents=True, exist_ok=True)
    log_path = data_dir / "service.log"
    environment = os.environ | {"EMBERWATCH_PORT": str(port), "EMBERWATCH_DATA_DIR": str(data_dir)}
    with log_path.open("w") as log:
        # Its own session: Ctrl-C in the terminal must reach us first, so that the vans stop before the service.
        process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", "serve"], env=environment, stderr=log, start_new_session=True
        )
    try:
        wait_until_ready(url, process, log_path)
        yield url
    finally:
        process.terminate()
        if process.wait(timeout=START_TIMEOUT_S) != 0:
            console.print(f"the service ended with {process.returncode}; see {log_path}")
            raise typer.Exit(CANNOT_ASK)


def port_taken(port: int) -> bool:
    """Whether somebody listens on this loopback port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_until_ready(url: str, process: "subprocess.Popen[bytes]", log_path: Path) -> None:
    """Poll /readyz.

    Raises:
        ClientError: the process ended, or did not become ready in time.
    """
    deadline = time.monotonic() + START_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/readyz").status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise ClientError("the service did not come up:\n" + "\n".join(log_path.read_text().splitlines()[-5:]))
