"""The pack model follows real packs on trips it was not fitted to. Skipped where the recordings are not at hand."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.fleet import fitted
from model.fleet.fit import FIRST_PACK, PackFit, bmw_energy_kwh, fit_bmw, fit_cell, fit_leaf, main, parameters_source
from model.fleet.pack_fit import Circuit, CircuitFit, fit_circuit, fit_heat, predict, voltage_error
from model.fleet.recorded import PackRecording, read_bmw_i3, read_leaf, read_ornl_cell

REPOSITORY = Path(__file__).resolve().parents[3]
DATA = Path(os.environ.get("EMBERWATCH_DATA", REPOSITORY.parent / "shared" / "data"))
needs_recordings = pytest.mark.skipif(
    not (DATA / "bmw_i3").is_dir(), reason=f"no recordings in {DATA}; set EMBERWATCH_DATA to their folder"
)


@pytest.fixture(scope="module")
def trips() -> list[PackRecording]:
    """The BMW i3 trips."""
    return read_bmw_i3(DATA)


@pytest.fixture(scope="module")
def bmw(trips: list[PackRecording]) -> PackFit:
    """The fit that the simulator ships."""
    return fit_bmw(trips)


def invented_trip(circuit: Circuit, j_per_k: float) -> PackRecording:
    """An hour of pulses through a known circuit and heat capacity, without noise."""
    n = 3_600
    rng = np.random.default_rng(0)
    current = np.repeat(rng.uniform(-60.0, 140.0, n // 40), 40)
    charge = 0.9 - np.cumsum(current) / 3_600 / 60
    still, mild = np.zeros(n), np.full(n, 20.0)
    trip = PackRecording("invented", 1.0, current, still, charge, mild, mild, still, still)
    trip = replace(trip, temperature_c=predict(trip, circuit, FIRST_PACK._replace(j_per_k=j_per_k, cold_share=0.0)))
    return replace(trip, voltage_v=voltage_error(trip, CircuitFit(circuit, np.linspace(300.0, 400.0, 11))))


def test_the_fit_finds_a_known_pack_again() -> None:
    """From noise-free pulses the fit recovers resistances within 2 % and heat capacity within 3 %."""
    circuit = Circuit(0.08, 0.05, 90.0, 2_800.0)
    trip = invented_trip(circuit, 180e3)
    found = fit_circuit([trip], activation_k=2_800.0).circuit
    assert found.resistance_ohm == pytest.approx(0.08, rel=0.02)
    assert found.polarisation_ohm == pytest.approx(0.05, rel=0.05)
    heat = fit_heat([trip], found, FIRST_PACK._replace(cold_share=0.0), ("j_per_k",))
    assert heat.j_per_k == pytest.approx(180e3, rel=0.03)


@needs_recordings
def test_median_held_out_trip_is_within_one_kelvin(bmw: PackFit) -> None:
    """On every third trip, unseen, the median RMSE is below 1 K and below half of that of a constant temperature."""
    rmse = float(np.median([trip.rmse_k for trip in bmw.unseen]))
    baseline = float(np.median([trip.baseline_rmse_k for trip in bmw.unseen]))
    assert len(bmw.unseen) == 13
    assert rmse < 1.0
    assert rmse < 0.5 * baseline


@needs_recordings
def test_the_simulator_ships_the_parameters_of_this_fit(bmw: PackFit, trips: list[PackRecording]) -> None:
    """fitted.py is what the fit writes today, to a percent."""
    namespace: dict[str, float] = {}
    exec(parameters_source(bmw, bmw_energy_kwh(trips), 27), namespace)  # noqa: S102  our own template
    for name in (name for name in vars(fitted) if name.isupper()):
        assert getattr(fitted, name) == pytest.approx(namespace[name], rel=0.01), name


@needs_recordings
def test_leaf_and_cell_beat_a_constant_temperature(bmw: PackFit) -> None:
    """Second half of the Leaf drive, and the cell at 1C and 3C from a fit at 2C, are better than no model."""
    activation_k = bmw.circuit.circuit.activation_k
    unseen = fit_leaf(read_leaf(DATA), activation_k).unseen + fit_cell(list(read_ornl_cell(DATA)), activation_k).unseen
    assert [trip.recording.name for trip in unseen[1:]] == ["ornl-1c", "ornl-3c"]
    for trip in unseen:
        assert trip.rmse_k < 0.6 * trip.baseline_rmse_k, trip.recording.name


def test_missing_recordings_are_named(tmp_path: Path) -> None:
    """Without data the command says which folder is empty."""
    with pytest.raises(FileNotFoundError, match="bmw_i3"):
        main(["--data", str(tmp_path), "--out", str(tmp_path / "simulator.md")])
