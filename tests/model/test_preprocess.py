"""The whole-sequence form against the one-sample form, and what each channel means."""

import numpy as np
import pytest
from numpy.typing import NDArray

from model.channels import SIGNALS, VAN_SCHEMA
from model.normaliser import FleetPrior
from model.preprocess import HOLD_MS, Preprocessor, preprocess_sequence, solar_hour_features

START_MS = 1_760_000_000_000
CHANNEL = {name: i for i, name in enumerate(VAN_SCHEMA.channel_names)}
SIGNAL = {name: i for i, name in enumerate(SIGNALS)}


@pytest.fixture
def preprocessor() -> Preprocessor:
    """The van schema with a unit prior, so that z-scores of a young vehicle are nearly its values."""
    n = len(VAN_SCHEMA.channels)
    return Preprocessor(VAN_SCHEMA, FleetPrior(mean=(0.0,) * n, std=(10.0,) * n), 5.0)


def random_drive(rng: np.random.Generator, n: int, length: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Timestamps (n, length) with gaps of seconds to hours, and signals (n, length, n_signals) with holes."""
    steps = np.where(rng.random((n, length)) < 0.05, rng.integers(1, 20_000_000, (n, length)), 5_000)
    ts = START_MS + np.cumsum(steps, axis=1)
    signals = rng.normal(size=(n, length, len(SIGNALS))) * 10 + 30
    walk = np.cumsum(rng.normal(size=(n, length, 2)) * 3e-4, axis=1)
    walk[rng.random((n, length)) < 0.02] += 0.5  # glitches of 50 km
    signals[..., :2] = walk + np.array([48.1, 179.99])
    signals[..., SIGNAL["speed"]] = np.abs(signals[..., SIGNAL["speed"]])
    signals[rng.random(signals.shape) < 0.2] = np.nan
    no_fix = np.isnan(signals[..., :2]).any(axis=-1)
    signals[no_fix, :2] = np.nan
    return ts, signals


def test_the_sequence_form_equals_one_sample_at_a_time(preprocessor: Preprocessor) -> None:
    """Whole sequences side by side give bit for bit what each vehicle's samples give one by one."""
    rng = np.random.default_rng()
    ts, signals = random_drive(rng, n=4, length=300)
    lengths = np.array([300, 1, 150, 299])
    whole = preprocess_sequence(preprocessor, ts, signals, lengths)
    for vehicle, length in enumerate(lengths):
        state = preprocessor.initial_state(1)
        for t in range(length):
            one = preprocessor.advance(state, ts[vehicle : vehicle + 1, t], signals[vehicle : vehicle + 1, t])
            assert np.array_equal(one.inputs[0], whole.inputs[vehicle, t])
            assert one.ratio[0] == whole.ratio[vehicle, t]
            assert np.array_equal(one.present[0], whole.present[vehicle, t])
        assert not whole.inputs[vehicle, length:].any()
    assert np.isfinite(whole.inputs).all()


def test_the_future_does_not_reach_the_past(preprocessor: Preprocessor) -> None:
    """Changing a sample leaves every earlier output as it was."""
    rng = np.random.default_rng()
    ts, signals = random_drive(rng, n=2, length=100)
    before = preprocess_sequence(preprocessor, ts, signals, np.array([100, 100]))
    signals[:, 60:] = 5.0
    after = preprocess_sequence(preprocessor, ts, signals, np.array([100, 100]))
    assert np.array_equal(before.inputs[:, :60], after.inputs[:, :60])
    assert not np.array_equal(before.inputs[:, 60:], after.inputs[:, 60:])


def test_missing_values_are_held_for_a_minute_with_the_present_bit_off(preprocessor: Preprocessor) -> None:
    """A hole keeps the last z-score for HOLD_MS, then falls to the mean; brake events are never held."""
    state = preprocessor.initial_state(1)
    full = np.full((1, len(SIGNALS)), 20.0)
    empty = np.full((1, len(SIGNALS)), np.nan)
    first = preprocessor.advance(state, np.array([START_MS]), full)
    held = preprocessor.advance(state, np.array([START_MS + HOLD_MS]), empty)
    gone = preprocessor.advance(state, np.array([START_MS + HOLD_MS + 1]), empty)
    motor, brake = CHANNEL["motor_temperature"], CHANNEL["brake_events"]
    assert first.present[0, motor]
    assert first.z[0, motor] == held.z[0, motor] == pytest.approx(2.0)
    assert not held.present.any()
    assert gone.z[0, motor] == 0.0
    assert first.z[0, brake] != 0.0
    assert held.z[0, brake] == 0.0


def test_brake_events_become_a_rate(preprocessor: Preprocessor) -> None:
    """A count over a longer interval is spread over it."""
    state = preprocessor.initial_state(1)
    sample = np.full((1, len(SIGNALS)), np.nan)
    sample[0, SIGNAL["brake_events"]] = 12.0
    one = preprocessor.advance(state.copy(), np.array([START_MS]), sample)
    preprocessor.advance(state, np.array([START_MS]), np.full_like(sample, np.nan))
    later = preprocessor.advance(state, np.array([START_MS + 30_000]), sample)
    assert later.ratio[0] == 6.0
    assert later.z[0, CHANNEL["brake_events"]] == pytest.approx(one.z[0, CHANNEL["brake_events"]] / 6.0)


def test_z_scores_adapt_to_the_vehicle_and_then_freeze(preprocessor: Preprocessor) -> None:
    """A constant reading drifts towards zero while the vehicle is young and stays put once its statistics settle."""
    n = preprocessor.prior.settled_samples
    ts = START_MS + 5_000 * np.arange(n + 2, dtype=np.int64)
    state = preprocessor.initial_state(1)
    sample = np.full((1, len(SIGNALS)), np.nan)
    motor = CHANNEL["motor_temperature"]
    sample[0, SIGNAL["motor_temperature"]] = 40.0
    z = [float(preprocessor.advance(state, ts[t : t + 1], sample).z[0, motor]) for t in range(n)]
    assert z[0] == pytest.approx(4.0)
    assert 0 < z[-1] < z[n // 2] < z[0]
    frozen = state["normaliser"].copy()
    sample[0, SIGNAL["motor_temperature"]] = 90.0
    preprocessor.advance(state, ts[n : n + 1], sample)
    assert np.array_equal(frozen, state["normaliser"])


def test_hours_follow_the_sun() -> None:
    """Noon UTC at 90 degrees east is six in the evening there; without a fix it is UTC."""
    noon = np.array([12 * 3_600_000, 18 * 3_600_000, 12 * 3_600_000])
    east, utc_evening, utc_noon = solar_hour_features(noon, np.array([90.0, np.nan, np.nan]))
    assert np.allclose(east, utc_evening)
    assert np.allclose(utc_noon, [0.0, -1.0, 0.0, 1.0])
