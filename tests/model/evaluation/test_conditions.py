"""Worse telemetry changes what it says and nothing else, and is the same for every model."""

import numpy as np
import pytest

from model.channels import SIGNALS
from model.evaluation.conditions import (
    CONDITIONS,
    GLITCH_FACTOR,
    with_channels,
    with_dropped_samples,
    with_gps_glitches,
)
from model.fleet import FleetConfig, VehicleTrace, simulate_vehicle
from model.fleet.sensors import GLITCHES_PER_DAY

FLEET = FleetConfig(n_vehicles=2, days=3.0, seed=5, missing_channel_share=(0.0, 0.0, 0.0))


@pytest.fixture(scope="module")
def trace() -> VehicleTrace:
    """A van with all channels."""
    return simulate_vehicle(FLEET, 0)


def test_six_channels_lack_the_optional_signals_alone(trace: VehicleTrace) -> None:
    """The other columns are untouched, and so is the trace that went in."""
    (six,) = with_channels([trace], 6)
    optional = [SIGNALS.index(name) for name in ("pack_current", "pack_temperature", "ambient_temperature")]
    assert np.isnan(six.signals[:, optional]).all()
    assert not np.isnan(trace.signals[:, optional]).all()
    others = [i for i in range(len(SIGNALS)) if i not in optional]
    assert np.array_equal(six.signals[:, others], trace.signals[:, others], equal_nan=True)
    assert with_channels([trace], 9) == [trace]
    with pytest.raises(ValueError, match="6 or 9"):
        with_channels([trace], 7)


def test_glitches_come_at_ten_times_the_rate_and_move_the_position_only(trace: VehicleTrace) -> None:
    """About nine times the simulator's rate is added; each lasts at most six samples."""
    changed = with_gps_glitches(trace).signals != trace.signals
    changed &= ~np.isnan(trace.signals)
    position = [SIGNALS.index(name) for name in ("latitude", "longitude", "altitude")]
    assert not np.delete(changed, position, axis=1).any()
    begins = np.count_nonzero(np.diff(changed[:, position[0]].astype(int)) == 1)
    assert begins == pytest.approx((GLITCH_FACTOR - 1) * GLITCHES_PER_DAY * FLEET.days, rel=0.4)


def test_a_fifth_of_the_samples_is_dropped_from_every_array(trace: VehicleTrace) -> None:
    """The rest keeps its order and its labels; the first sample stays."""
    thin = with_dropped_samples(trace)
    assert len(thin.ts_ms) / len(trace.ts_ms) == pytest.approx(0.8, abs=0.01)
    rows = np.searchsorted(trace.ts_ms, thin.ts_ms)
    assert rows[0] == 0
    for name in ("ts_ms", "signals", "label", "valid", "true_temperature"):
        assert np.array_equal(getattr(thin, name), getattr(trace, name)[rows], equal_nan=name == "signals"), name
    assert thin.events_ms is trace.events_ms


@pytest.mark.parametrize("condition", CONDITIONS, ids=lambda c: f"{c.name}-{c.channels}")
def test_conditions_are_the_same_every_time_and_differ_between_vans(trace: VehicleTrace, condition: object) -> None:
    """Seeded by the van, not by the order of calls."""
    transform = condition.transform  # type: ignore[attr-defined]
    once, again = transform(trace), transform(trace)
    assert np.array_equal(once.signals, again.signals, equal_nan=True)
    assert np.array_equal(once.ts_ms, again.ts_ms)


def test_dropped_samples_differ_between_vans(trace: VehicleTrace) -> None:
    """Otherwise a fleet would lose the same instants in every van."""
    other = simulate_vehicle(FLEET, 1)
    kept = [np.isin(t.ts_ms, with_dropped_samples(t).ts_ms)[:1_000] for t in (trace, other)]
    assert not np.array_equal(kept[0], kept[1])
