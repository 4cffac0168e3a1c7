"""Forecasts in likelihood."""

import json
from pathlib import Path

import numpy as np
import pytest

from model.baselines.forecasts import (
    Autoregression,
    Log,
    Persistence,
    compare,
    design,
    laplace_nats,
    main,
    mean_nats,
    preprocess_log,
)
from model.channels import VAN_SCHEMA
from model.checkpoint import load_checkpoint
from model.scoring import surprise

from .toy_fleet import ToyFleet, cut_short

N = 3


def oscillating(seed: int, length: int = 2_000) -> Log:
    """A two-dimensional rotation with Laplace noise of scale 0.1, and a third channel that is never there."""
    rng = np.random.default_rng(seed)
    z = np.zeros((length, N))
    turn = 0.98 * np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
    for t in range(1, length):
        z[t, :2] = turn @ z[t - 1, :2] + rng.laplace(0.0, 0.1, 2)
    present = np.tile([True, True, False], (length, 1))
    return Log(str(seed), np.zeros((length, 1), np.float32), np.ones(length, np.float32), z, present)


def test_autoregression_finds_the_law_and_its_noise() -> None:
    """On a linear process it comes close to the entropy of the noise, and persistence does not."""
    logs, test = [oscillating(i) for i in range(4)], [oscillating(9)]
    entropy = np.log(2.0 * 0.1) + 1.0
    assert mean_nats(Autoregression(logs), test) == pytest.approx(entropy, abs=0.05)
    assert mean_nats(Persistence(logs), test) > entropy + 0.1


def test_lags_are_newest_first() -> None:
    """Row t holds samples t, t - 1, ..., zeros before the start, and a one."""
    log = oscillating(0, 5)
    x = design(log, (0, 1), 3)
    assert x.shape == (4, 7)
    np.testing.assert_array_equal(x[1], [*log.z[1, :2], *log.z[0, :2], 0.0, 0.0, 1.0])


def test_nats_are_those_of_the_service() -> None:
    """The mean over a sample's channels is the surprise that the service reports."""
    rng = np.random.default_rng(0)
    z, mean = rng.normal(size=(2, 7, N))
    scale = np.exp(rng.normal(size=(7, N)))
    nats = laplace_nats(z, mean, scale).mean(axis=1)
    served = surprise(z.astype("f4"), np.ones((7, N), np.bool_), mean.astype("f4"), np.log(scale).astype("f4"))
    np.testing.assert_allclose(nats, served, rtol=1e-5)


def test_densities_are_causal() -> None:
    """A forecast does not change when later samples do."""
    logs, log = [oscillating(i) for i in range(2)], oscillating(5, 300)
    other = Log(log.name, log.inputs, log.ratio, log.z.copy(), log.present)
    other.z[200:] += 5.0
    for forecaster in (Persistence(logs), Autoregression(logs, 4)):
        for a, b in zip(forecaster.density(log), forecaster.density(other), strict=True):
            np.testing.assert_array_equal(a[:200], b[:200])


def test_rows_compare_on_the_same_readings() -> None:
    """Every forecaster gets a row per channel that is present, with the difference to the last one."""
    logs = [oscillating(i, 400) for i in range(6)]
    forecasters = (Persistence(logs), Autoregression(logs, 2))
    rows = compare(forecasters, {"toy": logs}, ("a", "b", "c"))
    assert {(row["params"]["model"], row["params"]["channel"]) for row in rows} == {
        (model, channel) for model in ("persistence", "autoregression") for channel in ("all", "a", "b")
    }
    whole = rows[0]
    assert whole["value"] == pytest.approx(mean_nats(forecasters[0], logs), abs=1e-4)
    assert 0 < whole["lo"] < whole["value"] - whole["peer"] < whole["hi"]


def test_a_log_keeps_what_is_measured() -> None:
    """Present bits and z-scores of a preprocessed trace are those of the network's inputs."""
    trace = cut_short(ToyFleet(1).trace(0), 500)
    log = preprocess_log(load_checkpoint().preprocessor(), "toy", trace)
    n = len(VAN_SCHEMA.channels)
    assert log.z.shape == log.present.shape == (500, n)
    np.testing.assert_array_equal(log.z, log.inputs[:, :n])
    assert log.present[:, VAN_SCHEMA.channel_names.index("speed")].all()


@pytest.mark.slow
def test_the_command_judges_the_real_logs(real_data: Path, tmp_path: Path) -> None:
    """All three forecasters are judged on the Leaf drive and the BMW trips; the shipped network is the likeliest on each."""
    main([str(real_data), "--days", "0.3", "--json", str(tmp_path / "report.json")])
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    nats = {
        (row["params"]["logs"], row["params"]["model"]): row["value"]
        for row in rows
        if row["params"]["channel"] == "all"
    }
    for logs in ("leaf", "bmw_i3", "bmw_i3_unseen"):
        assert nats[logs, "mamba"] < min(nats[logs, "persistence"], nats[logs, "autoregression"]), nats
