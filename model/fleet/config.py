"""What a simulated fleet is asked for and what it hands back: `FleetConfig`, `VehicleTrace` and their columns.

This module does not know how a trace comes about.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.fleet.faults import FAULT_KINDS
from model.fleet.limits import LABEL_HORIZON_S, SAMPLE_PERIOD_S

TRUE_TEMPERATURES = (
    "hot_cell",  # core of the hottest cell of the weakest module; limit 54 degC
    "module",  # weakest module
    "pack",  # all other modules, lumped
    "battery_coolant",
    "motor_winding",  # limit 145 degC
    "motor_case",
    "inverter",  # limit 80 degC
    "drive_coolant",
    "cabin",
    "ambient",  # at the van's altitude, in the shade
)


@dataclass(frozen=True, slots=True)
class FleetConfig:
    """A fleet to simulate. The same config always gives the same traces.

    Raises ValueError on values that describe no fleet.
    """

    n_vehicles: int = 240
    days: float = 14.0  # length of each trace; labels look two hours past its end
    seed: int = 0
    start_ms: int = 1_783_296_000_000  # epoch ms UTC of the first sample (2026-07-06T00:00Z: northern summer)
    faulty_share: float = 0.3  # probability that a van develops a fault within the trace
    fault_kinds: tuple[str, ...] = FAULT_KINDS  # kinds to draw from; those that do not fit a van are left out
    fault_ramp_scale: float = 1.0  # stretches (> 1) or hurries (< 1) every fault's growth; demos use < 1
    mended_ms: int | None = None  # epoch ms by which every fault is repaired; None: only after its first event
    passive_share: float = 0.15  # vans whose pack has no coolant, as the Nissan Leaf and e-NV200
    missing_channel_share: tuple[float, float, float] = (0.20, 0.25, 0.15)  # vans without current, pack T, ambient T
    sensor_trouble: float = 1.0  # multiplies the rates of stuck and drifting sensors, GPS glitches and dropouts

    def __post_init__(self) -> None:
        if self.n_vehicles < 1 or self.days <= 0.0:
            raise ValueError(f"need at least one vehicle and a positive length, got {self.n_vehicles}, {self.days} d")
        shares = (self.faulty_share, self.passive_share, *self.missing_channel_share)
        if not all(0.0 <= share <= 1.0 for share in shares):
            raise ValueError(f"shares must lie in [0, 1], got {shares}")
        unknown = sorted(set(self.fault_kinds) - set(FAULT_KINDS))
        if unknown:
            raise ValueError(f"unknown fault kinds {unknown}; known: {FAULT_KINDS}")
        if self.fault_ramp_scale <= 0.0 or self.sensor_trouble < 0.0 or self.seed < 0:
            raise ValueError("fault_ramp_scale must be positive, sensor_trouble and seed not negative")

    @property
    def n_samples(self) -> int:
        """Samples per van before any row is dropped."""
        return max(1, round(self.days * 86_400 / SAMPLE_PERIOD_S))


@dataclass(frozen=True, slots=True)
class VehicleTrace:
    """One van's samples with what only the simulator knows. L rows; rows lost on the way are simply missing."""

    vehicle_id: str
    ts_ms: NDArray[np.int64]  # (L,) epoch ms UTC, strictly increasing, multiples of 5 s apart
    signals: NDArray[np.float32]  # (L, 10) in the order of SIGNALS and in wire units; NaN = absent
    label: NDArray[np.bool_]  # (L,) an event starts in (t, t + 2 h]
    valid: NDArray[np.bool_]  # (L,) False while an event is going on, where a prediction means nothing
    events_ms: NDArray[np.int64]  # (n_events,) starts; also those up to 2 h after the last sample
    event_causes: tuple[str, ...]  # (n_events,) 'battery', 'motor' or 'inverter'
    fault: str  # '' or one of FAULT_KINDS
    fault_start_ms: int  # -1 without a fault
    fault_end_ms: int  # repaired at; -1 while not repaired within the trace
    depot: str
    true_temperature: NDArray[np.float32]  # (L, 10) degC, columns TRUE_TEMPERATURES


def label_horizon_samples() -> int:
    """Samples in the two hours a label looks ahead."""
    return LABEL_HORIZON_S // SAMPLE_PERIOD_S
