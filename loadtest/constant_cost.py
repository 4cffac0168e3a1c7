"""Does a sample cost the same after 100,000 samples as after 100? Streams a history over HTTP, then measures both.

    python -m loadtest.constant_cost --start-service          # a minute, two cores
    python -m loadtest.constant_cost --history 5000 --start-service

Two vehicles, one with 100 samples of history and one with --history, are sent single samples in turn, so that the
machine's moods hit both alike; the figure is the median time of each and the median of their paired ratios. Loopback
only; stops by itself. Prints the report format of the benchmarks as JSON.
"""

import argparse
import contextlib
import json
import math
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import Any

import httpx

from loadtest.target import loopback, started_service

START_MS = 1_700_000_000_000
SHORT = 100
ARRAY = 500


def sample(i: int) -> dict[str, Any]:
    """The i-th sample of an endless round trip."""
    return {
        "ts": START_MS + 5_000 * i,
        "seq": i,
        "signals": {
            "latitude": 48.0 + 0.05 * math.sin(i / 500),
            "longitude": 11.0 + 0.05 * math.cos(i / 500),
            "speed": 12.0 + 8.0 * math.sin(i / 40),
            "state_of_charge": 60.0 + 30.0 * math.cos(i / 4_000),
            "motor_temperature": 55.0 + 15.0 * math.sin(i / 300),
            "brake_events": float(i % 7 == 0),
        },
    }


def stream(client: httpx.Client, vehicle: str, count: int) -> None:
    """Send the first `count` samples in arrays; every one must be applied."""
    for start in range(0, count, ARRAY):
        part = [sample(i) for i in range(start, min(start + ARRAY, count))]
        answer = client.post(f"/v1/vehicles/{vehicle}/telemetry", json=part)
        if answer.status_code != httpx.codes.OK or answer.json()["applied"] != len(part):
            raise SystemExit(f"samples from {start} on were not applied: {answer.text[:300]}")
        if start and start % 10_000 == 0:
            print(f"{start:>8} samples sent", file=sys.stderr)


def timed(client: httpx.Client, vehicle: str, i: int) -> float:
    """Seconds for one sample, which must be applied."""
    data = sample(i)
    started = time.perf_counter()
    answer = client.post(f"/v1/vehicles/{vehicle}/telemetry", json=data)
    elapsed = time.perf_counter() - started
    if answer.json().get("status") != "applied":
        raise SystemExit(f"sample {i} of {vehicle} was not applied: {answer.text[:300]}")
    return elapsed


def measure(url: str, history: int, repeats: int) -> list[dict[str, Any]]:
    """Rows of the report."""
    with httpx.Client(base_url=url, timeout=120.0) as client:
        stream(client, "young", SHORT)
        stream(client, "old", history)
        young, old = [], []
        for i in range(repeats):
            young.append(timed(client, "young", SHORT + i))
            old.append(timed(client, "old", history + i))
        # Only now: before its first snapshot a vehicle takes less.
        young_bytes, old_bytes = (
            client.get(f"/v1/vehicles/{name}").json()["stored_bytes"] for name in ("young", "old")
        )
    ratios = statistics.quantiles([a / b for a, b in zip(young, old, strict=True)], n=20)
    return [
        row("sample_time", {"history": SHORT}, statistics.median(young), "s", young),
        row("sample_time", {"history": history}, statistics.median(old), "s", old)
        | {"peer": f"history {SHORT}", "ratio": ratios[9], "ratio_lo": ratios[0], "ratio_hi": ratios[-1]},
        row("stored_bytes", {"history": SHORT + repeats}, young_bytes, "B", [young_bytes] * 2),
        row("stored_bytes", {"history": history + repeats}, old_bytes, "B", [old_bytes] * 2)
        | {"peer": f"history {SHORT + repeats}", "ratio": young_bytes / old_bytes},
    ]


def row(name: str, params: dict[str, Any], value: float, unit: str, values: list[float]) -> dict[str, Any]:
    """One row: median with the 5th and 95th percentile."""
    cuts = statistics.quantiles(values, n=20)
    return {"name": name, "params": params, "value": value, "unit": unit, "lo": cuts[0], "hi": cuts[-1],
            "peer": None, "ratio": None, "floor": None}  # fmt: skip


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="a running service on this machine")
    parser.add_argument("--start-service", action="store_true", help="start one of our own instead")
    parser.add_argument("--history", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=1_000, help="single samples timed on each vehicle")
    options = parser.parse_args()
    try:
        source = started_service() if options.start_service else contextlib.nullcontext(loopback(options.url))
    except ValueError as error:
        raise SystemExit(str(error)) from error
    with source as url:
        rows = measure(url, options.history, options.repeats)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    report = {"commit": commit, "date": datetime.now(UTC).isoformat(timespec="seconds"), "device": "cpu",
              "command": " ".join(["python", "-m", "loadtest.constant_cost", *sys.argv[1:]]), "rows": rows}  # fmt: skip
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
