"""The checks of sensors, on courses whose answer is known."""

import numpy as np
import pytest

from model.channels import SIGNALS
from model.checkpoint import load_checkpoint
from model.evaluation.anomaly import COLUMN, jumping
from model.evaluation.sensor_checks import JUMPING_SHARE, checks, driven_unchanged_s, rejected_share

START_MS = 1_760_000_000_000


def drive(n: int, speed: float = 10.0) -> tuple[np.ndarray, np.ndarray]:
    """(n,) times and (n, 10) signals of a straight drive whose temperature changes at every sample."""
    signals = np.full((n, len(SIGNALS)), np.nan, np.float32)
    signals[:, COLUMN["speed"]] = speed
    signals[:, COLUMN["latitude"]] = 48.0 + 5.0 * speed / 111_195.0 * np.arange(n)
    signals[:, COLUMN["longitude"]] = 11.0
    signals[:, COLUMN["motor_temperature"]] = 60.0 + np.arange(n) % 2
    return START_MS + 5_000 * np.arange(n), signals


def test_seconds_driven_are_counted_from_the_last_change() -> None:
    """Standing and absent readings add nothing, a gap no more than a sample."""
    ts_ms, signals = drive(8)
    ts_ms[6:] += 3_600_000
    signals[:, COLUMN["motor_temperature"]] = [60, 61, 61, np.nan, 61, 61, 61, 62]
    signals[4, COLUMN["speed"]] = 0.0
    assert driven_unchanged_s(ts_ms, signals, "motor_temperature").tolist() == [0, 0, 5, 10, 10, 15, 20, 0]
    assert driven_unchanged_s(ts_ms, signals, "state_of_charge").tolist() == [0.0] * 8


@pytest.mark.parametrize("jumps", [False, True])
def test_fixes_that_jump_are_rejected(jumps: bool) -> None:
    """On a straight drive none is; of fixes that jump every half minute more than the limit, within ten minutes."""
    ts_ms, signals = drive(121)
    if jumps:
        jumping(signals, 0)
    share = rejected_share(load_checkpoint().preprocessor(), (ts_ms, signals))
    assert share[-1] > JUMPING_SHARE if jumps else not share.any()


def test_what_is_well_stays_far_below_the_limits() -> None:
    """A drive in which everything changes, except the speed that the driver keeps."""
    found = checks(load_checkpoint().preprocessor(), drive(60))
    assert found["motor_temperature"].max() == 0.0
    assert found["speed"].max() == 59 * 5.0
