"""Takes the pictures of the page in docs/screenshots: `python -m tests.e2e.screenshots`, some minutes.

A service of its own with a simulated fleet on four occasions: before the first sample, on a normal day, in an incident,
and with its store gone. Nothing is staged beyond the choice of vans and of the hour.
"""

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Callable
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
HERO = VANS[0]  # whose history is shown in full
OTHERS = (*VANS[1:], *((van, 3 + van % 6) for van in range(100, 107)))
NORMAL_H, INCIDENT_H = 1.0, 2.45  # after six in the morning
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


def send(service: ServiceProcess, one: Drive, from_h: float, to_h: float, names: tuple[str, ...]) -> None:
    """A part of a drive, as if its hours had just passed."""
    now = int(time.time() * 1000)
    rows = np.flatnonzero((one.ts_ms > from_h * HOUR_MS) & (one.ts_ms <= to_h * HOUR_MS))
    for first in range(0, len(rows), PER_REQUEST):
        part = rows[first : first + PER_REQUEST]
        columns: dict[str, list[Any]] = {
            "vehicle_id": [one.vehicle_id] * len(part),
            "ts": (one.ts_ms[part] - int(INCIDENT_H * HOUR_MS) + now).tolist(),
        }
        for i, name in enumerate(names):
            columns[name] = [None if np.isnan(value) else value for value in one.signals[part, i].tolist()]
        answer = httpx.post(f"{service.url}/v1/telemetry", json={"columns": columns}, timeout=600.0)
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


def incident(camera: Camera, hero: str) -> None:
    """Somebody is needed."""
    camera.take("incident", "fleet", dark=True)
    camera.take("vehicle", f"vehicle/{hero}")
    camera.take("telephone", f"vehicle/{hero}", dark=True, telephone=True)
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
        service = ServiceProcess(Path(scratch), store=valkey.url).start()
        try:
            camera = Camera(chrome, service.url, folder)
            camera.take("empty", "fleet")
            signals = httpx.get(f"{service.url}/v1/model").json()["signals"]
            names = tuple(signal["name"] for signal in signals)
            send(service, hero, -46.0, NORMAL_H, names)
            for one in others:
                send(service, one, -1.0, NORMAL_H, names)
            camera.take("normal", "fleet")
            for one in (hero, *others):
                send(service, one, NORMAL_H, INCIDENT_H, names)
            camera.take("service", "service")
            incident(camera, hero.vehicle_id)
            camera.take("broken", "fleet", then=valkey.kill)
        finally:
            service.stop_if_running()
            valkey.stop_if_running()
    sizes = {path.name: path.stat().st_size for path in sorted(folder.glob("*.webp"))}
    for name, size in sizes.items():
        sys.stdout.write(f"{size:9,}  {name}\n")
    if sum(sizes.values()) > TOGETHER_BYTES:
        raise SystemExit(f"{sum(sizes.values()):,} bytes are more than {TOGETHER_BYTES:,}")


if __name__ == "__main__":
    main()
