"""The demo's vans: a summer day of the simulated fleet with faults, moved to end now. Needs the simulator's extra."""

import time

import numpy as np

from model.fleet import FleetConfig, simulate_vehicle
from model.recordings import Recording

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
SEED = 11
# Chosen by hand so that there is something to see: 13 (coolant leak), 5 and 2 (a failing module) and 18 (an internal
# short) overheat within the demo, 0 and 16 stay quiet. What the model says of them is not chosen.
VANS = (13, 5, 18, 2, 0, 16)
FIRST_HOUR = 9  # of the simulated day: the night before is dull


def simulate_fleet(vans: int, hours: float) -> list[tuple[str, Recording]]:
    """Vehicle ids with their recordings; timestamps end within the last day, at the right hour of day."""
    days = (FIRST_HOUR + hours) / 24.0
    config = FleetConfig(n_vehicles=40, days=days, seed=SEED, faulty_share=1.0, fault_ramp_scale=0.25)
    first_ms = config.start_ms + FIRST_HOUR * HOUR_MS
    shift = (int(time.time() * 1000) - first_ms - int(hours * HOUR_MS)) // DAY_MS * DAY_MS
    fleet = []
    for van in VANS[:vans]:
        trace = simulate_vehicle(config, van)
        rows = trace.ts_ms >= first_ms
        fleet.append((trace.vehicle_id, Recording(trace.ts_ms[rows] + shift, trace.signals[rows].astype(np.float64))))
    return fleet
