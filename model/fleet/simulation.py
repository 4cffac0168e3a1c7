"""From a fleet config to vehicle traces, each van on its own."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from model.fleet.config import FleetConfig, VehicleTrace, label_horizon_samples
from model.fleet.day_plan import draw_day_plans
from model.fleet.depots import DEPOTS, Depot, ambient_temperature, local_day_start_ms, solar_elevation_share
from model.fleet.faults import FAULT_KINDS, FaultPlan, draw_fault
from model.fleet.labels import find_events, label_instants
from model.fleet.limits import EVENT_CAUSES, SAMPLE_PERIOD_S
from model.fleet.plant import PLANT_TRACE, run_plant
from model.fleet.rounds import ROUND_STATE
from model.fleet.sensors import absent_channels, disturb, measure
from model.fleet.thermal import THERMAL_STATE
from model.fleet.vehicle import VanParameters, draw_parameters

# Each purpose has its own random stream, so that e.g. another fault leaves the van, its rounds and its noise alone.
VAN, FAULT, ROUTE, ROAD, SENSORS, WEATHER = range(6)
EVENT_COLUMNS = (0, 4, 6)  # hot cell, motor winding, inverter in TRUE_TEMPERATURES


def _stream(config: FleetConfig, index: int, purpose: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(config.seed, spawn_key=(index, purpose))))


def simulate(config: FleetConfig) -> Iterator[VehicleTrace]:
    """All vans of the fleet, one after the other."""
    for index in range(config.n_vehicles):
        yield simulate_vehicle(config, index)


def simulate_vehicle(config: FleetConfig, index: int) -> VehicleTrace:
    """Van number `index`; it depends on (config, index) only, not on other vans.

    Raises IndexError when the fleet has no such van.
    """
    if not 0 <= index < config.n_vehicles:
        raise IndexError(f"the fleet has {config.n_vehicles} vans, there is no number {index}")
    van = _stream(config, index, VAN)
    depot_number = int(van.integers(len(DEPOTS)))
    depot, grid_rad = DEPOTS[depot_number], float(van.uniform(0.0, np.pi / 2))
    parameters = draw_parameters(config, van)
    plan = draw_fault(config, parameters.liquid_cooled, _stream(config, index, FAULT))
    n = config.n_samples
    beyond = n + label_horizon_samples() + 1  # simulated so that the last labels are known, then cut off
    weather = _stream(config, depot_number, WEATHER)
    ambient_c = ambient_temperature(depot, config.start_ms, beyond, weather)
    sun = solar_elevation_share(depot, config.start_ms, beyond)
    plant = _run(config, index, depot, parameters, plan, ambient_c, sun)
    starts, ends, causes = find_events(np.ascontiguousarray(plant["temperatures_c"][:, EVENT_COLUMNS]))
    label, valid = label_instants(starts, ends, n)
    sensors = _stream(config, index, SENSORS)
    signals = measure(plant[:n], sun[:n], depot, grid_rad, sensors)
    arrives = disturb(signals, config, sensors)
    signals[:, absent_channels(config, van)] = np.nan
    period_ms = SAMPLE_PERIOD_S * 1_000
    fault_start_ms, fault_end_ms = _fault_span(config, plan, plant[:n])
    return VehicleTrace(
        vehicle_id=f"van-{index:05d}",
        ts_ms=(config.start_ms + np.arange(n, dtype=np.int64) * period_ms)[arrives],
        signals=signals[arrives],
        label=label[arrives],
        valid=valid[arrives],
        events_ms=config.start_ms + starts * period_ms,
        event_causes=tuple(EVENT_CAUSES[cause] for cause in causes),
        fault=FAULT_KINDS[plan.kind] if plan.kind >= 0 else "",
        fault_start_ms=fault_start_ms,
        fault_end_ms=fault_end_ms,
        depot=depot.name,
        true_temperature=plant["temperatures_c"][:n][arrives].astype(np.float32),
    )


def _run(
    config: FleetConfig,
    index: int,
    depot: Depot,
    parameters: VanParameters,
    plan: FaultPlan,
    ambient_c: NDArray[np.float64],
    sun: NDArray[np.float64],
) -> NDArray[np.void]:
    """The true course of one van, from parked and soaked through; (len(ambient_c),) PLANT_TRACE."""
    route = _stream(config, index, ROUTE)
    days = draw_day_plans(depot, config.start_ms, config.days, route)
    terrain = np.array([depot.hill_m, depot.hill_length_m, *route.uniform(0, 2 * np.pi, 2)])
    round_state = np.zeros(1, ROUND_STATE)
    round_state["light_m"] = 300.0
    thermal_state = np.zeros(1, THERMAL_STATE)
    for name in ("winding", "case", "inverter", "drive_coolant", "cabin"):
        thermal_state[name] = ambient_c[0] + 2.0
    for name in ("module", "pack", "battery_coolant"):  # too heavy to follow day and night
        thermal_state[name] = ambient_c[: 86_400 // SAMPLE_PERIOD_S].mean() + 2.0
    local_s = (config.start_ms - local_day_start_ms(depot, config.start_ms)) / 1_000
    out = np.zeros(ambient_c.size, PLANT_TRACE)
    run_plant(
        parameters, plan, days, terrain, ambient_c, sun, local_s, float(route.uniform(0.55, 1.0)),
        round_state, thermal_state, out, _stream(config, index, ROAD), float(SAMPLE_PERIOD_S),
    )  # fmt: skip
    return out


def _fault_span(config: FleetConfig, plan: FaultPlan, plant: NDArray[np.void]) -> tuple[int, int]:
    """(start, end) in epoch ms, -1 where there is none."""
    if plan.kind < 0:
        return -1, -1
    repaired = np.flatnonzero(plant["repaired"])
    end_ms = config.start_ms + int(repaired[0]) * SAMPLE_PERIOD_S * 1_000 if repaired.size else -1
    return config.start_ms + int(plan.start_s * 1_000), end_ms
