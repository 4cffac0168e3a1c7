"""One van's parameters, drawn around round values for vans of 2.5 to 4.2 t with 35 to 68 kWh packs."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from model.fleet import fitted

if TYPE_CHECKING:
    from model.fleet.config import FleetConfig

N_MODULES = 12
FITTED_PACK_KWH = 22.2  # the pack behind fitted.py
SERIES_CELLS = 96


class VanParameters(NamedTuple):
    """Everything the plant needs to know about one van; constant over a trace."""

    # body and driveline
    mass_kg: float
    drag_area_m2: float
    rolling_resistance: float
    gear_per_m: float  # gear ratio over wheel radius: motor speed = this * road speed
    motor_power_w: float
    regen_power_w: float
    copper_loss_w_per_nm2: float
    iron_loss_w: float  # at 500 rad/s
    inverter_loss_share: float
    # driver
    acceleration_mps2: float
    braking_mps2: float
    haste: float  # factor on the speed driven on a clear road
    # pack
    capacity_ah: float
    resistance_ohm: float  # whole pack, instantaneous, 25 degC, 50 % charged, at its age
    polarisation_ohm: float
    polarisation_s: float
    resistance_activation_k: float
    charge_limit_w: float
    charge_stop_c: float  # fast charging tapers over the 8 K below
    charge_ac_w: float
    # heat
    liquid_cooled: bool
    pack_j_per_k: float
    module_link_w_per_k: float  # weakest module to its neighbours
    core_k_per_w: float  # hottest cell's core above its module
    pack_coolant_w_per_k: float
    pack_air_w_per_k: float
    pack_wind_w_per_k: float  # more of it per m/s
    chiller_w: float
    chiller_on_c: float
    winding_j_per_k: float
    case_j_per_k: float
    winding_case_w_per_k: float
    case_coolant_w_per_k: float
    radiator_w_per_k: float
    cabin_setpoint_c: float


def draw_parameters(config: FleetConfig, rng: np.random.Generator) -> VanParameters:
    """Draw one van. Its pack is the fitted one scaled to its energy, near new to seven years old."""

    def around(value: float, spread: float) -> float:
        return float(value * np.exp(spread * np.clip(rng.standard_normal(), -2.5, 2.5)))

    liquid_cooled = bool(rng.random() >= config.passive_share)
    energy_kwh = float(rng.choice([35.0, 41.0, 47.0, 55.0, 68.0]))
    age_years = float(rng.uniform(0.2, 7.0))
    health = 1.0 - 0.025 * age_years
    ageing = around(0.95, 0.08) * (1.0 + 0.07 * age_years)
    surface = (energy_kwh / FITTED_PACK_KWH) ** (2 / 3)
    return VanParameters(
        mass_kg=around(2_550.0, 0.10),
        drag_area_m2=around(1.45, 0.08),
        rolling_resistance=around(0.0095, 0.08),
        gear_per_m=around(27.5, 0.05),
        motor_power_w=around(100_000.0, 0.12),
        regen_power_w=around(38_000.0, 0.15),
        copper_loss_w_per_nm2=around(0.11, 0.10),
        iron_loss_w=around(600.0, 0.12),
        inverter_loss_share=around(0.034, 0.10),
        acceleration_mps2=around(1.45, 0.18),
        braking_mps2=around(1.5, 0.12),
        haste=around(1.0, 0.07),
        capacity_ah=energy_kwh * 1_000 / 355.0 * health,
        resistance_ohm=fitted.RESISTANCE_OHM_KWH / energy_kwh * ageing,
        polarisation_ohm=fitted.POLARISATION_OHM_KWH / energy_kwh * ageing,
        polarisation_s=around(fitted.POLARISATION_S, 0.2),
        resistance_activation_k=around(fitted.RESISTANCE_ACTIVATION_K, 0.10),
        charge_limit_w=around((1_500.0 if liquid_cooled else 1_000.0) * energy_kwh, 0.15),
        charge_stop_c=57.0 if liquid_cooled else 50.0,
        charge_ac_w=float(rng.choice([7_200.0, 11_000.0])),
        liquid_cooled=liquid_cooled,
        pack_j_per_k=around(fitted.PACK_J_PER_K_KWH * energy_kwh, 0.06),
        module_link_w_per_k=around(6.0, 0.2),
        core_k_per_w=around(0.002, 0.15),
        pack_coolant_w_per_k=around(260.0, 0.12) if liquid_cooled else 0.0,
        pack_air_w_per_k=around(fitted.PACK_AIR_W_PER_K * surface, 0.15),
        pack_wind_w_per_k=0.0 if liquid_cooled else around(0.8, 0.15),
        chiller_w=around(3_200.0, 0.12) if liquid_cooled else 0.0,
        chiller_on_c=around(32.0, 0.05),
        winding_j_per_k=around(14_000.0, 0.10),
        case_j_per_k=around(32_000.0, 0.10),
        winding_case_w_per_k=around(34.0, 0.10),
        case_coolant_w_per_k=around(65.0, 0.12),
        radiator_w_per_k=around(330.0, 0.12),
        cabin_setpoint_c=float(rng.uniform(19.0, 23.0)),
    )
