"""No alarm on real vehicles that were well: every recorded drive through the real service, with the shipped weights."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from model.recordings import read_recording
from service.client import Client, Tally, wire_samples
from tests.processes import ServiceProcess

LEAF = "leaf/leafspy_2025-06-29.csv.gz"
BMW_TRIPS = 40
SAMPLES_PER_REQUEST = 500
VEHICLES_AT_A_TIME = 8


@dataclass(frozen=True)
class Streamed:
    """What the service made of the real drives."""

    tallies: dict[str, Tally]  # by vehicle
    rows: dict[str, int]
    alerts: list[dict[str, Any]]  # whatever the API lists, in any phase
    transitions: dict[str, float]  # by kind, from the metrics; lapses and pendings too
    risks_in_metrics: float  # samples whose risk was counted


def drives(real_data: Path) -> dict[str, tuple[Path, str]]:
    """File and format of each vehicle; each BMW trip is a vehicle of its own."""
    trips = sorted((real_data / "bmw_i3").glob("Trip*.csv.gz"))
    return {"leaf": (real_data / LEAF, "leafspy")} | {
        trip.name.removesuffix(".csv.gz"): (trip, "bmw-i3") for trip in trips
    }


def transitions(metrics: str) -> dict[str, float]:
    """Alert transitions so far, by what the alert became."""
    found = re.findall(r'^emberwatch_alert_transitions_total\{.*to="(\w+)"\} (\S+)$', metrics, re.MULTILINE)
    return {to: float(count) for to, count in found}


def stream(url: str, vehicle: str, file: Path, layout: str) -> tuple[Tally, int]:
    """Send one drive; what became of it, and its number of rows."""
    samples, tally = list(wire_samples(read_recording(file, layout))), Tally()
    with Client(url) as client:
        for start in range(0, len(samples), SAMPLES_PER_REQUEST):
            client.send(vehicle, samples[start : start + SAMPLES_PER_REQUEST], tally)
    return tally, len(samples)


@pytest.fixture(scope="module")
def streamed(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Streamed]:
    """Every row of every drive, as recorded, in arrays over HTTP; default settings, so the checkpoint's own threshold."""
    service = ServiceProcess(tmp_path_factory.mktemp("real-logs"), telemetry_anomaly=True).start()
    found = drives(real_data)
    try:
        with Client(service.url) as client, ThreadPoolExecutor(VEHICLES_AT_A_TIME) as pool:
            done = list(pool.map(lambda vehicle: stream(service.url, vehicle, *found[vehicle]), found))
            tallies = dict(zip(found, (tally for tally, _ in done), strict=True))
            rows = dict(zip(found, (length for _, length in done), strict=True))
            metrics = httpx.get(f"{service.url}/metrics").text
            counted = re.search(r"^emberwatch_risk_count (\S+)$", metrics, re.MULTILINE)
            yield Streamed(
                tallies,
                rows,
                client.get("/v1/alerts")["alerts"],
                transitions(metrics),
                float(counted[1]) if counted else 0.0,
            )
    finally:
        service.stop_if_running()


def test_every_real_row_is_applied(streamed: Streamed) -> None:
    """41 vehicles, no row refused or left out, each with a risk: an alarm could not have been missed by not looking."""
    assert len(streamed.rows) == BMW_TRIPS + 1
    for vehicle, tally in streamed.tallies.items():
        assert dict(tally.statuses) == {"applied": streamed.rows[vehicle]}, (vehicle, tally.refusals)
    assert streamed.risks_in_metrics == sum(streamed.rows.values())


def test_no_real_drive_raises_an_alert(streamed: Streamed) -> None:
    """Nothing fires, and nothing is even pending, by the API and by the metrics; prints the highest risks seen."""
    ranked = sorted(((tally.highest_risk, vehicle) for vehicle, tally in streamed.tallies.items()), reverse=True)
    print("highest risk by drive:", ", ".join(f"{vehicle} {risk:.4f}" for risk, vehicle in ranked[:5]))  # noqa: T201
    assert streamed.alerts == []
    assert not any(streamed.transitions.values()), (streamed.transitions, ranked[:5])
    assert ranked[0][0] > 0.0  # a risk was computed at all


def test_alerts_would_have_been_seen(real_data: Path, tmp_path: Path) -> None:
    """The same looking finds an alert where the threshold is absurdly low, so that finding none means something."""
    service = ServiceProcess(tmp_path, alert_threshold=1e-6, alert_for_s=5).start()
    try:
        stream(service.url, "TripB35", real_data / "bmw_i3" / "TripB35.csv.gz", "bmw-i3")
        assert [alert["phase"] for alert in httpx.get(f"{service.url}/v1/alerts").json()["alerts"]] == ["firing"]
        counted = transitions(httpx.get(f"{service.url}/metrics").text)
        assert {to for to, count in counted.items() if count} >= {"pending", "firing"}
    finally:
        service.stop_if_running()
