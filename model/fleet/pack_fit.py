"""Fits the pack's equivalent circuit and its heat balance to recordings, with the simulator's own equations.

The voltage model is linear in the open-circuit voltage and the resistances, so those come from least squares inside a
search over the two parameters that are not linear. The heat balance then takes the fitted resistances as given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, minimize

from model.fleet.battery import resistance_factor
from model.fleet.recorded import PackRecording, Series
from model.fleet.thermal import relax
from model.jit import entry_point

CHARGE_KNOTS = np.linspace(0.0, 1.0, 11)


class Circuit(NamedTuple):
    """Equivalent circuit of a pack or a cell; resistances at 25 degC and half charge."""

    resistance_ohm: float
    polarisation_ohm: float
    polarisation_s: float
    activation_k: float


class HeatBalance(NamedTuple):
    """Heat capacity and heat paths of a pack or a cell."""

    j_per_k: float
    air_w_per_k: float
    wind_w_per_k: float  # more of it per m/s
    cold_share: float  # watts of cold per electrical watt of the air conditioning while the pack is warm
    cold_on_c: float


class CircuitFit(NamedTuple):
    """A fitted circuit with its open-circuit voltage at CHARGE_KNOTS."""

    circuit: Circuit
    open_circuit_v: NDArray[np.float64]  # (11,)


@entry_point
def polarisation_v(
    current_a: Series, charge: Series, temperature_c: Series, circuit: Circuit, dt_s: float
) -> tuple[Series, Series]:
    """(instantaneous, slow) voltage drops for one ohm of each resistance at 25 degC; both (n,)."""
    n = current_a.size
    fast, slow = np.empty(n), np.empty(n)
    keep = np.exp(-dt_s / circuit.polarisation_s)
    state = 0.0
    for i in range(n):
        factor = resistance_factor(charge[i], temperature_c[i], circuit.activation_k)
        state = state * keep + current_a[i] * factor * (1.0 - keep)
        fast[i], slow[i] = current_a[i] * factor, state
    return fast, slow


@entry_point
def pack_temperature(
    current_a: Series,
    charge: Series,
    ambient_c: Series,
    speed_mps: Series,
    aircon_w: Series,
    start_c: float,
    circuit: Circuit,
    heat: HeatBalance,
    dt_s: float,
) -> Series:
    """(n,) pack temperature that follows from the measured current, started at `start_c`."""
    n = current_a.size
    out = np.empty(n)
    temperature = start_c
    keep = np.exp(-dt_s / circuit.polarisation_s)
    slow_v = 0.0
    for i in range(n):
        out[i] = temperature
        factor = resistance_factor(charge[i], temperature, circuit.activation_k)
        slow_v = slow_v * keep + current_a[i] * circuit.polarisation_ohm * factor * (1.0 - keep)
        joule_w = current_a[i] ** 2 * circuit.resistance_ohm * factor
        joule_w += slow_v**2 / (circuit.polarisation_ohm * factor)
        cold_w = heat.cold_share * aircon_w[i] * min(1.0, max(0.0, (temperature - heat.cold_on_c) / 2.0))
        link = heat.air_w_per_k + heat.wind_w_per_k * speed_mps[i]
        temperature = relax(temperature, heat.j_per_k, joule_w - cold_w, link, link * ambient_c[i], dt_s)
    return out


def predict(trip: PackRecording, circuit: Circuit, heat: HeatBalance, start: int = 0) -> Series:
    """(n - start,) modelled temperature of `trip` from row `start` on, given its temperature there only."""
    part = slice(start, None)
    return pack_temperature(
        trip.current_a[part],
        trip.charge[part],
        trip.ambient_c[part],
        trip.speed_mps[part],
        trip.aircon_w[part],
        float(trip.temperature_c[start]),
        circuit,
        heat,
        trip.period_s,
    )


def hat_weights(charge: Series) -> NDArray[np.float64]:
    """(n, 11) weights of linear interpolation between CHARGE_KNOTS."""
    distance = np.abs(charge[:, None] - CHARGE_KNOTS[None, :]) / (CHARGE_KNOTS[1] - CHARGE_KNOTS[0])
    return np.asarray(np.clip(1.0 - distance, 0.0, 1.0), np.float64)


def _voltage_problem(trips: Sequence[PackRecording], circuit: Circuit) -> tuple[NDArray[np.float64], Series]:
    rows = []
    for trip in trips:
        fast, slow = polarisation_v(trip.current_a, trip.charge, trip.temperature_c, circuit, trip.period_s)
        rows.append(np.column_stack((hat_weights(trip.charge), -fast, -slow)))
    return np.concatenate(rows), np.concatenate([trip.voltage_v for trip in trips])


def fit_circuit(trips: Sequence[PackRecording], activation_k: float | None = None) -> CircuitFit:
    """Fit the circuit to measured voltages; `activation_k` fixes the temperature dependence where data cannot tell it."""

    def solve(nonlinear: NDArray[np.float64]) -> tuple[float, CircuitFit]:
        slow_s = float(np.exp(nonlinear[0]))
        activation = float(nonlinear[1]) * 1_000 if activation_k is None else activation_k
        trial = Circuit(1.0, 1.0, slow_s, activation)
        matrix, volts = _voltage_problem(trips, trial)
        # A faint pull to neighbouring knots decides charges that no trip visits.
        bridge = 1.0 * np.diff(np.eye(matrix.shape[1])[:11], n=2, axis=0)
        full = np.concatenate((matrix, bridge))
        target = np.concatenate((volts, np.zeros(len(bridge))))
        weights = np.linalg.lstsq(full, target, rcond=None)[0]
        circuit = Circuit(max(float(weights[11]), 1e-6), max(float(weights[12]), 1e-6), slow_s, activation)
        return float(np.mean((matrix @ weights - volts) ** 2)), CircuitFit(
            circuit, np.asarray(weights[:11], np.float64)
        )

    best = minimize(
        lambda x: solve(x)[0],
        np.array([np.log(60.0), 2.5]),
        method="Nelder-Mead",
        options={"xatol": 0.02, "maxiter": 80},
    )
    return solve(best.x)[1]


def voltage_error(trip: PackRecording, fit: CircuitFit) -> Series:
    """(n,) modelled minus measured volts."""
    matrix, volts = _voltage_problem([trip], fit.circuit)
    weights = np.concatenate((fit.open_circuit_v, [fit.circuit.resistance_ohm, fit.circuit.polarisation_ohm]))
    return np.asarray(matrix @ weights - volts)


def fit_heat(
    trips: Sequence[PackRecording],
    circuit: Circuit,
    first: HeatBalance,
    free: Sequence[str],
    starts: Sequence[int] = (),
) -> HeatBalance:
    """Fit the `free` fields of `first` to the measured temperatures; every trip weighs the same."""
    scale = np.array([getattr(first, name) for name in free])

    def balance(x: NDArray[np.float64]) -> HeatBalance:
        return first._replace(**{name: float(v) for name, v in zip(free, np.exp(x) * scale, strict=True)})

    def residuals(x: NDArray[np.float64]) -> NDArray[np.float64]:
        parts = []
        for i, trip in enumerate(trips):
            start = starts[i] if starts else 0
            error = predict(trip, circuit, balance(x), start) - trip.temperature_c[start:]
            parts.append(error / np.sqrt(error.size))
        return np.concatenate(parts)

    result = least_squares(residuals, np.zeros(len(free)), bounds=(-4.0, 4.0), diff_step=1e-3)
    return balance(result.x)
