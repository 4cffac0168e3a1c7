"""What rounding in snapshots does to a van's risk stays within the bounds of docs/state-sizes.md; fp32 does nothing."""

import numpy as np
import pytest

from model.checkpoint import load_checkpoint
from model.evaluation.handed_over import Course, Days, run_days, simulate_days, state_error
from service.benchmark.bench_snapshot_dtype import once, through_snapshots
from service.records.state_codec import SnapshotDtype

pytestmark = pytest.mark.slow

CHECKPOINT = load_checkpoint()
EVERY, SAMPLES, VANS = 60, 2_880, 3


@pytest.fixture(scope="module")
def four_hours() -> tuple[Days, Course]:
    """Other healthy and faulty vans in every run, their faults growing within the hours, and their unbroken course."""
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    print("seed", seed)  # noqa: T201 - shown by pytest when a test fails
    days = simulate_days(CHECKPOINT, VANS, length=SAMPLES, seed=seed, ramp=0.02)
    return days, run_days(CHECKPOINT, days, EVERY, None)


@pytest.mark.parametrize(
    ("dtype", "in_state", "in_risk"), [("fp32", 0.0, 0.0), ("bf16", 0.25, 0.1), ("int8", 0.15, 0.08)]
)
def test_a_state_that_is_handed_over_at_every_snapshot(
    four_hours: tuple[Days, Course], dtype: SnapshotDtype, in_state: float, in_risk: float
) -> None:
    """The worst that can happen: 48 takeovers, all of them rounded."""
    days, truth = four_hours
    course = run_days(CHECKPOINT, days, EVERY, through_snapshots(CHECKPOINT.fingerprint(), dtype))
    risk = CHECKPOINT.calibration.risk
    assert state_error(course.ssm, truth.ssm).max() <= in_state
    assert np.abs(risk(course.logit) - risk(truth.logit)).max() <= in_risk
    assert np.array_equal(course.logit, truth.logit) == (dtype == "fp32")


@pytest.mark.parametrize(("dtype", "in_state", "in_risk"), [("bf16", 0.02, 0.01), ("int8", 0.04, 0.01)])
def test_a_state_that_is_handed_over_once(
    four_hours: tuple[Days, Course], dtype: SnapshotDtype, in_state: float, in_risk: float
) -> None:
    """What a takeover or a restart costs: hardly anything, and it fades."""
    days, truth = four_hours
    keep = once(through_snapshots(CHECKPOINT.fingerprint(), dtype), EVERY, SAMPLES)
    course = run_days(CHECKPOINT, days, EVERY, keep)
    risk = CHECKPOINT.calibration.risk
    assert state_error(course.ssm, truth.ssm).max() <= in_state
    assert 0 < np.abs(risk(course.logit) - risk(truth.logit)).max() <= in_risk
