"""The refit of the forecast head: it learns, and nothing else moves."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.baselines.forecasts import NetworkForecast, summed_nats
from model.baselines.protocol import COLUMN
from model.checkpoint import load_checkpoint
from model.recordings import Recording
from model.training.forecast_head import as_another_van, fitted_head, fittings, real_variants, rows_of


def drive(seconds: int, rng: np.random.Generator) -> Recording:
    """A restless drive at 1 s: speed, charge, current and a map's elevation."""
    signals = np.full((seconds, len(COLUMN)), np.nan)
    signals[:, COLUMN["speed"]] = np.clip(12.0 + np.cumsum(rng.normal(0.0, 0.8, seconds)), 0.0, 30.0)
    signals[:, COLUMN["state_of_charge"]] = 80.0 - 0.002 * np.arange(seconds)
    signals[:, COLUMN["pack_current"]] = rng.normal(30.0, 40.0, seconds)
    signals[:, COLUMN["altitude"]] = 300.0 + 10.0 * np.sin(np.arange(seconds) / 60.0)
    return Recording(1_700_000_000_000 + 1_000 * np.arange(seconds), signals)


def test_another_van_drives_the_same_way() -> None:
    """Speeds stay, to the sensor's step; the made-up positions are that far apart; sensors without readings have none."""
    rng = np.random.default_rng()
    trip = drive(900, rng)
    other = as_another_van(trip, rng)
    speed = trip.signals[:, COLUMN["speed"]]
    assert np.abs(other.signals[:, COLUMN["speed"]] - speed).max() <= 0.23
    latitude, longitude = other.signals[:, COLUMN["latitude"]], other.signals[:, COLUMN["longitude"]]
    north_m = 111_200.0 * np.diff(latitude[::60])
    east_m = 111_200.0 * np.cos(np.deg2rad(latitude[0])) * np.diff(longitude[::60])
    driven_m = np.add.reduceat(speed, np.arange(0, 900, 60))[: len(north_m)]
    assert (np.hypot(north_m, east_m) <= driven_m + 60.0).all()
    assert np.hypot(north_m, east_m).sum() > 0.2 * driven_m.sum()
    assert np.isnan(other.signals[:, COLUMN["motor_temperature"]]).all()


def test_the_head_learns_and_nothing_else_moves() -> None:
    """On the fitted drives it is likelier than before; risk and state stay bit for bit, the model is another."""
    rng, before = np.random.default_rng(), load_checkpoint()
    core = np.array([channel.core for channel in before.schema.channels])
    logs = real_variants([(str(i), drive(600, rng)) for i in range(3)], before.preprocessor(), seed=1)
    climb_rate = before.schema.channel_names.index("climb_rate")
    assert not logs[0].present[:, climb_rate].any()
    assert logs[1].present[:, climb_rate].any()
    rows = [rows_of(before, log, absent) for log in logs for absent in fittings(core, rng)]
    assert rows[0].present[:, ~torch.from_numpy(core)].any()
    assert not any(of.present[:, ~torch.from_numpy(core)].any() for of in rows[1::3])
    network = load_checkpoint().network
    network.forecast_head = fitted_head(before, rows, rows, seed=1, steps=150)
    after = replace(before, network=network)
    nats = [sum(summed_nats(NetworkForecast(one), log)[0].sum() for log in logs) for one in (after, before)]
    assert nats[0] < nats[1]
    assert after.risk_fingerprint() == before.risk_fingerprint()
    assert after.fingerprint() != before.fingerprint()
    features, ratio = torch.from_numpy(logs[0].inputs)[None], torch.from_numpy(logs[0].ratio)[None]
    with torch.inference_mode():
        assert torch.equal(after.network(features, ratio).risk_logit, before.network(features, ratio).risk_logit)


def test_hidden_is_what_the_heads_read() -> None:
    """Both heads applied to it give the network's outputs."""
    network = load_checkpoint().network
    features, ratio = torch.randn(2, 30, network.config.d_input), torch.ones(2, 30)
    with torch.inference_mode():
        hidden, output = network.hidden(features, ratio), network(features, ratio)
        risk = torch.nn.functional.linear(hidden, network.risk_head.weight, network.risk_head.bias)
    assert risk.squeeze(-1).numpy() == pytest.approx(output.risk_logit.numpy(), rel=1e-5, abs=1e-5)
