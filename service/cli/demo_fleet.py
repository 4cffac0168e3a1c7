"""The demo's vans: days of an ordinary simulated fleet, moved to end now. Needs the simulator's extra."""

import time
from dataclasses import dataclass, replace

import numpy as np

from model.fleet import FleetConfig, VehicleTrace, simulate_vehicle
from model.recordings import Recording

HOUR_MS, DAY_MS = 3_600_000, 86_400_000
FIRST_HOUR = 6  # UTC, of each van's day: the night before is dull
FLEET = FleetConfig(n_vehicles=160, seed=11)  # nothing hurried, nothing made worse
# (van, day of its fortnight), chosen by `python -m service.cli.demo_choice`, which says how; in order: two vans of which
# the model warns, one whose overheating it does not foresee, a healthy one, a third with a warning, a healthy one.
VANS = ((32, 11), (72, 2), (88, 7), (0, 7), (86, 10), (5, 7))


@dataclass(frozen=True, slots=True)
class DemoVan:
    """One van's day."""

    vehicle_id: str
    recording: Recording
    events: tuple[tuple[int, str], ...]  # (epoch ms, cause) of what truly happens, which the service is not told


def first_ms(day: int) -> int:
    """Epoch ms, in the fleet's own time, at which a van's day begins."""
    return FLEET.start_ms + day * DAY_MS + FIRST_HOUR * HOUR_MS


def part_of_day(trace: VehicleTrace, day: int, hours: float) -> VehicleTrace:
    """The trace's first `hours` of `day`, with the events that start in them."""
    begin, end = first_ms(day), first_ms(day) + int(hours * HOUR_MS)
    rows = (trace.ts_ms >= begin) & (trace.ts_ms < end)
    within = (trace.events_ms >= begin) & (trace.events_ms < end)
    return replace(
        trace,
        ts_ms=trace.ts_ms[rows],
        signals=trace.signals[rows],
        label=trace.label[rows],
        valid=trace.valid[rows],
        true_temperature=trace.true_temperature[rows],
        events_ms=trace.events_ms[within],
        event_causes=tuple(cause for cause, inside in zip(trace.event_causes, within, strict=True) if inside),
    )


def simulate_fleet(vans: int, hours: float) -> list[DemoVan]:
    """The first `vans` of the demo; all begin at the same instant, at the right hour of day, and end within the last day."""
    latest = int(time.time() * 1000) - int(hours * HOUR_MS) - first_ms(0)
    begin = first_ms(0) + latest // DAY_MS * DAY_MS
    fleet = []
    for van, day in VANS[:vans]:
        trace = part_of_day(simulate_vehicle(FLEET, van), day, hours)
        shift = begin - first_ms(day)
        recording = Recording(trace.ts_ms + shift, trace.signals.astype(np.float64))
        events = zip((trace.events_ms + shift).tolist(), trace.event_causes, strict=True)
        fleet.append(DemoVan(trace.vehicle_id, recording, tuple(events)))
    return fleet
