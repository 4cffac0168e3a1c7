"""Takes the pictures of the page in docs/screenshots: `python -m tests.e2e.screenshots`, some minutes.

A service of its own with a simulated fleet on four occasions: before the first sample, on a normal day, in an incident,
and with its store gone. Nothing is staged beyond the choice of vans and of the hour.
"""

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image

from model.fleet import VehicleTrace, simulate_vehicle
from service.cli.demo_fleet import FLEET, VANS, first_ms
from tests.conftest import REPOSITORY
from tests.e2e.browser import browser
from tests.processes import ServiceProcess, ValkeyProcess

FOLDER = REPOSITORY / "docs" / "screenshots"
HOUR_MS = 3_600_000
HERO = VANS[0]  # whose history is shown in full; on the normal day it has not set out yet
OTHERS = (*VANS[1:], *((van, 3 + van % 6) for van in range(100, 107)))
NORMAL_H, LIVE_H, BUSY_H, INCIDENT_H = (
    1.0,
    2.0,
    2.3,
    2.6,
)  # after six in the morning; from LIVE_H on samples come one by one
SPEED = 60.0
DESK, TELEPHONE = {"width": 1380, "height": 880}, {"width": 390, "height": 844}
PER_REQUEST = 8_000
TOGETHER_BYTES = 600_000


@dataclass(frozen=True, slots=True)
class Drive:
    """A van's samples with the hour of day of its own."""

    vehicle_id: str
    ts_ms: np.ndarray[Any, np.dtype[np.int64]]  # since six in the morning
    signals: np.ndarray[Any, np.dtype[np.float64]]


def drive(van: int, day: int, hours_before: float) -> Drive:
    """A simulated van around the morning of one day."""
    trace: VehicleTrace = simulate_vehicle(FLEET, van)
    ts_ms = trace.ts_ms - first_ms(day)
    rows = (ts_ms > -hours_before * HOUR_MS) & (ts_ms <= INCIDENT_H * HOUR_MS)
    return Drive(trace.vehicle_id, ts_ms[rows], trace.signals[rows].astype(np.float64))


@dataclass(frozen=True, slots=True)
class Road:
    """Drives as they reach a service, as if their hours had just passed."""

    service: ServiceProcess
    names: tuple[str, ...]
    now_ms: int  # which is INCIDENT_H

    def send(self, one: Drive, from_h: float, to_h: float) -> None:
        """A part of a drive, at once."""
        rows = np.flatnonzero((one.ts_ms > from_h * HOUR_MS) & (one.ts_ms <= to_h * HOUR_MS))
        for first in range(0, len(rows), PER_REQUEST):
            self._post([(one, row) for row in rows[first : first + PER_REQUEST].tolist()])

    def stream(self, drives: Sequence[Drive], from_h: float, to_h: float) -> None:
        """A part of all drives, each instant when it is due at SPEED times real time."""
        due: dict[int, list[tuple[Drive, int]]] = {}
        for one in drives:
            for row in np.flatnonzero((one.ts_ms > from_h * HOUR_MS) & (one.ts_ms <= to_h * HOUR_MS)).tolist():
                due.setdefault(int(one.ts_ms[row]), []).append((one, row))
        started = time.monotonic()
        for ts_ms, together in sorted(due.items(), key=lambda item: item[0]):
            wait_s = (ts_ms - from_h * HOUR_MS) / 1000.0 / SPEED - (time.monotonic() - started)
            time.sleep(max(0.0, wait_s))
            self._post(together)

    def _post(self, rows: Sequence[tuple[Drive, int]]) -> None:
        shift_ms = self.now_ms - int(INCIDENT_H * HOUR_MS)
        columns: dict[str, list[Any]] = {
            "vehicle_id": [one.vehicle_id for one, _ in rows],
            "ts": [int(one.ts_ms[row]) + shift_ms for one, row in rows],
        }
        for i, name in enumerate(self.names):
            values = [float(one.signals[row, i]) for one, row in rows]
            columns[name] = [None if np.isnan(value) else value for value in values]
        answer = httpx.post(f"{self.service.url}/v1/telemetry", json={"columns": columns}, timeout=600.0)
        answer.raise_for_status()


class Camera:
    """Takes pictures of one service's page."""

    def __init__(self, chrome: Any, url: str, folder: Path) -> None:
        self._chrome = chrome
        self._url = url
        self._folder = folder

    def take(
        self,
        name: str,
        view: str,
        *,
        dark: bool = False,
        telephone: bool = False,
        then: Callable[[], None] | None = None,
    ) -> None:
        """One picture as WebP of a page that is live; with `then`, of what it says after that."""
        context = self._chrome.new_context(
            viewport=TELEPHONE if telephone else DESK,
            color_scheme="dark" if dark else "light",
            device_scale_factor=2 if telephone else 1,
            timezone_id="Europe/Berlin",
            locale="en-GB",
        )
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(f"{self._url}/dashboard/#/{view}")
        page.locator(".pulse", has_text="live").wait_for()
        if then is not None:
            then()
            page.locator("#banner").wait_for()
        page.wait_for_timeout(6_000)
        picture = Image.open(io.BytesIO(page.screenshot()))
        picture.save(self._folder / f"{name}.webp", quality=80, method=6)
        context.close()


def road_to(service: ServiceProcess, now_ms: int) -> Road:
    """To a service that runs."""
    signals = httpx.get(f"{service.url}/v1/model").json()["signals"]
    return Road(service, tuple(signal["name"] for signal in signals), now_ms)


def before(camera: Camera, road: Road, hero: Drive, others: Sequence[Drive]) -> None:
    """Nobody is needed; then everything up to the incident, which no picture shows."""
    camera.take("empty", "fleet")
    for one in others:
        road.send(one, -1.0, NORMAL_H)
    camera.take("normal", "fleet")
    for one in others:
        road.send(one, NORMAL_H, LIVE_H)
    road.send(hero, -46.0, LIVE_H)


def during(camera: Camera, road: Road, hero: Drive, others: Sequence[Drive]) -> None:
    """Somebody is needed."""
    road.stream((hero, *others), LIVE_H, BUSY_H)
    with ThreadPoolExecutor(1) as pool:
        rest = pool.submit(road.stream, (hero, *others), BUSY_H, INCIDENT_H)
        camera.take("service", "service")
        rest.result()
    camera.take("incident", "fleet", dark=True)
    camera.take("vehicle", f"vehicle/{hero.vehicle_id}")
    camera.take("telephone", f"vehicle/{hero.vehicle_id}", dark=True, telephone=True)
    camera.take("map", "map", dark=True)


def main() -> None:
    """All of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=FOLDER)
    folder: Path = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    hero, others = drive(*HERO, 46.0), [drive(van, day, 1.0) for van, day in OTHERS]
    with tempfile.TemporaryDirectory() as scratch, browser() as chrome:
        valkey = ValkeyProcess(Path(scratch) / "valkey").start()
        first, live = (ServiceProcess(Path(scratch), store=valkey.url, name=name) for name in ("first", "live"))
        try:
            now_ms = int(time.time() * 1000)
            before(Camera(chrome, first.start().url, folder), road_to(first, now_ms), hero, others)
            first.stop()
            during(Camera(chrome, live.start().url, folder), road_to(live, now_ms), hero, others)
            Camera(chrome, live.url, folder).take("broken", "fleet", then=valkey.kill)
        finally:
            for service in (first, live):
                service.stop_if_running()
            valkey.stop_if_running()
    sizes = {path.name: path.stat().st_size for path in sorted(folder.glob("*.webp"))}
    for name, size in sizes.items():
        sys.stdout.write(f"{size:9,}  {name}\n")
    if sum(sizes.values()) > TOGETHER_BYTES:
        raise SystemExit(f"{sum(sizes.values()):,} bytes are more than {TOGETHER_BYTES:,}")


if __name__ == "__main__":
    main()
