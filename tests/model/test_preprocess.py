"""The whole-sequence form against the one-sample form, and what each channel means."""

import threading
import time

import numpy as np
import pytest
from numpy.typing import NDArray

from model.channels import SIGNALS, VAN_SCHEMA
from model.normaliser import FleetPrior
from model.preprocess import HOLD_MS, Features, Preprocessor, preprocess_sequence, solar_hour_features
from tests.model.preprocess_reference import ReferenceVehicle

START_MS = 1_760_000_000_000
CHANNEL = {name: i for i, name in enumerate(VAN_SCHEMA.channel_names)}
SIGNAL = {name: i for i, name in enumerate(SIGNALS)}


@pytest.fixture
def preprocessor() -> Preprocessor:
    """The van schema with a unit prior, so that z-scores of a young vehicle are nearly its values."""
    n = len(VAN_SCHEMA.channels)
    return Preprocessor(VAN_SCHEMA, FleetPrior(mean=(0.0,) * n, std=(10.0,) * n), 5.0)


def random_drive(
    rng: np.random.Generator, n: int, length: int, start: tuple[float, float] = (48.1, 179.99)
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Timestamps (n, length) with gaps of seconds to hours, and signals (n, length, n_signals) with holes."""
    steps = np.where(rng.random((n, length)) < 0.05, rng.integers(1, 20_000_000, (n, length)), 5_000)
    ts = START_MS + np.cumsum(steps, axis=1)
    signals = rng.normal(size=(n, length, len(SIGNALS))) * 10 + 30
    walk = np.cumsum(rng.normal(size=(n, length, 2)) * 3e-4, axis=1)
    walk[rng.random((n, length)) < 0.02] += 0.5  # glitches of 50 km
    signals[..., 0] = np.clip(walk[..., 0] + start[0], -90.0, 90.0)
    signals[..., 1] = (walk[..., 1] + start[1] + 180.0) % 360.0 - 180.0
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


@pytest.mark.parametrize("start", [(48.1, 11.0), (0.0, 179.999), (89.999, 20.0), (-89.9999, -179.99)])
def test_the_compiled_code_does_the_textbook_maths(start: tuple[float, float]) -> None:
    """On drives with glitches, gaps, holes, poles and the antimeridian: values, z-scores and hours of the reference."""
    n = len(VAN_SCHEMA.channels)
    prior = FleetPrior((20.0,) * n, (2.0,) * n, prior_weight=40.0, settled_samples=150)
    preprocessor = Preprocessor(VAN_SCHEMA, prior, 5.0)
    ts, signals = random_drive(np.random.default_rng(), n=1, length=500, start=start)
    signals[0, ::50, SIGNAL["motor_temperature"]] = 300.0  # beyond what may be learned
    reference = ReferenceVehicle(VAN_SCHEMA, prior, 5.0)
    scored, observed = preprocessor.initial_state(1), preprocessor.initial_state(1)
    for t in range(500):
        inputs, ratio, values = reference.advance(int(ts[0, t]), signals[0, t])
        ours = preprocessor.advance(scored, ts[:, t], signals[:, t])
        our_ratio, our_values, our_present = preprocessor.observe(
            observed, np.ones(len(observed), np.int64), ts[:, t], signals[:, t]
        )
        assert our_ratio[0] == pytest.approx(ratio, rel=1e-15)
        assert np.array_equal(our_present[0], ~np.isnan(values))
        np.testing.assert_allclose(our_values[0], np.nan_to_num(values), rtol=1e-11, atol=1e-11)
        held = [0.0 if pair is None else pair[1] for pair in reference.held]
        np.testing.assert_allclose(scored["held_z"][0], held, rtol=1e-11, atol=1e-11)
        np.testing.assert_allclose(ours.inputs[0], inputs, rtol=1e-6, atol=1e-6)


def test_one_absurd_reading_does_not_skew_the_statistics(preprocessor: Preprocessor) -> None:
    """A single reading of a million, valid by its range, moves later z-scores by less than a tenth."""
    rng = np.random.default_rng(3)
    ts = START_MS + 5_000 * np.arange(2_000)
    signals = np.full((1, 2_000, len(SIGNALS)), np.nan)
    signals[0, :, SIGNAL["brake_events"]] = rng.normal(20.0, 5.0, 2_000)
    clean = preprocess_sequence(preprocessor, ts[None], signals, np.array([2_000]))
    signals[0, 100, SIGNAL["brake_events"]] = 1_000_000.0
    struck = preprocess_sequence(preprocessor, ts[None], signals, np.array([2_000]))
    brake = CHANNEL["brake_events"]
    assert struck.z[0, 100, brake] == 8.0
    assert np.abs(struck.z[0, 101:, brake] - clean.z[0, 101:, brake]).max() < 0.1


def test_states_inside_larger_records_are_advanced_in_place(preprocessor: Preprocessor) -> None:
    """States at odd offsets of a record, at a stride, give bit for bit what states of their own give."""
    ts, signals = random_drive(np.random.default_rng(), n=3, length=40)
    records = np.zeros(5, np.dtype([("before", "u1", (13,)), ("preprocess", preprocessor.dtype), ("after", "u1")]))
    records["before"], records["after"] = 7, 9
    records["preprocess"][1:4] = preprocessor.initial_state(3)
    alone = preprocessor.initial_state(3)
    for t in range(40):
        inside = preprocessor.advance(records["preprocess"][1:4], ts[:, t], signals[:, t])
        assert np.array_equal(inside.inputs, preprocessor.advance(alone, ts[:, t], signals[:, t]).inputs)
    assert records["preprocess"][1:4].tobytes() == alone.tobytes()
    assert (records["before"] == 7).all()
    assert (records["after"] == 9).all()
    assert not np.frombuffer(records["preprocess"][[0, 4]].tobytes(), "u1").any()


def test_read_only_and_single_precision_samples_are_taken(preprocessor: Preprocessor) -> None:
    """What is mapped from a file, or float32, is a sample like any other."""
    ts, signals = random_drive(np.random.default_rng(), n=1, length=50)
    signals = signals.astype(np.float32).astype(np.float64)
    whole = preprocess_sequence(preprocessor, ts, signals, np.array([50]))
    ts.flags.writeable = False
    single = signals.astype(np.float32)
    single.flags.writeable = False
    assert np.array_equal(preprocess_sequence(preprocessor, ts, single, np.array([50])).inputs, whole.inputs)


def test_shapes_that_do_not_belong_together_are_refused(preprocessor: Preprocessor) -> None:
    """Compiled code never gets to see them: it would read and write whatever lies there."""
    ts, signals = np.array([START_MS]), np.zeros((1, len(SIGNALS)))
    inputs, ratio = np.zeros((1, VAN_SCHEMA.d_input), np.float32), np.zeros(1, np.float32)
    with pytest.raises(ValueError, match="states"):
        preprocessor.advance(preprocessor.initial_state(2), ts, signals)
    with pytest.raises(ValueError, match="signals"):
        preprocessor.advance(preprocessor.initial_state(1), ts, signals[:, :-1])
    with pytest.raises(ValueError, match="results"):
        preprocessor.advance_over_time(ts, signals, inputs[:, :-1], ratio)
    with pytest.raises(ValueError, match="results"):
        preprocessor.advance_over_time(ts, signals, inputs, ratio[:0])
    assert len(preprocessor.advance(preprocessor.initial_state(0), ts[:0], signals[:0]).inputs) == 0


def test_other_threads_run_meanwhile(preprocessor: Preprocessor) -> None:
    """The compiled loop holds no lock on the interpreter, and two of them do not disturb each other."""
    ts = START_MS + 5_000 * np.arange(1_000_000)
    signals = np.full((1_000_000, len(SIGNALS)), 20.0)
    preprocess_sequence(preprocessor, ts[None, :1], signals[None, :1], np.array([1]))  # compiled from here on
    ran: list[tuple[float, float, Features]] = []

    def run() -> None:
        started = time.perf_counter()
        features = preprocess_sequence(preprocessor, ts[None], signals[None], np.array([len(ts)]))
        ran.append((started, time.perf_counter(), features))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    seen = []
    while any(thread.is_alive() for thread in threads):
        seen.append(time.perf_counter())
        time.sleep(0.001)
    (started, ended, one), (_, _, other) = ran
    middle = (started + 0.25 * (ended - started), started + 0.75 * (ended - started))
    assert any(middle[0] < instant < middle[1] for instant in seen)
    assert np.array_equal(one.inputs, other.inputs)


def test_hours_follow_the_sun() -> None:
    """Noon UTC at 90 degrees east is six in the evening there; without a fix it is UTC."""
    hour_ms = 3_600_000
    assert np.allclose(solar_hour_features(12 * hour_ms, 90.0), solar_hour_features(18 * hour_ms, np.nan))
    assert np.allclose(solar_hour_features(12 * hour_ms, np.nan), [0.0, -1.0, 0.0, 1.0])
