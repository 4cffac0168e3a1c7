"""A fleet whose trouble is easy to see: a motor that warms beyond what load explains for hours before an event."""

from dataclasses import dataclass, replace

import numpy as np

from model.channels import SIGNALS, VAN_SCHEMA, ChannelSchema
from model.fleet import TRUE_TEMPERATURES, VehicleTrace

START_MS = 1_783_296_000_000
COLUMN = {name: i for i, name in enumerate(SIGNALS)}


@dataclass(frozen=True)
class ToyFleet:
    """Vans that drive and stop by the half hour; every other one has an event at two thirds of its trace."""

    n_vehicles: int = 6
    length: int = 6_000
    seed: int = 0
    schema: ChannelSchema = VAN_SCHEMA

    def __len__(self) -> int:
        return self.n_vehicles

    @property
    def max_length(self) -> int:
        """Of every trace."""
        return self.length

    def trace(self, index: int) -> VehicleTrace:
        """Van number `index`."""
        rng = np.random.default_rng((self.seed, index))
        n = self.length
        ts_ms = START_MS + 5_000 * np.cumsum(np.where(rng.random(n) < 0.01, 3, 1))
        driving = (np.arange(n) // 360 + index) % 2 == 0
        event = index % 2 == 0
        event_ms = int(ts_ms[2 * n // 3])
        ahead_h = (event_ms - ts_ms) / 3.6e6
        label = (ahead_h > 0) & (ahead_h <= 2.0) & event
        ongoing = (ahead_h <= 0) & (ahead_h > -0.5) & event
        trouble = np.clip(1.0 - ahead_h / 2.0, 0.0, 1.0) * ((ahead_h > -0.5) & event)
        signals = np.full((n, len(SIGNALS)), np.nan, np.float32)
        signals[:, COLUMN["latitude"]] = 48.0 + 1e-6 * np.cumsum(driving)
        signals[:, COLUMN["longitude"]] = 11.0
        signals[:, COLUMN["altitude"]] = 500.0
        signals[:, COLUMN["speed"]] = np.where(driving, 12.0 + rng.normal(0, 1, n), 0.0)
        signals[:, COLUMN["state_of_charge"]] = 90.0 - 20.0 * np.arange(n) / n
        motor = 40.0 + 15.0 * driving + 40.0 * trouble + rng.normal(0, 1, n)
        signals[:, COLUMN["motor_temperature"]] = motor
        signals[:, COLUMN["brake_events"]] = rng.integers(0, 2, n) * driving
        signals[:, COLUMN["pack_current"]] = 40.0 * driving + rng.normal(0, 1, n)
        signals[:, COLUMN["pack_temperature"]] = 25.0 + 10.0 * trouble + rng.normal(0, 0.2, n)
        signals[:, COLUMN["ambient_temperature"]] = 20.0
        truth = np.tile(motor[:, None], (1, len(TRUE_TEMPERATURES))).astype(np.float32)
        return VehicleTrace(
            vehicle_id=f"toy-{index}",
            ts_ms=ts_ms.astype(np.int64),
            signals=signals,
            label=label,
            valid=~ongoing,
            events_ms=np.array([event_ms] if event else [], np.int64),
            event_causes=("motor",) if event else (),
            fault="failing_pump" if event else "",
            fault_start_ms=int(ts_ms[n // 3]) if event else -1,
            fault_end_ms=-1,
            depot="toy",
            true_temperature=truth,
        )


def cut_short(trace: VehicleTrace, n: int) -> VehicleTrace:
    """The first n samples; what comes later is unknown."""
    rows = {name: getattr(trace, name)[:n] for name in ("ts_ms", "signals", "label", "valid", "true_temperature")}
    return replace(trace, **rows)


def without(trace: VehicleTrace, *names: str) -> VehicleTrace:
    """The trace with these signals absent."""
    signals = trace.signals.copy()
    signals[:, [COLUMN[name] for name in names]] = np.nan
    return replace(trace, signals=signals)
