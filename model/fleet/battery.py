"""The pack's equivalent circuit: open-circuit voltage, resistance with temperature and charge, one RC pair.

Source: Plett, Battery Management Systems vol. 1 (2015), chapter 2. NMC open-circuit voltage after Chen et al. 2020.
"""

from __future__ import annotations

import math

from model.fleet.vehicle import SERIES_CELLS, VanParameters
from model.jit import compiled

KELVIN = 273.15


@compiled
def open_circuit_v(soc: float) -> float:
    """Pack volts at rest; `soc` from 0 to 1."""
    s = min(max(soc, 0.0), 1.0)
    cell = 3.32 + 0.86 * s - 0.42 * math.exp(-28.0 * s) + 0.09 * math.tanh((s - 0.58) / 0.09) - 0.09
    return SERIES_CELLS * cell


@compiled
def resistance_factor(soc: float, temperature_c: float, activation_k: float) -> float:
    """Factor on the resistance at 25 degC and half charge: Arrhenius in temperature, a rise below 20 % charge."""
    cold = math.exp(activation_k * (1.0 / (temperature_c + KELVIN) - 1.0 / 298.15))
    return min(cold, 6.0) * (1.0 + 1.1 * math.exp(-max(soc, 0.0) / 0.09))


@compiled
def current_for_power(power_w: float, ocv_v: float, polarisation_v: float, ohm: float) -> float:
    """Amperes (discharge positive) at which the terminals deliver `power_w`; the peak-power current if they cannot."""
    source_v = ocv_v - polarisation_v
    discriminant = source_v * source_v - 4.0 * ohm * power_w
    if discriminant <= 0.0:
        return source_v / (2.0 * ohm)
    return (source_v - math.sqrt(discriminant)) / (2.0 * ohm)


@compiled
def charge_power(p: VanParameters, soc: float, pack_temperature_c: float, fast: bool) -> float:
    """Watts the charger delivers: the BMS tapers fast charging near full, when hot and when cold."""
    if not fast:
        return p.charge_ac_w * min(1.0, max(0.1, (1.0 - soc) / 0.03))
    full = min(1.0, max(0.12, (0.98 - soc) / 0.25))
    hot = min(1.0, max(0.2, (p.charge_stop_c - pack_temperature_c) / 8.0))
    cold = min(1.0, max(0.1, (pack_temperature_c + 5.0) / 22.0))
    return p.charge_limit_w * full * min(hot, cold)
