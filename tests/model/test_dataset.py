"""Traces to training arrays: what each row holds, whoever wrote it, and what is refused."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from model.channels import VAN_SCHEMA, ChannelSchema
from model.dataset import (
    PRIOR_SAMPLES,
    TIMED,
    Sequences,
    SimulatedFleet,
    TraceSource,
    build_sequences,
    fit_prior,
    open_sequences,
    preprocess_traces,
)
from model.fleet import FleetConfig, VehicleTrace
from model.normaliser import FleetPrior
from model.preprocess import Preprocessor

N = len(VAN_SCHEMA.channels)
FLEET = SimulatedFleet(FleetConfig(n_vehicles=5, days=0.1, seed=11, sensor_trouble=5.0))


@dataclass(frozen=True)
class Recorded:
    """A source that does not know its longest trace, or claims a wrong one."""

    traces: tuple[VehicleTrace, ...]
    schema: ChannelSchema = VAN_SCHEMA

    def __len__(self) -> int:
        return len(self.traces)

    def trace(self, index: int) -> VehicleTrace:
        """One of them."""
        return self.traces[index]


@dataclass(frozen=True)
class Boastful(Recorded):
    """A source whose traces are longer than it says."""

    max_length: int = 10


@pytest.fixture(scope="module")
def preprocessor() -> Preprocessor:
    """The van schema with a plausible prior."""
    return Preprocessor(VAN_SCHEMA, FleetPrior((10.0,) * N, (5.0,) * N), 5.0)


def shortened(trace: VehicleTrace, n: int) -> VehicleTrace:
    """Its first n samples."""
    return replace(
        trace, ts_ms=trace.ts_ms[:n], signals=trace.signals[:n], label=trace.label[:n], valid=trace.valid[:n]
    )


def assert_same(one: Sequences, other: Sequences) -> None:
    """Bit for bit, in every field."""
    for name in (*TIMED, "lengths"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert one.vehicle_ids == other.vehicle_ids
    assert one.faults == other.faults
    assert all(np.array_equal(a, b) for a, b in zip(one.events_ms, other.events_ms, strict=True))


def test_a_row_is_what_streaming_the_van_gives(preprocessor: Preprocessor) -> None:
    """Inputs and ratio equal one sample at a time, bit for bit; labels, times and names are the trace's."""
    built = build_sequences(FLEET, preprocessor, [3, 1], workers=1, folder=None)
    assert len(built) == 2
    for row, van in enumerate((3, 1)):
        trace = FLEET.trace(van)
        n = len(trace.ts_ms)
        state = preprocessor.initial_state(1)
        for t in range(n):
            one = preprocessor.advance(state, trace.ts_ms[t : t + 1], trace.signals[t : t + 1])
            assert np.array_equal(one.inputs[0], built.inputs[row, t])
            assert one.ratio[0] == built.ratio[row, t]
        assert np.array_equal(built.label[row, :n], trace.label)
        assert np.array_equal(built.valid[row, :n], trace.valid)
        assert np.array_equal(built.ts_ms[row, :n], trace.ts_ms)
        assert np.array_equal(built.events_ms[row], trace.events_ms)
        assert (built.lengths[row], built.vehicle_ids[row], built.faults[row]) == (n, trace.vehicle_id, trace.fault)


def test_padding_passes_time_and_means_nothing(preprocessor: Preprocessor) -> None:
    """Beyond a shorter van's end: ratio 1, everything else zero, never valid."""
    traces = [FLEET.trace(0), shortened(FLEET.trace(1), 100), shortened(FLEET.trace(2), 1)]
    for built in (
        preprocess_traces(preprocessor, traces),
        build_sequences(Recorded(tuple(traces)), preprocessor, range(3), workers=1, folder=None),
    ):
        assert built.inputs.shape == (3, len(traces[0].ts_ms), VAN_SCHEMA.d_input)
        assert built.lengths.tolist() == [len(traces[0].ts_ms), 100, 1]
        for row, n in ((1, 100), (2, 1)):
            assert (built.ratio[row, n:] == 1.0).all()
            for name in ("inputs", "label", "valid", "ts_ms"):
                assert not getattr(built, name)[row, n:].any(), name


def test_the_number_of_workers_changes_nothing(preprocessor: Preprocessor, tmp_path: Path) -> None:
    """One process, two processes, kept or nameless files, or traces at hand: the same arrays."""
    vans = [4, 0, 2]
    alone = build_sequences(FLEET, preprocessor, vans, workers=1, folder=None)
    assert_same(alone, build_sequences(FLEET, preprocessor, vans, workers=2, folder=tmp_path / "new" / "folder"))
    assert_same(alone, open_sequences(tmp_path / "new" / "folder"))
    assert_same(alone, build_sequences(FLEET, preprocessor, vans, workers=2, folder=None))
    assert_same(alone, preprocess_traces(preprocessor, [FLEET.trace(van) for van in vans]))


def test_a_source_that_does_not_know_its_longest_trace_is_asked_for_it(preprocessor: Preprocessor) -> None:
    """Lengths are then found out first; a false promise is refused with the vehicle's name."""
    traces = tuple(FLEET.trace(van) for van in range(2))
    built = build_sequences(Recorded(traces), preprocessor, range(2), workers=1, folder=None)
    assert_same(built, build_sequences(FLEET, preprocessor, range(2), workers=1, folder=None))
    with pytest.raises(ValueError, match=r"van-00000 has \d+ samples, its source promised at most 10"):
        build_sequences(Boastful(traces), preprocessor, range(2), workers=1, folder=None)


def test_vehicles_can_be_taken_out(preprocessor: Preprocessor) -> None:
    """`take` copies rows in the order asked for."""
    built = build_sequences(FLEET, preprocessor, range(4), workers=1, folder=None)
    taken = built.take([2, 0])
    assert taken.vehicle_ids == ("van-00002", "van-00000")
    assert np.array_equal(taken.inputs[0], built.inputs[2])
    assert taken.lengths.tolist() == built.lengths[[2, 0]].tolist()


def test_an_unfinished_folder_is_not_opened(preprocessor: Preprocessor, tmp_path: Path) -> None:
    """A build that failed leaves nothing that reads as data, not even what was there before."""
    build_sequences(FLEET, preprocessor, [0], workers=1, folder=tmp_path)
    torn = Recorded((FLEET.trace(0), shortened(FLEET.trace(1), 0)))
    with pytest.raises(ValueError, match="van-00001 has no samples"):
        build_sequences(torn, preprocessor, range(2), workers=2, folder=tmp_path)
    with pytest.raises(FileNotFoundError, match="no finished sequences"):
        open_sequences(tmp_path)


def test_nonsense_is_refused_with_the_reason(preprocessor: Preprocessor) -> None:
    """Nothing to build, nobody to build it, vans that do not exist, traces that are none."""
    with pytest.raises(ValueError, match="no vehicles to build"):
        build_sequences(FLEET, preprocessor, [], workers=1, folder=None)
    with pytest.raises(ValueError, match="workers must be at least 1, got 0"):
        build_sequences(FLEET, preprocessor, [0], workers=0, folder=None)
    with pytest.raises(IndexError, match="has 5 vehicles, there is no number 5"):
        build_sequences(FLEET, preprocessor, [0, 5], workers=1, folder=None)
    fewer = ChannelSchema(VAN_SCHEMA.signals[:-1], VAN_SCHEMA.channels[:-1])
    with pytest.raises(ValueError, match="not those of the preprocessor"):
        build_sequences(replace(FLEET, schema=fewer), preprocessor, [0], workers=1, folder=None)
    with pytest.raises(ValueError, match="no traces"):
        preprocess_traces(preprocessor, [])
    trace = FLEET.trace(0)
    with pytest.raises(ValueError, match=r"van-00000 has .* its schema has 10 signals"):
        preprocess_traces(preprocessor, [replace(trace, signals=trace.signals[:, :9])])
    twice = np.concatenate((trace.ts_ms[:7], trace.ts_ms[6:-1]))
    with pytest.raises(ValueError, match="van-00000: sample 7 is not later than the one before it"):
        preprocess_traces(preprocessor, [replace(trace, ts_ms=twice)])


def constant_trace(van: int, values: "np.ndarray[tuple[int], np.dtype[np.float32]]") -> VehicleTrace:
    """A parked van whose motor temperature takes these values, and which has no other signal."""
    n = len(values)
    signals = np.full((n, len(VAN_SCHEMA.signals)), np.nan, np.float32)
    signals[:, VAN_SCHEMA.signal_names.index("motor_temperature")] = values
    nothing = np.zeros(n, np.bool_)
    ts_ms = 1_760_000_000_000 + 5_000 * np.arange(n, dtype=np.int64)
    return replace(FLEET.trace(0), vehicle_id=f"van-{van}", ts_ms=ts_ms, signals=signals, label=nothing, valid=~nothing)


def test_the_prior_is_the_spread_of_raw_values_and_shrugs_off_absurd_ones() -> None:
    """Mean and deviation as drawn, in spite of a few readings of 300 degrees; a channel nobody has gets (0, 1)."""
    rng = np.random.default_rng(5)
    traces = []
    for van in range(4):
        values = rng.normal(40.0, 6.0, 20_000).astype(np.float32)
        values[:: 20_000 // 10] = 300.0
        traces.append(constant_trace(van, values))
    prior = fit_prior(Recorded(tuple(traces)))
    motor = VAN_SCHEMA.channel_names.index("motor_temperature")
    assert prior.mean[motor] == pytest.approx(40.0, abs=0.2)
    assert prior.std[motor] == pytest.approx(6.0, abs=0.2)
    speed = VAN_SCHEMA.channel_names.index("speed")
    assert (prior.mean[speed], prior.std[speed]) == (0.0, 1.0)


def test_the_prior_looks_at_early_and_late_stretches() -> None:
    """In traces longer than a stretch, different vehicles are looked at in different places."""
    n = PRIOR_SAMPLES * 3
    ramp = np.linspace(0.0, 90.0, n, dtype=np.float32)
    prior = fit_prior(Recorded(tuple(constant_trace(van, ramp) for van in range(4))))
    motor = VAN_SCHEMA.channel_names.index("motor_temperature")
    assert prior.mean[motor] > 30.0
    assert prior.std[motor] > 15.0


def test_the_prior_does_not_depend_on_the_workers() -> None:
    """Two processes find what one finds; an empty source has no prior."""
    assert fit_prior(FLEET, workers=2) == fit_prior(FLEET)
    empty: TraceSource = Recorded(())
    with pytest.raises(ValueError, match="no vehicles to fit"):
        fit_prior(empty)
