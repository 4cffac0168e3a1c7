"""The two alert rules of a vehicle. Their machines (model/alert_machine.py) are part of the head and commit with the sample.

`thermal_risk` watches the risk, `telemetry_anomaly` the surprise: sensors that say what the model did not expect.
"""

import math
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from model.alert_machine import MachineCourse, MachineLimits, Severity, advance_machines, names_of
from service.records.head import Heads


class Rule(IntEnum):
    """What is watched; the place of its machine in the head."""

    THERMAL_RISK = 0
    TELEMETRY_ANOMALY = 1

    @property
    def word(self) -> str:
        """As it is written."""
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class AlertPolicy:
    """When the rules raise and resolve. Thresholds of `thermal_risk` are risks, of `telemetry_anomaly` nats per channel.

    Raises:
        ValueError: thresholds of a rule are out of order.
    """

    threshold: float
    resolve_threshold: float  # at most threshold
    for_s: float
    keep_firing_s: float
    warmup_samples: int
    horizon_s: float
    critical_threshold: float = math.inf
    stale_after_s: float = 300.0
    anomaly_threshold: float = math.inf
    anomaly_resolve_threshold: float = math.inf
    anomaly_critical_threshold: float = math.inf
    anomaly_smoothing_s: float = 0.0
    anomaly_highest: float = math.inf  # a single sample's surprise counts as no more

    def limits(self, rule: Rule) -> MachineLimits:
        """What one rule's machine needs to know."""
        thermal = rule is Rule.THERMAL_RISK
        return MachineLimits(
            threshold=self.threshold if thermal else self.anomaly_threshold,
            resolve_threshold=self.resolve_threshold if thermal else self.anomaly_resolve_threshold,
            critical_threshold=self.critical_threshold if thermal else self.anomaly_critical_threshold,
            for_ms=round(1_000 * self.for_s),
            keep_firing_ms=round(1_000 * self.keep_firing_s),
            stale_after_ms=round(1_000 * self.stale_after_s),
            warmup_samples=self.warmup_samples,
            smoothing_ms=0.0 if thermal else 1_000.0 * self.anomaly_smoothing_s,
            highest=math.inf if thermal else self.anomaly_highest,
        )

    def packed(self) -> NDArray[np.void]:
        """Of all rules as the compiled code reads them, (rules,) LIMITS_DTYPE."""
        return np.concatenate([self.limits(rule).packed() for rule in Rule])


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of one alert.

    Attributes:
        rule: whose.
        to: a name of `alert_machine.CHANGES`.
        number: which change of its episode this is, from 1.
        machine: MACHINE_DTYPE after all that happened at that instant.
        row: of the batch; -1 for what no sample of a batch brought about.
    """

    rule: Rule
    to: str
    number: int
    machine: np.void
    row: int = -1

    @property
    def severity(self) -> str:
        """Warning or critical."""
        return Severity(int(self.machine["severity"])).name.lower()


@dataclass(frozen=True, slots=True)
class AlertCourse:
    """What became of the alerts of a batch.

    Attributes:
        phase: (rows,) uint8 of `thermal_risk` after each row, a Phase.
        transitions: in the order of the rows, and of what happened at one.
    """

    phase: NDArray[np.uint8]
    transitions: list[Transition]


def advance_alerts(
    limits: NDArray[np.void],
    heads: Heads,
    lengths: NDArray[np.int64],
    ts_ms: NDArray[np.int64],
    gap_ms: NDArray[np.int64],
    risk: NDArray[np.float64],
    surprise: NDArray[np.float64],
) -> AlertCourse:
    """Advance the machines of a batch over each vehicle's samples, in place.

    Args:
        limits: (rules,) of a policy.
        heads: (vehicles,) before these samples were counted in `samples`.
        lengths: (vehicles,) samples of each.
        ts_ms: (rows,) vehicle after vehicle.
        gap_ms: (rows,) since the vehicle's sample before.
        risk: (rows,).
        surprise: (rows,) nats per channel, NaN where there was no forecast.
    """
    values = np.stack((risk, surprise), axis=1)
    samples = heads["samples"].astype(np.int64)
    course = advance_machines(heads["alert"], samples, lengths, ts_ms, gap_ms, values, limits)
    return AlertCourse(course.phase[:, Rule.THERMAL_RISK], transitions_of(course) if len(course.row) else [])


def transitions_of(course: MachineCourse) -> list[Transition]:
    """Every change on its own."""
    return [
        transition
        for row, rule, changes, machine in zip(
            course.row.tolist(), course.rule.tolist(), course.changes.tolist(), course.after, strict=True
        )
        for transition in told(Rule(rule), changes, machine, row)
    ]


def told(rule: Rule, changes: int, machine: np.void, row: int = -1) -> list[Transition]:
    """The changes of one machine at one instant, in order; `machine` is as they left it."""
    names, last = names_of(changes), int(machine["changes"])
    return [Transition(rule, name, last - len(names) + 1 + i, machine, row) for i, name in enumerate(names)]
