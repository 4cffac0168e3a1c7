"""A van whose fault somebody mends in time, as the simulator and the evaluation foresee it."""

import time
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import httpx
import numpy as np

from model.checkpoint import load_checkpoint
from model.evaluation import AlertRule
from model.evaluation.alerts import NEVER_MS, Millis, episodes, thresholds_of
from model.evaluation.mamba import MambaScorer
from model.fleet import SIGNALS, FleetConfig, VehicleTrace, simulate_vehicle
from service.cli.demo_fleet import DAY_MS, FLEET, VANS, first_ms, part_of_day

(ILL, ILL_DAY), (HEALTHY, HEALTHY_DAY) = VANS[0], VANS[3]  # service/cli/demo_choice.py says how they were chosen
HOURS = 4.0  # of the day, from six in the morning on
WORKSHOP_MS = 180_000  # from the alert to the repair
BEFORE_MS, AFTER_MS = 120_000, 60_000  # sent at speed before the alert fires and after it has resolved
A_MINUTE_MS = 60_000
TOO_NEAR = 0.01  # in logits; what rounding does to them is below 0.0001
BATCH = 4_000

Samples = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Incident:
    """What is to come, on the day that ends now."""

    ill: str
    healthy: str
    fired_ms: int
    mended_ms: int
    resolved_ms: int
    samples: Samples  # of both vans, as a fleet batch takes them, in order of time

    def between(self, from_ms: int, to_ms: int) -> Samples:
        """Samples of [from_ms, to_ms)."""
        return [one for one in self.samples if from_ms <= one["ts"] < to_ms]


def foresee() -> Incident:
    """The demo's first van, mended three minutes after its alert, beside a healthy one.

    The alert's times are those of `emberwatch evaluate --alerts`: shipped weights and thresholds over the whole trace at once.
    """
    unmended = day_of(FLEET, ILL, ILL_DAY)
    ((fired_ms, _),) = foreseen(unmended)[0].tolist()
    assert 0 < unmended.events_ms[0] - fired_ms <= AlertRule().horizon_ms  # or it would warn of nothing
    trace = day_of(replace(FLEET, mended_ms=fired_ms + WORKSHOP_MS), ILL, ILL_DAY)
    assert not len(trace.events_ms)
    alerts, *nearly = foreseen(trace, -TOO_NEAR, TOO_NEAR)
    ((again_ms, resolved_ms),) = alerts.tolist()
    assert again_ms == fired_ms
    assert resolved_ms != NEVER_MS
    for others in nearly:  # no choice at the edge, which another machine's rounding would turn
        assert others.shape == alerts.shape
        assert np.abs(others - alerts).max() <= A_MINUTE_MS
    healthy = day_of(FLEET, HEALTHY, HEALTHY_DAY)
    end_ms = resolved_ms + AFTER_MS
    shift_ms = (int(time.time() * 1000) - end_ms) // DAY_MS * DAY_MS  # whole days: the model knows the hour of day
    samples = wire(trace, shift_ms) + wire(healthy, shift_ms + first_ms(ILL_DAY) - first_ms(HEALTHY_DAY))
    return Incident(
        ill=trace.vehicle_id,
        healthy=healthy.vehicle_id,
        fired_ms=fired_ms + shift_ms,
        mended_ms=fired_ms + WORKSHOP_MS + shift_ms,
        resolved_ms=resolved_ms + shift_ms,
        samples=sorted((one for one in samples if one["ts"] <= end_ms + shift_ms), key=lambda one: one["ts"]),
    )


def day_of(fleet: FleetConfig, van: int, day: int) -> VehicleTrace:
    """A van's day."""
    return part_of_day(simulate_vehicle(fleet, van), day, HOURS)


def foreseen(trace: VehicleTrace, *offs: float) -> list[Millis]:
    """(n, 2) when alerts fire and resolve, says the evaluation; then the same, were every logit off by so much."""
    checkpoint = load_checkpoint()
    score = MambaScorer(checkpoint).score([trace])[0]
    thresholds, rule = thresholds_of(checkpoint.calibration), AlertRule(warmup_samples=checkpoint.warmup_samples)
    return [episodes(trace.ts_ms, score + np.float32(off), thresholds, rule) for off in (0.0, *offs)]


def wire(trace: VehicleTrace, shift_ms: int) -> Samples:
    """A van's samples as a fleet batch takes them."""
    rows = zip((trace.ts_ms + shift_ms).tolist(), trace.signals.astype(np.float64).tolist(), strict=True)
    return [
        {
            "vehicle_id": trace.vehicle_id,
            "ts": ts_ms,
            "signals": {name: value for name, value in zip(SIGNALS, row, strict=True) if not np.isnan(value)},
        }
        for ts_ms, row in rows
    ]


def send(client: httpx.Client, samples: Samples) -> None:
    """A fleet batch of which every sample is applied."""
    answer = client.post("/v1/telemetry", json={"samples": samples}, headers={"Prefer": "return=minimal"})
    assert answer.status_code == 200, answer.text


def backfill(url: str, samples: Samples) -> None:
    """As fast as the service takes them."""
    with httpx.Client(base_url=url, timeout=120.0) as client:
        for first in range(0, len(samples), BATCH):
            send(client, samples[first : first + BATCH])


def stream(url: str, samples: Samples, speed: float) -> None:
    """Each instant's samples when they are due at `speed` times real time, or as soon after as may be."""
    started = time.monotonic()
    with httpx.Client(base_url=url, timeout=120.0) as client:
        for ts_ms, together in groupby(samples, key=lambda one: one["ts"]):
            due = started + (ts_ms - samples[0]["ts"]) / 1000.0 / speed
            time.sleep(max(0.0, due - time.monotonic()))
            send(client, list(together))
