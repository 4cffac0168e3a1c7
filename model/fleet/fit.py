"""Fit the pack to public recordings and write down how well it does on trips the fit did not see.

    python -m model.fleet.fit --data ../shared/data --out docs/simulator.md [--write-parameters]

The text between the markers in the document is replaced, the rest is left alone. Needs scipy and matplotlib.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from model.fleet.pack_fit import Circuit, CircuitFit, HeatBalance, fit_circuit, fit_heat, predict, voltage_error
from model.fleet.recorded import PackRecording, Series, read_bmw_i3, read_leaf, read_ornl_cell

HELD_OUT_EVERY = 3  # trips number 2, 5, 8, ... by name are held out; the two other rotations are reported beside it
BMW_NOMINAL_V = 360.0
FIRST_PACK = HeatBalance(j_per_k=200e3, air_w_per_k=8.0, wind_w_per_k=0.0, cold_share=0.5, cold_on_c=24.0)
FIRST_CELL = HeatBalance(j_per_k=800.0, air_w_per_k=0.3, wind_w_per_k=0.0, cold_share=0.0, cold_on_c=24.0)


@dataclass(frozen=True, slots=True)
class TripResult:
    """One recording that a fit did not see."""

    recording: PackRecording
    predicted_c: Series  # (n,) started at the first measured temperature, driven by the measured current
    voltage_rmse_v: float

    @property
    def rmse_k(self) -> float:
        """Root mean square error of the modelled temperature."""
        return _rms(self.predicted_c - self.recording.temperature_c)

    @property
    def baseline_rmse_k(self) -> float:
        """The same for a temperature that stays as it was at the start."""
        return _rms(self.recording.temperature_c - self.recording.temperature_c[0])

    @property
    def end_error_k(self) -> float:
        """Modelled minus measured temperature at the end."""
        return float(self.predicted_c[-1] - self.recording.temperature_c[-1])


@dataclass(frozen=True, slots=True)
class PackFit:
    """A fitted pack and what it does on recordings it has not seen."""

    circuit: CircuitFit
    heat: HeatBalance
    unseen: tuple[TripResult, ...]


def _rms(error: Series) -> float:
    return float(np.sqrt(np.mean(error**2)))


def _result(recording: PackRecording, circuit: CircuitFit, heat: HeatBalance) -> TripResult:
    predicted = predict(recording, circuit.circuit, heat)
    return TripResult(recording, predicted, _rms(voltage_error(recording, circuit)))


def rows_of(recording: PackRecording, start: int, stop: int) -> PackRecording:
    """Rows [start, stop) of a recording."""
    series = {f.name: getattr(recording, f.name)[start:stop] for f in fields(recording)[2:]}
    return replace(recording, **series)


def fit_bmw(trips: Sequence[PackRecording], rotation: int = 2) -> PackFit:
    """Fit on the trips whose number by name is not `rotation` modulo HELD_OUT_EVERY, judge on the others."""
    seen = [trip for i, trip in enumerate(trips) if i % HELD_OUT_EVERY != rotation]
    unseen = [trip for i, trip in enumerate(trips) if i % HELD_OUT_EVERY == rotation]
    circuit = fit_circuit(seen)
    heat = fit_heat(seen, circuit.circuit, FIRST_PACK, ("j_per_k", "air_w_per_k", "cold_share", "cold_on_c"))
    return PackFit(circuit, heat, tuple(_result(trip, circuit, heat) for trip in unseen))


def fit_leaf(drive: PackRecording, activation_k: float) -> PackFit:
    """Fit on the first half of the only drive, judge on the second, started at its measured temperature.

    The drive is warm throughout and cannot tell how resistance varies with temperature: `activation_k` is the BMW's.
    """
    half = drive.current_a.size // 2
    first, second = rows_of(drive, 0, half), rows_of(drive, half, drive.current_a.size)
    circuit = fit_circuit([first], activation_k)
    start = FIRST_PACK._replace(cold_share=0.0)
    heat = fit_heat([first], circuit.circuit, start, ("j_per_k", "air_w_per_k"))
    return PackFit(circuit, heat, (_result(second, circuit, heat),))


def fit_cell(tests: Sequence[PackRecording], activation_k: float) -> PackFit:
    """Fit on the first 2C discharge and charge (12,000 s) of the Leaf cell, judge on the whole 1C and 3C tests."""
    seen = rows_of(next(test for test in tests if test.name == "ornl-2c"), 0, 4_000)
    circuit = fit_circuit([seen], activation_k)
    heat = fit_heat([seen], circuit.circuit, FIRST_CELL, ("j_per_k", "air_w_per_k"))
    unseen = [test for test in tests if test.name != "ornl-2c"]
    return PackFit(circuit, heat, tuple(_result(test, circuit, heat) for test in unseen))


def bmw_energy_kwh(trips: Sequence[PackRecording]) -> float:
    """Nominal energy of the pack from its coulombs per state of charge."""
    drawn_ah = sum(float(trip.current_a.sum()) * trip.period_s / 3_600 for trip in trips)
    return drawn_ah / sum(float(trip.charge[0] - trip.charge[-1]) for trip in trips) * BMW_NOMINAL_V / 1_000


PARAMETERS = '''"""Pack parameters fitted to recordings. Written by `python -m model.fleet.fit --write-parameters`; do not edit.

Source: 40 BMW i3 trips, TU Munich, 'Battery and Heating Data in Real Driving Cycles' (IEEE DataPort, CC BY 4.0);
fitted on the {n_seen} trips not held out. docs/simulator.md says how well.
"""

RESISTANCE_OHM_KWH = {resistance:.4g}  # instantaneous resistance times nominal energy, 25 degC, half charge
POLARISATION_OHM_KWH = {polarisation:.4g}
POLARISATION_S = {slow:.4g}
RESISTANCE_ACTIVATION_K = {activation:.4g}
PACK_J_PER_K_KWH = {capacity:.4g}  # heat capacity per nominal kWh
PACK_AIR_W_PER_K = {air:.4g}
'''


def parameters_source(fit: PackFit, energy_kwh: float, n_seen: int) -> str:
    """Python source of the fitted constants that the simulator draws its vans around."""
    circuit: Circuit = fit.circuit.circuit
    return PARAMETERS.format(
        n_seen=n_seen,
        resistance=circuit.resistance_ohm * energy_kwh,
        polarisation=circuit.polarisation_ohm * energy_kwh,
        slow=circuit.polarisation_s,
        activation=circuit.activation_k,
        capacity=fit.heat.j_per_k / energy_kwh,
        air=fit.heat.air_w_per_k,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m model.fleet.fit", description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with the recordings")
    parser.add_argument("--out", type=Path, default=Path("docs/simulator.md"), help="document to write into")
    parser.add_argument("--write-parameters", action="store_true", help="rewrite model/fleet/fitted.py too")
    options = parser.parse_args(arguments)
    trips = read_bmw_i3(options.data)
    from model.fleet import fit_report  # noqa: PLC0415  matplotlib is only needed here

    rotations = {rotation: fit_bmw(trips, rotation) for rotation in range(HELD_OUT_EVERY)}
    shipped = rotations[2]
    activation_k = shipped.circuit.circuit.activation_k
    leaf = fit_leaf(read_leaf(options.data), activation_k)
    cell = fit_cell(list(read_ornl_cell(options.data)), activation_k)
    energy_kwh = bmw_energy_kwh(trips)
    fit_report.write(options.out, rotations, leaf, cell, energy_kwh)
    if options.write_parameters:
        source = parameters_source(shipped, energy_kwh, len(trips) - len(shipped.unseen))
        Path(__file__).with_name("fitted.py").write_text(source)
    median = float(np.median([trip.rmse_k for trip in shipped.unseen]))
    baseline = float(np.median([trip.baseline_rmse_k for trip in shipped.unseen]))
    sys.stdout.write(
        f"held-out BMW i3 trips: median RMSE {median:.2f} K, constant temperature {baseline:.2f} K -> {options.out}\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
