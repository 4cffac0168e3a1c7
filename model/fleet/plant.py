"""One van through time: driver, driveline, pack and heat in one loop, with derating fed back to the driver."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.fleet.battery import KELVIN, charge_power, current_for_power, open_circuit_v, resistance_factor
from model.fleet.driveline import DriveLoad, drive_load, reachable_speed, resistance_force
from model.fleet.faults import FaultPlan, Impairment, impairment_at
from model.fleet.limits import HOT_CELL_LIMIT_C, INVERTER_LIMIT_C, MOTOR_WINDING_LIMIT_C
from model.fleet.rounds import (
    AC_CHARGING,
    DELIVERING,
    DRIVING,
    FAST_CHARGING,
    PARKED,
    WAITING,
    advance,
    decide,
    wanted_speed,
)
from model.fleet.thermal import CHILLER_COP, Surroundings, cabin_step, chiller_step, drive_step, pack_step
from model.fleet.vehicle import N_MODULES, VanParameters
from model.jit import compiled, entry_point

LAPSE_K_PER_M = 0.0065
STANDBY_W = 12.0  # telematics and BMS of a parked van, through the DC/DC converter
AWAKE_W = 320.0

PLANT_TRACE = np.dtype(
    [
        ("east_m", "f8"),
        ("north_m", "f8"),
        ("altitude_m", "f8"),
        ("speed_mps", "f8"),
        ("soc", "f8"),
        ("current_a", "f8"),  # mean over the step that ends here, discharge positive
        ("brakes", "f8"),
        ("temperatures_c", "f8", (10,)),  # TRUE_TEMPERATURES
        ("repaired", "?"),
        ("mode", "i1"),
    ]
)


@compiled
def height_m(x_m: float, y_m: float, terrain: Any) -> float:
    """Ground above the depot. `terrain` = (amplitude m, wavelength m, two phases)."""
    wave = 2.0 * math.pi / terrain[1]
    broad = math.sin(wave * x_m + terrain[2]) * math.cos(0.77 * wave * y_m + terrain[3])
    fine = math.sin(4.7 * wave * x_m + terrain[3]) * math.cos(5.3 * wave * y_m + terrain[2])
    return float(terrain[0] * (broad + 0.06 * fine))


@compiled
def derate_factor(hot_cell_c: float, winding_c: float, inverter_c: float) -> float:
    """Share of full power the van still gives; 1 below all limits, 0.3 at worst."""
    cell = 1.0 - (hot_cell_c - HOT_CELL_LIMIT_C) / 8.0
    winding = 1.0 - (winding_c - MOTOR_WINDING_LIMIT_C) / 18.0
    inverter = 1.0 - (inverter_c - INVERTER_LIMIT_C) / 12.0
    return min(1.0, max(0.3, min(cell, winding, inverter)))


@compiled
def brake_presses(speed_mps: float, next_mps: float, friction_w: float, rng: Any) -> int:
    """Pedal presses during one step: one for most slowings, more with friction braking."""
    slowing = speed_mps - next_mps
    if slowing < 1.0:
        return 0
    expected = 0.35 + 0.12 * slowing + (0.5 if friction_w > 2_000.0 else 0.0)
    return int(expected + rng.random())


@compiled
def drive(
    s: Any, p: VanParameters, z: Any, grade: float, rho: float, derate: float, hour: float, rng: Any, dt_s: float
) -> Any:
    """Advance the van along the road. Returns (drive load, brake presses)."""
    mass_kg = p.mass_kg + 80.0 + s.payload_kg + s.trailer_kg
    wanted = wanted_speed(s, p, hour, rng, dt_s)
    force_n = resistance_force(p, mass_kg, s.trailer_kg > 0.0, s.speed_mps, grade, rho)
    after = reachable_speed(p, mass_kg, s.speed_mps, wanted, force_n, derate, dt_s)
    load = drive_load(p, mass_kg, s.speed_mps, after, force_n, z.winding, dt_s)
    presses = brake_presses(s.speed_mps, after, load.friction_brake_w, rng)
    advance(s, 0.5 * (s.speed_mps + after) * dt_s)
    s.speed_mps = after
    return load, presses


@compiled
def energy_step(
    z: Any,
    p: VanParameters,
    air: Surroundings,
    left: Impairment,
    load: DriveLoad,
    charger_w: float,
    soc: float,
    polarisation_v: float,
    dt_s: float,
) -> tuple[float, float, float]:
    """Advance charge and all temperatures by one step. Returns (soc, polarisation volts, amperes)."""
    cabin_w, cabin_cold_w = cabin_step(z, p, air, dt_s)
    cold_w = chiller_step(z, p, air, left, cabin_cold_w)
    power_w = load.electric_w + cabin_w + cold_w / CHILLER_COP + (AWAKE_W if air.awake else STANDBY_W) - charger_w
    healthy = resistance_factor(soc, z.pack, p.resistance_activation_k)
    factor = healthy * (1.0 + (left.module_resistance - 1.0) / N_MODULES)
    ohm = p.resistance_ohm * factor
    slow_ohm = p.polarisation_ohm * factor
    current = current_for_power(power_w, open_circuit_v(soc), polarisation_v, ohm)
    decay = math.exp(-dt_s / p.polarisation_s)
    polarisation_v = polarisation_v * decay + current * slow_ohm * (1.0 - decay)
    joule_w = current * current * ohm + polarisation_v * polarisation_v / slow_ohm
    other_w = joule_w * healthy / factor * (1.0 - 1.0 / N_MODULES)
    module_w = joule_w - other_w + left.short_w
    pack_step(z, p, air, left, other_w + module_w, module_w, cold_w, dt_s)
    drive_step(z, p, air, left, load.winding_heat_w, load.iron_heat_w, load.inverter_heat_w, dt_s)
    leak_a = left.short_w / open_circuit_v(soc)  # an internal short bypasses the current sensor
    return min(1.0, soc - (current + leak_a) * dt_s / 3_600.0 / p.capacity_ah), polarisation_v, current


@entry_point
def run_plant(
    p: VanParameters,
    plan: FaultPlan,
    days: NDArray[np.void],
    terrain: NDArray[np.float64],
    ambient_c: NDArray[np.float64],
    sun: NDArray[np.float64],
    local_s: float,
    soc: float,
    round_state: NDArray[np.void],
    thermal_state: NDArray[np.void],
    out: NDArray[np.void],
    rng: Any,
    dt_s: float,
) -> None:
    """Fill `out` (L,) PLANT_TRACE from the weather (L,) and the plans (n_days,) DAY_PLAN.

    `local_s` is the local time of day at the start, `soc` the state of charge there (0 to 1).
    """
    s, z = round_state[0], thermal_state[0]
    polarisation_v = 0.0
    repaired = False
    first_event_s = -1.0
    today = 0
    elevation = height_m(0.0, 0.0, terrain)
    base = elevation
    grade = 0.0
    for i in range(out.shape[0]):
        t_s = i * dt_s
        now_s = local_s + t_s
        date = min(int(now_s // 86_400.0), days.shape[0] - 1)
        if date != today and s.mode in (PARKED, AC_CHARGING):
            today = date
            s.set_out = 0
        day = days[today]
        left = impairment_at(plan, t_s, repaired)
        air_c = ambient_c[i] - LAPSE_K_PER_M * (elevation - base)
        hot_cell = z.module + z.core_rise
        derate = derate_factor(hot_cell, z.winding, z.inverter)
        decide(s, day, t_s, soc, rng, dt_s)
        rho = 353.0 / (air_c + KELVIN) * (1.0 - elevation / 9_000.0)
        load, presses = drive(s, p, z, grade, rho, derate, (now_s / 3_600.0) % 24.0, rng, dt_s)
        moved_m = max(s.speed_mps * dt_s, 0.0)
        higher = height_m(s.x_m, s.y_m, terrain)
        if moved_m > 5.0:
            grade = min(0.09, max(-0.09, (higher - elevation) / moved_m))
        elevation = higher
        charging = s.mode in (AC_CHARGING, FAST_CHARGING)
        occupied = s.mode in (DRIVING, WAITING, DELIVERING)
        air = Surroundings(air_c, sun[i], s.speed_mps, charging or occupied, occupied)
        fast = s.mode == FAST_CHARGING
        request_w = derate * charge_power(p, soc, z.pack, fast) if charging else 0.0
        soc, polarisation_v, current = energy_step(z, p, air, left, load, request_w, soc, polarisation_v, dt_s)
        if derate < 1.0 and first_event_s < 0.0 and plan.kind >= 0 and t_s > plan.start_s:
            first_event_s = t_s
        if t_s >= plan.mended_s or (first_event_s >= 0.0 and t_s > first_event_s + plan.repair_s):
            repaired = True
        write_row(out, i, s, z, elevation - base, soc, current, presses, air_c, repaired)


@compiled
def write_row(
    out: Any,
    i: int,
    s: Any,
    z: Any,
    rise_m: float,
    soc: float,
    current: float,
    presses: int,
    air_c: float,
    repaired: bool,
) -> None:
    """Record the van at the end of step `i`."""
    row = out[i]
    row.east_m, row.north_m, row.altitude_m = s.x_m, s.y_m, rise_m
    row.speed_mps, row.soc, row.current_a, row.brakes = s.speed_mps, soc, current, presses
    row.repaired, row.mode = repaired, s.mode
    true = row.temperatures_c
    true[0] = z.module + z.core_rise
    true[1], true[2], true[3] = z.module, z.pack, z.battery_coolant
    true[4], true[5], true[6], true[7] = z.winding, z.case, z.inverter, z.drive_coolant
    true[8], true[9] = z.cabin, air_c
