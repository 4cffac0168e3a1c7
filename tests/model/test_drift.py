"""Drift: the index is the textbook's, what is old is forgotten, and the shipped reference is of the shipped model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.checkpoint import SHIPPED, load_checkpoint
from model.dataset import SimulatedFleet, preprocess_traces
from model.drift import LEAST_SAMPLES, Distribution, DriftMonitor, DriftReference, DriftReferenceError, stability_index
from model.drift_reference import bins_of, main
from model.fleet import FleetConfig
from tests.model.own_clock import Clock

QUARTERS = Distribution((-0.6745, 0.0, 0.6745), (0.25, 0.25, 0.25, 0.25))
HALVES = Distribution((0.5,), (0.9, 0.1))
REFERENCE = DriftReference("f" * 32, "none", {"speed": QUARTERS, "climb_rate": HALVES}, HALVES)


def observe(monitor: DriftMonitor, z: np.ndarray, risk: float = 0.1) -> None:
    """Both channels of each row have the same z-score."""
    both = np.repeat(z.astype(np.float32)[:, None], 2, axis=1)
    monitor.observe(both, np.ones_like(both, bool), np.full(len(z), risk))


def test_the_index_of_a_known_shift_is_the_textbooks() -> None:
    """(0.5 - 0.9) ln(0.5 / 0.9) + (0.5 - 0.1) ln(0.5 / 0.1), by hand."""
    assert stability_index(np.array([0.5, 0.5]), np.array([0.9, 0.1])) == pytest.approx(0.8789, abs=1e-4)
    assert stability_index(np.array([0.9, 0.1]), np.array([0.9, 0.1])) == 0.0


def test_what_looks_like_training_has_no_drift_and_a_shift_has() -> None:
    """Normal z-scores against quarters of the normal distribution; then all of them half a deviation higher."""
    z = np.random.default_rng(0).normal(size=20_000)
    like, shifted = DriftMonitor(REFERENCE), DriftMonitor(REFERENCE)
    observe(like, z)
    observe(shifted, z + 0.5)
    assert like.read()[0]["speed"] < 0.01
    assert 0.15 < shifted.read()[0]["speed"] < 0.5


def test_batches_of_one_count_as_one_batch() -> None:
    """The order and the size of batches make no difference."""
    clock = Clock()
    z = np.random.default_rng(1).normal(size=3_000)
    whole, single = DriftMonitor(REFERENCE, clock=clock), DriftMonitor(REFERENCE, clock=clock)
    observe(whole, z)
    for value in z[::-1]:
        observe(single, np.array([value]))
    assert whole.read() == single.read()


def test_absent_values_and_risks_that_are_not_finite_do_not_count() -> None:
    """A channel nobody sends has no index, not the drift of a heap at zero."""
    monitor = DriftMonitor(REFERENCE)
    z, present = np.zeros((5_000, 2), np.float32), np.ones((5_000, 2), bool)
    present[:, 1] = False
    monitor.observe(z, present, np.full(5_000, np.nan))
    channels, score = monitor.read()
    assert np.isfinite(channels["speed"])
    assert np.isnan(channels["climb_rate"])
    assert np.isnan(score)


def test_there_is_no_index_of_too_few_samples() -> None:
    """One sample less than needed."""
    monitor = DriftMonitor(REFERENCE, clock=Clock())
    observe(monitor, np.zeros(int(LEAST_SAMPLES) - 1))
    assert np.isnan(monitor.read()[0]["speed"])
    observe(monitor, np.zeros(1))
    assert np.isfinite(monitor.read()[0]["speed"])


def test_what_is_old_is_forgotten() -> None:
    """After ten half-lives the earlier fleet has no weight against a fresh one of the same size."""
    clock = Clock()
    monitor = DriftMonitor(REFERENCE, half_life_s=60.0, clock=clock)
    observe(monitor, np.full(20_000, 3.0))
    before = monitor.read()[0]["speed"]
    clock.now += 600.0
    observe(monitor, np.random.default_rng(2).normal(size=20_000))
    assert before > 2.0
    assert monitor.read()[0]["speed"] < 0.02


def test_edges_of_a_reference_avoid_heaps() -> None:
    """Values that sit in two heaps give one edge between them, none through them."""
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(-0.1, 0.01, 9_000), rng.normal(0.9, 0.01, 1_000)])
    found = bins_of(values)
    assert all(min(abs(edge + 0.1), abs(edge - 0.9)) > 0.05 for edge in found.edges)
    assert max(found.shares) == pytest.approx(0.9)
    with pytest.raises(ValueError, match="all alike"):
        bins_of(np.zeros(10))


def test_the_shipped_reference_is_of_the_shipped_model() -> None:
    """Else the service would run without drift; `python -m model.drift_reference` makes it again."""
    checkpoint = load_checkpoint()
    reference = DriftReference.load(SHIPPED, checkpoint.fingerprint())
    assert reference is not None
    assert list(reference.channels) == [channel.name for channel in checkpoint.schema.channels]


def test_a_wrong_unit_shows_in_its_channel_and_in_no_other() -> None:
    """Vans of another week, as they are and with speed in km/h, against the shipped reference."""
    checkpoint = load_checkpoint()
    reference = DriftReference.load(SHIPPED, checkpoint.fingerprint())
    assert reference is not None
    fleet = SimulatedFleet(FleetConfig(n_vehicles=6, days=1.0, seed=4_000))
    drifts = []
    for factor in (1.0, 3.6):
        monitor = DriftMonitor(reference, clock=Clock())
        for van in range(len(fleet)):
            trace = fleet.trace(van)
            signals = trace.signals.copy()
            signals[:, checkpoint.schema.signal_names.index("speed")] *= factor
            seen = preprocess_traces(checkpoint.preprocessor(), [replace(trace, signals=signals)])
            inputs = seen.inputs[0, : seen.lengths[0]]
            monitor.observe(inputs[:, :9], inputs[:, 9:18] != 0, np.full(len(inputs), 0.001))
        drifts.append(monitor.read()[0])
    healthy, wrong = drifts
    assert healthy["speed"] < 0.1
    assert wrong["speed"] > 0.25
    assert wrong["motor_temperature"] == pytest.approx(healthy["motor_temperature"])


def test_a_reference_of_another_model_or_unreadable_is_refused(tmp_path: Path) -> None:
    """The message names the file and says what to run; no file is no error."""
    assert DriftReference.load(tmp_path, "f" * 32) is None
    REFERENCE.save(tmp_path)
    assert DriftReference.load(tmp_path, "f" * 32) == REFERENCE
    with pytest.raises(DriftReferenceError, match="drift_reference"):
        DriftReference.load(tmp_path, "0" * 32)
    text = json.loads((tmp_path / "drift.json").read_text())
    text["channels"]["speed"]["edges"] = [1.0, 0.0, 2.0]
    (tmp_path / "drift.json").write_text(json.dumps(text))
    with pytest.raises(DriftReferenceError, match="rise"):
        DriftReference.load(tmp_path, "f" * 32)


def test_the_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder without a checkpoint is exit code 2 and one line."""
    assert main(["--checkpoint", str(tmp_path)]) == 2
    assert "no readable checkpoint" in capsys.readouterr().err
