"""The fleet obeys physics, keeps its promises about randomness, and labels what it says it labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from model.channels import SIGNALS
from model.fleet import (
    FAULT_KINDS,
    TRUE_TEMPERATURES,
    FleetConfig,
    VehicleTrace,
    simulate,
    simulate_vehicle,
    wire_order,
)
from model.fleet.labels import find_events, label_instants
from model.fleet.limits import HOT_CELL_LIMIT_C, INVERTER_LIMIT_C, MOTOR_WINDING_LIMIT_C

CLEAN = FleetConfig(
    n_vehicles=8, days=4.0, seed=3, faulty_share=0.0, sensor_trouble=0.0, missing_channel_share=(0.0, 0.0, 0.0)
)


def signal(trace: VehicleTrace, name: str) -> NDArray[np.float64]:
    """One wire signal in double precision."""
    return trace.signals[:, SIGNALS.index(name)].astype(np.float64)


def truth(trace: VehicleTrace, name: str) -> NDArray[np.float32]:
    """One true temperature."""
    return trace.true_temperature[:, TRUE_TEMPERATURES.index(name)]


@pytest.fixture(scope="module")
def clean() -> list[VehicleTrace]:
    """Healthy vans with untroubled sensors."""
    return list(simulate(CLEAN))


def same(a: VehicleTrace, b: VehicleTrace) -> bool:
    """Whether two traces agree bit for bit."""
    fields = ("ts_ms", "signals", "label", "valid", "events_ms", "true_temperature")
    return all(np.array_equal(getattr(a, f), getattr(b, f), equal_nan=f == "signals") for f in fields)


def test_same_config_gives_the_same_trace() -> None:
    """A van simulated twice is the same bit for bit."""
    config = FleetConfig(n_vehicles=3, days=2.0, seed=11)
    assert same(simulate_vehicle(config, 2), simulate_vehicle(config, 2))


def test_another_seed_gives_another_trace() -> None:
    """The seed matters."""
    config = FleetConfig(n_vehicles=3, days=1.0, seed=11)
    assert not same(simulate_vehicle(config, 2), simulate_vehicle(replace(config, seed=12), 2))


def test_a_van_does_not_depend_on_the_others() -> None:
    """A van in a large fleet is the van in a small one, and simulating the fleet gives what simulating each gives."""
    config = FleetConfig(n_vehicles=3, days=1.0, seed=5)
    for index, trace in enumerate(simulate(config)):
        assert same(trace, simulate_vehicle(replace(config, n_vehicles=1_000), index))


def test_a_van_outside_the_fleet_is_refused() -> None:
    """An index past the end of the fleet is an error."""
    with pytest.raises(IndexError, match="no number 3"):
        simulate_vehicle(FleetConfig(n_vehicles=3, days=1.0), 3)


@pytest.mark.parametrize(
    "wrong", [{"n_vehicles": 0}, {"days": 0.0}, {"faulty_share": 1.5}, {"fault_kinds": ("rust",)}, {"seed": -1}]
)
def test_a_config_that_describes_no_fleet_is_refused(wrong: dict[str, object]) -> None:
    """Values without meaning raise ValueError."""
    with pytest.raises(ValueError, match=r".+"):
        FleetConfig(**wrong)  # type: ignore[arg-type]


def test_time_moves_in_whole_sample_periods() -> None:
    """Timestamps increase strictly, stay on the 5 s grid, and some rows are lost."""
    config = FleetConfig(n_vehicles=2, days=3.0, seed=1)
    trace = simulate_vehicle(config, 0)
    steps = np.diff(trace.ts_ms)
    assert (steps > 0).all()
    assert not (steps % 5_000).any()
    assert trace.ts_ms.size < config.n_samples


def test_charge_falls_as_current_flows(clean: list[VehicleTrace]) -> None:
    """Over any hour the state of charge changes by the integral of the current over one and the same capacity."""
    for trace in clean:
        charge_ah = np.cumsum(signal(trace, "pack_current")) * 5 / 3_600
        soc = signal(trace, "state_of_charge")
        hour = 720
        inside = (soc[hour:] < 99.0) & (soc[:-hour] < 99.0)
        drawn_ah, lost = (charge_ah[hour:] - charge_ah[:-hour])[inside], (soc[:-hour] - soc[hour:])[inside]
        slope = (drawn_ah @ lost) / (drawn_ah @ drawn_ah)
        assert 50 < 100 / slope < 250, "capacity in Ah"
        assert np.abs(lost - slope * drawn_ah).max() < 1.2


def test_a_parked_van_cools_to_its_surroundings(clean: list[VehicleTrace]) -> None:
    """After six hours of standing, motor and inverter are within 10 K of the air around them."""
    checked = 0
    for trace in clean:
        rest = 6 * 720
        moving = np.concatenate(([0], np.cumsum((signal(trace, "speed") > 0) | (signal(trace, "pack_current") < -2.0))))
        quiet = np.flatnonzero(moving[rest:] == moving[:-rest]) + rest - 1
        air = truth(trace, "ambient")[quiet]
        for part in ("motor_winding", "inverter", "drive_coolant"):
            assert np.abs(truth(trace, part)[quiet] - air).max(initial=0.0) < 10.0
        checked += quiet.size
    assert checked > 1_000


def test_gps_speed_agrees_with_the_speedometer(clean: list[VehicleTrace]) -> None:
    """Over a minute of driving straight the GPS displacement never exceeds the distance driven, and often equals it."""
    for trace in clean[:4]:
        latitude, longitude, speed = (signal(trace, name) for name in ("latitude", "longitude", "speed"))
        north_m = (latitude - latitude[0]) * 111_130
        east_m = (longitude - longitude[0]) * 111_320 * np.cos(np.deg2rad(latitude[0]))
        window = 12
        gps_m = np.hypot(north_m[window:] - north_m[:-window], east_m[window:] - east_m[:-window])
        midpoints = 0.5 * (speed[1:] + speed[:-1]) * 5
        driven_m = np.convolve(midpoints, np.ones(window), "valid")
        fast = driven_m > 600
        ratio = gps_m[fast] / driven_m[fast]
        assert fast.sum() > 100
        assert 0.97 < np.median(ratio) < 1.03
        assert np.percentile(ratio, 99) < 1.06


def test_true_positions_are_in_several_time_zones() -> None:
    """A fleet spreads over depots with different longitudes."""
    config = FleetConfig(n_vehicles=12, days=0.1, seed=0)
    zones = {round(float(np.nanmedian(trace.signals[:, 1])) / 15) for trace in simulate(config)}
    assert len(zones) >= 3


def test_label_is_an_event_start_within_two_hours() -> None:
    """Label and validity equal a brute-force reading of their definition, also across lost rows."""
    config = FleetConfig(
        n_vehicles=10, days=3.0, seed=2, faulty_share=1.0, fault_kinds=("module_resistance",), fault_ramp_scale=0.1
    )
    positives = 0
    for trace in simulate(config):
        expected = np.zeros(trace.ts_ms.size, bool)
        for start in trace.events_ms:
            expected |= (trace.ts_ms < start) & (start <= trace.ts_ms + 7_200_000)
        assert np.array_equal(trace.label, expected)
        limits = np.array([HOT_CELL_LIMIT_C, MOTOR_WINDING_LIMIT_C, INVERTER_LIMIT_C], np.float32)
        over = (trace.true_temperature[:, [0, 4, 6]] >= limits).any(axis=1)
        assert not (over & trace.valid).any(), "no valid instant lies above a limit"
        positives += int(expected.sum())
    assert positives > 500


def test_events_end_by_hysteresis_and_close_ones_are_one() -> None:
    """Noise around the limit, and a second crossing within half an hour, do not make a second event."""
    temperatures = np.full((4_000, 3), 20.0)
    temperatures[100:200:2, 0] = HOT_CELL_LIMIT_C + 0.1
    temperatures[101:200:2, 0] = HOT_CELL_LIMIT_C - 0.1
    temperatures[400:410, 0] = HOT_CELL_LIMIT_C + 1.0
    temperatures[2_000:2_100, 1] = MOTOR_WINDING_LIMIT_C
    starts, ends, causes = find_events(temperatures)
    assert starts.tolist() == [100, 2_000]
    assert ends.tolist() == [410, 2_100]
    assert causes.tolist() == [0, 1]
    label, valid = label_instants(starts, ends, 4_000)
    assert np.flatnonzero(~valid).tolist() == [*range(100, 410), *range(2_000, 2_100)]
    assert np.flatnonzero(label).tolist() == [*range(100), *range(2_000 - 1_440, 2_000)]


def test_positive_rate_of_a_moderate_fleet() -> None:
    """Between 0.1 and 0.6 % of the valid instants are positive, and healthy vans contribute some of them."""
    config = FleetConfig(n_vehicles=40, days=10.0, seed=7)
    positive = valid = 0
    for trace in simulate(config):
        positive += int((trace.label & trace.valid).sum())
        valid += int(trace.valid.sum())
    assert 0.001 < positive / valid < 0.006


HOTTER = {
    "failing_pump": "inverter",
    "coolant_leak": "inverter",
    "blocked_radiator": "drive_coolant",
    "fan_stuck": "drive_coolant",
    "module_resistance": "module",
    "internal_short": "module",
    "chiller_failure": "pack",
}


@pytest.mark.parametrize("kind", FAULT_KINDS)
def test_each_fault_heats_its_part(kind: str) -> None:
    """A van with the fault gets hotter than the same van without it, and was the same van before the fault."""
    config = replace(
        CLEAN, n_vehicles=6, days=6.0, faulty_share=1.0, fault_kinds=(kind,), fault_ramp_scale=0.3, passive_share=0.0
    )
    rises = []
    for index in range(6):
        faulty, healthy = simulate_vehicle(config, index), simulate_vehicle(replace(config, faulty_share=0.0), index)
        assert faulty.fault == kind
        before = faulty.ts_ms < faulty.fault_start_ms
        assert np.array_equal(faulty.signals[before], healthy.signals[before])
        sick = faulty.ts_ms >= faulty.fault_start_ms
        if faulty.fault_end_ms > 0:
            sick &= faulty.ts_ms < faulty.fault_end_ms
        hot = truth(faulty, HOTTER[kind])[sick], truth(healthy, HOTTER[kind])[sick]
        rises.append(np.percentile(hot[0], 99) - np.percentile(hot[1], 99))
    assert np.median(rises) > 0.0, "one van may run its chiller earlier for it and end up cooler"
    assert max(rises) > 3.0


def test_a_fault_that_is_mended_in_time_leads_nowhere() -> None:
    """A van mended an hour before its event is the same van up to then, has no event, and cools; one mended sooner was never ill."""
    config = replace(CLEAN, n_vehicles=1, faulty_share=1.0, fault_kinds=("failing_pump",), fault_ramp_scale=0.2)
    ill = simulate_vehicle(config, 0)
    mended_ms = int(ill.events_ms[0]) - 3_600_000
    mended = simulate_vehicle(replace(config, mended_ms=mended_ms), 0)
    before = ill.ts_ms < mended_ms
    assert ill.fault_start_ms == mended.fault_start_ms < mended_ms == mended.fault_end_ms
    assert np.array_equal(ill.signals[before], mended.signals[before], equal_nan=True)
    assert mended.events_ms.size == 0
    after = (mended.ts_ms >= mended_ms) & (mended.ts_ms < mended_ms + 7_200_000)
    assert truth(mended, "inverter")[after].max() < truth(ill, "inverter")[after].max() - 10.0
    never = simulate_vehicle(replace(config, mended_ms=ill.fault_start_ms), 0)
    assert (never.fault, never.fault_start_ms, never.fault_end_ms) == ("", -1, -1)
    assert same(never, simulate_vehicle(replace(config, faulty_share=0.0), 0))


def test_healthy_vans_are_sometimes_warm() -> None:
    """Without any fault some part of some van comes within 12 K of its limit, so warmth alone is no alarm."""
    config = FleetConfig(n_vehicles=24, days=7.0, seed=1, faulty_share=0.0)
    limits = np.array([HOT_CELL_LIMIT_C, MOTOR_WINDING_LIMIT_C, INVERTER_LIMIT_C])
    margins = [float((limits - trace.true_temperature[:, [0, 4, 6]].max(axis=0)).min()) for trace in simulate(config)]
    assert 0.0 < min(margins) < 12.0
    assert np.median(margins) > 10.0


def test_some_vans_lack_optional_channels_and_all_have_the_core() -> None:
    """A missing channel is missing throughout; the core channels are mostly present."""
    absent = np.zeros(len(SIGNALS))
    for trace in simulate(FleetConfig(n_vehicles=30, days=0.5, seed=4)):
        share = np.isnan(trace.signals).mean(axis=0)
        absent += share == 1.0
        assert share[:7].max() < 0.6
    assert (absent[7:] > 0).all()
    assert (absent[7:] < 20).all()
    assert not absent[:7].any()


def test_wire_order_repeats_and_delays_but_loses_nothing() -> None:
    """Every row arrives, some twice and some late, and the late ones by no more than asked."""
    trace = simulate_vehicle(CLEAN, 0)
    order = wire_order(trace, np.random.default_rng(0), latest_samples=24)
    seen, counts = np.unique(order, return_counts=True)
    assert np.array_equal(seen, np.arange(trace.ts_ms.size))
    assert 0.003 < (counts == 2).mean() < 0.007
    behind = np.maximum.accumulate(order) - order
    assert 0 < behind.max() <= 24 + 3
