"""Faults that grow over hours to days, and what each takes away from the van."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from model.jit import compiled

if TYPE_CHECKING:
    from model.fleet.config import FleetConfig

FAULT_KINDS = (
    "failing_pump",
    "coolant_leak",
    "blocked_radiator",
    "fan_stuck",
    "module_resistance",
    "internal_short",
    "chiller_failure",
)
FAILING_PUMP, COOLANT_LEAK, BLOCKED_RADIATOR, FAN_STUCK, MODULE_RESISTANCE, INTERNAL_SHORT, CHILLER_FAILURE = range(7)

# Hours from first trace of the fault to its full severity: (shortest, longest), drawn log-uniformly.
RAMP_H = ((6.0, 60.0), (8.0, 72.0), (12.0, 84.0), (0.5, 8.0), (36.0, 160.0), (24.0, 140.0), (2.0, 36.0))
# Hours between the first event and the workshop.
REPAIR_H = (24.0, 96.0)


class FaultPlan(NamedTuple):
    """When a fault starts and how it grows; kind -1 is none. Times in seconds since the start of the trace."""

    kind: int
    start_s: float
    ramp_s: float
    severity: float  # at full growth: 1 for most, or little and never more (0.1 to 0.35)
    shape: float  # exponent of the growth; > 1 starts slowly
    repair_s: float  # delay between first event and repair
    mended_s: float  # repaired at this time at the latest, event or not


class Impairment(NamedTuple):
    """What is left of each part (1 = all of it), and what a sick module adds."""

    flow: float
    coolant: float
    radiator: float
    fan: float
    chiller: float
    module_resistance: float  # factor on the weakest module's resistance
    short_w: float  # heat of an internal short in the weakest module


def draw_fault(config: FleetConfig, liquid_cooled: bool, rng: np.random.Generator) -> FaultPlan:
    """Draw one van's fault, or the plan with kind -1; so also a fault that would be mended before it starts.

    A passive pack has no chiller to lose.
    """
    draws = rng.random(7)
    kinds = [FAULT_KINDS.index(kind) for kind in config.fault_kinds if liquid_cooled or kind != "chiller_failure"]
    start_s = float(0.7 * draws[2] * config.days * 86_400)
    mended_s = math.inf if config.mended_ms is None else (config.mended_ms - config.start_ms) / 1_000
    if draws[0] >= config.faulty_share or not kinds or mended_s <= start_s:
        return FaultPlan(-1, 0.0, 1.0, 0.0, 1.0, 0.0, math.inf)
    kind = kinds[int(draws[1] * len(kinds))]
    shortest, longest = RAMP_H[kind]
    return FaultPlan(
        kind=kind,
        start_s=start_s,
        ramp_s=float(3_600 * shortest * (longest / shortest) ** draws[3] * config.fault_ramp_scale),
        severity=float(1.0 if draws[4] >= 0.2 else 0.1 + 1.25 * draws[4]),
        shape=float(0.7 + 1.1 * draws[5]),
        repair_s=float(3_600 * (REPAIR_H[0] + (REPAIR_H[1] - REPAIR_H[0]) * draws[6])),
        mended_s=mended_s,
    )


@compiled
def impairment_at(plan: FaultPlan, t_s: float, repaired: bool) -> Impairment:
    """The impairment `t_s` seconds into the trace."""
    if plan.kind < 0 or repaired or t_s < plan.start_s:
        return Impairment(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0)
    grown = plan.severity * min(1.0, (t_s - plan.start_s) / plan.ramp_s) ** plan.shape
    flow = coolant = radiator = fan = chiller = module_resistance = 1.0
    short_w = 0.0
    if plan.kind == FAILING_PUMP:
        flow = 1.0 - 0.995 * grown
    elif plan.kind == COOLANT_LEAK:
        coolant = 1.0 - 0.7 * grown  # the pump sucks air only once the expansion tank is empty
        flow = 1.0 - 0.995 * max(0.0, (grown - 0.2) / 0.8)
    elif plan.kind == BLOCKED_RADIATOR:
        radiator = 1.0 - 0.985 * grown
    elif plan.kind == FAN_STUCK:
        fan = 1.0 - grown
    elif plan.kind == MODULE_RESISTANCE:
        module_resistance = 1.0 + 7.0 * grown
    elif plan.kind == INTERNAL_SHORT:
        short_w = 280.0 * grown
    else:
        chiller = 1.0 - grown
    return Impairment(flow, coolant, radiator, fan, chiller, module_resistance, short_w)
