"""The alert state machine, for a batch of vehicles at once; its state is part of the head and commits with the sample.

    inactive -> pending (risk high) -> firing (high for `for_s`) -> resolved (low for `keep_firing_s`) -> inactive

A pending alert whose risk falls again lapses and was never an alert.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.head import Heads, Phase

RULE = "thermal_risk"


@dataclass(frozen=True, slots=True)
class AlertPolicy:
    """When `thermal_risk` raises and resolves."""

    threshold: float  # risk
    resolve_threshold: float  # risk, at most threshold
    for_s: float
    keep_firing_s: float
    warmup_samples: int
    horizon_s: float


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of an alert: `row` of the batch went `to` pending, firing, resolved or lapsed."""

    row: int
    to: str
    first_crossed_ms: int
    fired_ms: int | None


def advance_alerts(
    policy: AlertPolicy, heads: Heads, ts_ms: NDArray[np.int64], risk: NDArray[np.float64]
) -> list[Transition]:
    """Advance the machines of a batch by one sample each, in place.

    Args:
        policy: thresholds and times.
        heads: (batch,) heads before this sample was counted.
        ts_ms: (batch,) of this sample.
        risk: (batch,) of this sample.
    """
    alert = heads["alert"]
    high = (risk >= policy.threshold) & (heads["samples"] >= policy.warmup_samples)
    low = risk < policy.resolve_threshold
    phase = alert["phase"].copy()

    begins = (phase == Phase.INACTIVE) & high
    alert["first_crossed_ms"] = np.where(begins, ts_ms, alert["first_crossed_ms"])
    lapses = (phase == Phase.PENDING) & (risk < policy.threshold)
    pending = begins | ((phase == Phase.PENDING) & ~lapses)
    fires = pending & (ts_ms - alert["first_crossed_ms"] >= 1000.0 * policy.for_s)
    alert["fired_ms"] = np.where(fires, ts_ms, alert["fired_ms"])

    firing = phase == Phase.FIRING
    starts_low = firing & low & (alert["below_ms"] < 0)
    alert["below_ms"] = np.where(starts_low, ts_ms, np.where(firing & low, alert["below_ms"], -1))
    resolves = firing & low & (ts_ms - alert["below_ms"] >= 1000.0 * policy.keep_firing_s)
    alert["below_ms"] = np.where(resolves, -1, alert["below_ms"])

    alert["phase"] = np.select(
        [fires | (firing & ~resolves), pending], [int(Phase.FIRING), int(Phase.PENDING)], int(Phase.INACTIVE)
    )
    changes = (("lapsed", lapses), ("pending", begins), ("firing", fires), ("resolved", resolves))
    return [
        Transition(
            row=int(row),
            to=to,
            first_crossed_ms=int(alert["first_crossed_ms"][row]),
            fired_ms=int(alert["fired_ms"][row]) if to in {"firing", "resolved"} else None,
        )
        for to, which in changes
        for row in np.flatnonzero(which)
    ]


def alert_record(
    policy: AlertPolicy, vehicle_id: str, head: np.void, transition: Transition, *, ts_ms: int, fingerprint: str
) -> dict[str, Any]:
    """The alert as stored and shown; its id is the same for every transition of one alert."""
    kalman = head["preprocess"]["kalman"]
    has_fix = not np.isnan(kalman["latitude"])
    epoch = int(head["epoch"])
    name = f"{vehicle_id}|{RULE}|{epoch}|{transition.first_crossed_ms}"
    return {
        "id": hashlib.sha256(name.encode()).hexdigest()[:16],
        "vehicle_id": vehicle_id,
        "rule": RULE,
        "phase": transition.to,
        "risk": None if np.isnan(head["risk"]) else round(float(head["risk"]), 6),
        "threshold": policy.threshold,
        "horizon_s": policy.horizon_s,
        "first_crossed_ms": transition.first_crossed_ms,
        "fired_ms": transition.fired_ms,
        "updated_ms": ts_ms,
        "position": {"latitude": round(float(kalman["latitude"]), 6), "longitude": round(float(kalman["longitude"]), 6)}
        if has_fix
        else None,
        "epoch": epoch,
        "seq": int(head["seq"]),
        "fingerprint": fingerprint,
    }
