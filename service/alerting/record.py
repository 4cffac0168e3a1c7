"""The alert as it is stored, told and shown: plain data, of which docs/alerts.md explains every field.

An alert's id names where it is kept, so that nothing has to be searched for it, and is the same for every change of one
episode. An event id names one change: a commit that is computed again gives the same one.
"""

import json
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson

from model.alert_machine import Phase
from service.alerting.alerts import AlertPolicy, Rule, Transition

Record = dict[str, Any]

WORDS = {
    "pending": "pending",
    "lapsed": "inactive",
    "firing": "firing",
    "relapsed": "firing",
    "escalated": "firing",
    "recovering": "recovering",
    "resolved": "resolved",
    "stale": "stale",
}
NEWS_OF_THE_CAUSE = frozenset({"pending", "firing", "escalated"})  # changes that are explained anew


@dataclass(frozen=True, slots=True)
class Why:
    """What explains a change.

    Attributes:
        contributions: at most three channels, the farthest off first.
        course: [ts_ms, risk] of some of the last samples, in order.
    """

    contributions: list[Record] = field(default_factory=list)
    course: list[tuple[int, float]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Instant:
    """The sample at which something changed, or the last one before silence did."""

    ts_ms: int
    seq: int
    risk: float
    surprise: float
    updated_ms: int  # when the change happened, by the vehicle's clock


def alert_id(vehicle_id: str, rule: str, epoch: int, first_crossed_ms: int) -> str:
    """One episode of one rule of one vehicle."""
    return f"{vehicle_id}.{rule}.{epoch}.{first_crossed_ms}"


def place_of(alert: str) -> tuple[str, str] | None:
    """Vehicle and rule that an alert's id names; None if it is no such id."""
    parts = alert.rsplit(".", 3)
    if len(parts) != 4 or parts[1] not in {rule.word for rule in Rule} or not all(p.isdigit() for p in parts[2:]):
        return None
    return parts[0], parts[1]


def field_of(vehicle_id: str, rule: str) -> str:
    """Under which field of the partition's hash the last alert of a vehicle and a rule is."""
    return f"{vehicle_id}|{rule}"


def number_or_none(value: float, digits: int = 6) -> float | None:
    """Rounded; what is not finite as null."""
    return round(float(value), digits) if math.isfinite(value) else None


def phase_after(transition: Transition) -> str:
    """The phase that a change leads to."""
    if transition.to in WORDS:
        return WORDS[transition.to]
    phase = Phase(int(transition.machine["phase"]))  # fresh: the phase from before the silence
    return "recovering" if phase is Phase.INACTIVE else phase.name.lower()


def alert_record(
    policy: AlertPolicy, vehicle_id: str, head: np.void, transition: Transition, at: Instant, why: Why, model: str
) -> Record:
    """One change of an alert. `head` is the vehicle's, for session and position, perhaps a few samples on; `model` the fingerprint."""
    rule, machine = transition.rule, transition.machine
    limits = policy.limits(rule)
    first_crossed_ms, epoch = int(machine["first_crossed_ms"]), int(head["epoch"])
    thermal = rule is Rule.THERMAL_RISK
    name = alert_id(vehicle_id, rule.word, epoch, first_crossed_ms)
    fired = transition.to not in {"pending", "lapsed"} and machine["fired_ms"] >= 0
    return {
        "id": name,
        "event_id": f"{name}-{transition.number}",
        "vehicle_id": vehicle_id,
        "rule": rule.word,
        "severity": transition.severity,
        "phase": phase_after(transition),
        "transition": transition.to,
        "first_crossed_ms": first_crossed_ms,
        "fired_ms": int(machine["fired_ms"]) if fired else None,
        "resolved_ms": at.updated_ms if transition.to == "resolved" else None,
        "updated_ms": at.updated_ms,
        "risk": number_or_none(at.risk),
        "peak_risk": number_or_none(machine["peak"]) if thermal else None,
        "surprise": number_or_none(at.surprise),
        "value": number_or_none(at.risk if thermal else machine["level"]),
        "peak_value": number_or_none(machine["peak"]),
        "threshold": limits.threshold,
        "resolve_threshold": limits.resolve_threshold,
        "critical_threshold": number_or_none(limits.critical_threshold),
        "horizon_s": policy.horizon_s,
        "contributions": why.contributions,
        "course": why.course,
        "position": position_of(head),
        "model": model,
        "epoch": epoch,
        "seq": at.seq,
        "acknowledged": None,
    }


def position_of(head: np.void) -> Record | None:
    """The filter's estimate after the head's last sample; None before the first fix."""
    kalman = head["preprocess"]["kalman"]
    if np.isnan(kalman["latitude"]):
        return None
    return {
        "latitude": round(float(kalman["latitude"]), 6),
        "longitude": round(float(kalman["longitude"]), 6),
        "ts_ms": int(head["last_ts_ms"]),
    }


def converted(old: Record) -> Record:
    """An alert as a version before rules stored it, as this one stores it."""
    numbers = {"pending": 1, "firing": 2, "resolved": 3}
    name = alert_id(old["vehicle_id"], old["rule"], old["epoch"], old["first_crossed_ms"])
    known = {
        field: old[field]
        for field in ("vehicle_id", "rule", "phase", "first_crossed_ms", "fired_ms", "updated_ms", "risk", "threshold")
    }
    position = old["position"]
    return {
        "id": name,
        "event_id": f"{name}-{numbers.get(old['phase'], 1)}",
        **known,
        "severity": "warning",
        "transition": old["phase"],
        "resolved_ms": old["updated_ms"] if old["phase"] == "resolved" else None,
        "peak_risk": old["risk"],
        "surprise": None,
        "value": old["risk"],
        "peak_value": old["risk"],
        "resolve_threshold": old["threshold"],
        "critical_threshold": None,
        "horizon_s": old["horizon_s"],
        "contributions": [],
        "course": [],
        "position": None if position is None else {**position, "ts_ms": old["updated_ms"]},
        "model": old["fingerprint"],
        "epoch": old["epoch"],
        "seq": old["seq"],
        "acknowledged": None,
    }


def dumped(record: Record) -> str:
    """As stored. `id` is its first field and `acknowledged` its last: the scripts rely on both."""
    rest = {name: value for name, value in record.items() if name not in {"id", "acknowledged"}}
    return json.dumps({"id": record["id"], **rest, "acknowledged": record.get("acknowledged")}, allow_nan=False)


def read_record(data: bytes | None) -> Record | None:
    """A stored record; None if there is none, or none that this version can read (those before rules had names of their own)."""
    if not data:
        return None
    record = orjson.loads(data)
    return record if isinstance(record, dict) and "transition" in record else None
