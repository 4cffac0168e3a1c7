"""From road load to electrical power and heat: tyres, air, slope, motor and inverter.

Source: Guzzella & Sciarretta, Vehicle Propulsion Systems (2013), chapters 2 and 4.
"""

from __future__ import annotations

from typing import NamedTuple

from model.fleet.vehicle import VanParameters
from model.jit import compiled

GRAVITY_MPS2 = 9.81
GEAR_EFFICIENCY = 0.97
ROTATING_MASS = 1.05
SPEED_OF_IRON_LOSS = 500.0


class DriveLoad(NamedTuple):
    """What the driveline takes and loses, averaged over one sample period; watts, newton metres."""

    electric_w: float  # from the pack; negative when recuperating
    winding_heat_w: float
    iron_heat_w: float
    inverter_heat_w: float
    friction_brake_w: float


@compiled
def resistance_force(
    p: VanParameters, mass_kg: float, trailer: bool, speed_mps: float, grade: float, rho: float
) -> float:
    """Newtons against the van at steady speed: rolling, air and slope."""
    drag_area_m2 = p.drag_area_m2 * (1.35 if trailer else 1.0)
    rolling = mass_kg * GRAVITY_MPS2 * p.rolling_resistance
    return rolling + 0.5 * rho * drag_area_m2 * speed_mps * speed_mps + mass_kg * GRAVITY_MPS2 * grade


@compiled
def reachable_speed(
    p: VanParameters, mass_kg: float, speed_mps: float, wanted_mps: float, force_n: float, derate: float, dt_s: float
) -> float:
    """Speed after `dt_s` when the driver wants `wanted_mps` and `force_n` resists, within the derated motor power."""
    limit_n = GEAR_EFFICIENCY * derate * p.motor_power_w / max(speed_mps, 8.0)
    most_mps = speed_mps + (limit_n - force_n) / (mass_kg * ROTATING_MASS) * dt_s
    return min(wanted_mps, max(most_mps, min(wanted_mps, 2.5)))


@compiled
def drive_load(
    p: VanParameters, mass_kg: float, speed_mps: float, next_mps: float, force_n: float, winding_c: float, dt_s: float
) -> DriveLoad:
    """Electrical power and heat while the speed goes from `speed_mps` to `next_mps` in `dt_s`."""
    mean_mps = 0.5 * (speed_mps + next_mps)
    if mean_mps <= 0.05:
        return DriveLoad(0.0, 0.0, 0.0, 0.0, 0.0)
    wheel_n = force_n + mass_kg * ROTATING_MASS * (next_mps - speed_mps) / dt_s
    wheel_w = wheel_n * mean_mps
    recuperable_w = -p.regen_power_w * min(1.0, mean_mps / 6.0)
    friction_w = max(0.0, recuperable_w - wheel_w)
    wheel_w = max(wheel_w, recuperable_w)
    shaft_w = wheel_w / GEAR_EFFICIENCY if wheel_w > 0.0 else wheel_w * GEAR_EFFICIENCY
    motor_rad_s = p.gear_per_m * mean_mps
    torque_nm = shaft_w / max(motor_rad_s, 30.0)
    copper_w = p.copper_loss_w_per_nm2 * torque_nm * torque_nm * (1.0 + 0.0039 * (winding_c - 25.0))
    iron_w = p.iron_loss_w * (motor_rad_s / SPEED_OF_IRON_LOSS) ** 1.5
    inverter_w = 180.0 + p.inverter_loss_share * abs(shaft_w) + 0.9 * abs(torque_nm)
    electric_w = shaft_w + copper_w + iron_w + inverter_w
    return DriveLoad(electric_w, copper_w, iron_w, inverter_w, friction_w)
