"""The heat network: weakest module and pack, battery coolant with chiller, motor, inverter, drive coolant, cabin.

Each node relaxes exactly towards the balance with its neighbours held over one step, which is stable for any step.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from model.fleet.faults import Impairment
from model.fleet.vehicle import N_MODULES, VanParameters
from model.jit import compiled

COOLANT_J_PER_K = 14_000.0  # four litres of glycol mixture, either loop
INVERTER_J_PER_K = 20_000.0  # with its cold plate
CABIN_J_PER_K = 90_000.0
CORE_S = 400.0  # a cell's core follows its heat with this time constant
CHILLER_COP = 2.2

THERMAL_STATE = np.dtype(
    [
        ("core_rise", "f8"),
        ("module", "f8"),
        ("pack", "f8"),
        ("battery_coolant", "f8"),
        ("winding", "f8"),
        ("case", "f8"),
        ("inverter", "f8"),
        ("drive_coolant", "f8"),
        ("cabin", "f8"),
        ("chilling", "f8"),  # 1 while the chiller is called for, with hysteresis
    ]
)


class Surroundings(NamedTuple):
    """What the van meets and does during one step."""

    ambient_c: float
    sun: float  # sine of the sun's elevation
    speed_mps: float
    awake: bool  # driving or charging: pumps may run
    occupied: bool  # a driver wants the cabin comfortable


@compiled
def relax(
    temperature_c: float, j_per_k: float, heat_w: float, link_w_per_k: float, link_w: float, dt_s: float
) -> float:
    """A node after `dt_s`: `link_w_per_k` sums its conductances, `link_w` the conductances times the neighbours."""
    if link_w_per_k <= 1e-9:
        return temperature_c + heat_w * dt_s / j_per_k
    balance_c = (heat_w + link_w) / link_w_per_k
    return balance_c + (temperature_c - balance_c) * math.exp(-dt_s * link_w_per_k / j_per_k)


@compiled
def cabin_step(s: Any, p: VanParameters, air: Surroundings, dt_s: float) -> tuple[float, float]:
    """Advance the cabin. Returns (electrical watts, watts of cold taken from the refrigerant circuit)."""
    link = 70.0 + 4.0 * air.speed_mps * 0.5
    heat = 700.0 * air.sun
    wanted = 0.0
    if air.occupied:
        wanted = min(4_500.0, max(-4_500.0, 450.0 * (p.cabin_setpoint_c - s.cabin)))
    s.cabin = relax(s.cabin, CABIN_J_PER_K, heat + wanted, link, link * air.ambient_c, dt_s)
    return (abs(wanted) / CHILLER_COP, max(0.0, -wanted))


@compiled
def chiller_step(s: Any, p: VanParameters, air: Surroundings, left: Impairment, cabin_cold_w: float) -> float:
    """Watts of cold for the battery coolant; the condenser shares air, grime and the fan with the drive loop."""
    wanted_c = p.chiller_on_c
    if s.pack > wanted_c:
        s.chilling = 1.0
    elif s.pack < wanted_c - 3.0:
        s.chilling = 0.0
    if not air.awake or s.chilling < 0.5:
        return 0.0
    draught = min(1.0, 0.08 + 0.92 * left.fan + 0.03 * air.speed_mps)
    condenser = (0.35 + 0.65 * left.radiator) * draught * min(1.15, max(0.45, 1.0 - 0.012 * (air.ambient_c - 25.0)))
    circulating = min(1.0, left.flow / 0.2)
    most = max(0.35 * p.chiller_w, p.chiller_w - 0.5 * cabin_cold_w) * left.chiller * condenser * circulating
    return float(min(most, max(0.0, 600.0 * (s.battery_coolant - 16.0))))


@compiled
def pack_step(
    s: Any,
    p: VanParameters,
    air: Surroundings,
    left: Impairment,
    heat_w: float,
    module_heat_w: float,
    cold_w: float,
    dt_s: float,
) -> None:
    """Advance module, pack and battery coolant; of the pack's `heat_w`, `module_heat_w` arises in the weakest module."""
    share = 1.0 / N_MODULES
    flow = left.flow**0.6 if air.awake else 0.0
    to_coolant = p.pack_coolant_w_per_k * flow
    to_air = p.pack_air_w_per_k + p.pack_wind_w_per_k * air.speed_mps
    s.core_rise += (p.core_k_per_w * module_heat_w - s.core_rise) * (1.0 - math.exp(-dt_s / CORE_S))
    link = p.module_link_w_per_k + share * (to_coolant + to_air)
    pull = p.module_link_w_per_k * s.pack + share * (to_coolant * s.battery_coolant + to_air * air.ambient_c)
    module = relax(s.module, share * p.pack_j_per_k, module_heat_w, link, pull, dt_s)
    rest = 1.0 - share
    link = p.module_link_w_per_k + rest * (to_coolant + to_air)
    pull = p.module_link_w_per_k * s.module + rest * (to_coolant * s.battery_coolant + to_air * air.ambient_c)
    pack = relax(s.pack, rest * p.pack_j_per_k, heat_w - module_heat_w, link, pull, dt_s)
    if p.liquid_cooled:
        link = to_coolant + 4.0
        pull = to_coolant * (share * s.module + rest * s.pack) + 4.0 * air.ambient_c
        s.battery_coolant = relax(s.battery_coolant, COOLANT_J_PER_K * left.coolant, -cold_w, link, pull, dt_s)
    else:
        s.battery_coolant = air.ambient_c
    s.module = module
    s.pack = pack


@compiled
def drive_step(
    s: Any,
    p: VanParameters,
    air: Surroundings,
    left: Impairment,
    winding_w: float,
    iron_w: float,
    inverter_w: float,
    dt_s: float,
) -> None:
    """Advance winding, motor case, inverter and drive coolant."""
    flow = left.flow**0.8 if air.awake else 0.02
    fan = left.fan * min(1.0, max(0.0, (s.drive_coolant - 48.0) / 12.0)) if air.awake else 0.0
    draught = min(1.0, 0.03 + 0.80 * fan + 0.009 * air.speed_mps)
    radiator = p.radiator_w_per_k * draught * left.radiator * min(1.0, 1.3 * flow) + 1.5
    case_coolant = p.case_coolant_w_per_k * flow
    case_air = 3.5 + 0.04 * air.speed_mps
    inverter_coolant = 100.0 * flow + 0.5
    winding_link = p.winding_case_w_per_k
    winding = relax(s.winding, p.winding_j_per_k, winding_w, winding_link, winding_link * s.case, dt_s)
    pull = winding_link * s.winding + case_coolant * s.drive_coolant + case_air * air.ambient_c
    case = relax(s.case, p.case_j_per_k, iron_w, winding_link + case_coolant + case_air, pull, dt_s)
    link = inverter_coolant + 1.5
    pull = inverter_coolant * s.drive_coolant + 1.5 * air.ambient_c
    inverter = relax(s.inverter, INVERTER_J_PER_K, inverter_w, link, pull, dt_s)
    link = case_coolant + inverter_coolant + radiator
    pull = case_coolant * s.case + inverter_coolant * s.inverter + radiator * air.ambient_c
    s.drive_coolant = relax(s.drive_coolant, COOLANT_J_PER_K * left.coolant, 0.0, link, pull, dt_s)
    s.winding = winding
    s.case = case
    s.inverter = inverter
