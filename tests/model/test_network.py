"""The torch module, the scores made of its outputs, and the checkpoint on disk."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kernels import MambaConfig, network_scan, selective_scan_ref
from model.channels import VAN_SCHEMA, Channel, ChannelSchema
from model.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from model.network import RiskNetwork
from model.normaliser import FleetPrior
from model.scoring import Calibration, surprise

CONFIG = MambaConfig(d_input=VAN_SCHEMA.d_input, n_channels=len(VAN_SCHEMA.channels), d_model=16, n_layer=2, d_state=8)


@pytest.fixture
def checkpoint() -> Checkpoint:
    """A small untrained model."""
    n = len(VAN_SCHEMA.channels)
    return Checkpoint(RiskNetwork(CONFIG), VAN_SCHEMA, FleetPrior((1.0,) * n, (2.0,) * n), Calibration())


def test_the_module_computes_what_the_kernels_compute() -> None:
    """Training's forward pass equals the sequential reference on the same weights."""
    network = RiskNetwork(CONFIG).double()
    features = torch.randn(2, 90, CONFIG.d_input, dtype=torch.float64)
    ratio = torch.rand(2, 90, dtype=torch.float64) * 20
    output = network(features, ratio)
    truth, _ = network_scan(CONFIG, network.weights(), features, ratio, scan=selective_scan_ref)
    torch.testing.assert_close(output.risk_logit, truth.risk_logit, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(output.forecast_mean, truth.forecast_mean, rtol=1e-10, atol=1e-12)


def test_every_parameter_learns() -> None:
    """A loss on both heads sends a gradient to every parameter."""
    network = RiskNetwork(CONFIG)
    output = network(torch.randn(2, 40, CONFIG.d_input), torch.ones(2, 40))
    (output.risk_logit.sum() + output.forecast_mean.sum() + output.forecast_log_scale.sum()).backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_a_checkpoint_survives_the_disk(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Saving in half precision rounds the network in hand too; loading gives the same model and fingerprint."""
    save_checkpoint(checkpoint, tmp_path, dtype=torch.float16)
    loaded = load_checkpoint(tmp_path)
    assert loaded.fingerprint() == checkpoint.fingerprint()
    assert loaded.schema == checkpoint.schema
    assert loaded.prior == checkpoint.prior
    features, ratio = torch.randn(1, 5, CONFIG.d_input), torch.ones(1, 5)
    assert torch.equal(loaded.network(features, ratio).risk_logit, checkpoint.network(features, ratio).risk_logit)


def test_the_fingerprint_covers_weights_normaliser_and_channels(checkpoint: Checkpoint) -> None:
    """Each part that changes a state changes the fingerprint; a new threshold does not."""
    base = checkpoint.fingerprint()
    parts = (checkpoint.network, checkpoint.schema, checkpoint.prior)
    network, schema, prior = parts
    renamed = ChannelSchema(schema.signals, (*schema.channels[:-1], Channel("x", "degC", "ambient_temperature")))
    assert Checkpoint(network, renamed, prior, Calibration()).fingerprint() != base
    shifted = FleetPrior((9.0, *prior.mean[1:]), prior.std)
    assert Checkpoint(network, schema, shifted, Calibration()).fingerprint() != base
    assert Checkpoint(network, schema, prior, Calibration(alert_threshold=0.9)).fingerprint() == base
    with torch.no_grad():
        network.layers[0].mixer.D[0] += 1e-3  # type: ignore[union-attr, operator, index]
    assert checkpoint.fingerprint() != base


def test_a_damaged_checkpoint_is_refused_with_the_reason(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Missing files, a foreign format and swapped weights are named, never loaded."""
    with pytest.raises(CheckpointError, match="no readable checkpoint"):
        load_checkpoint(tmp_path)
    save_checkpoint(checkpoint, tmp_path)
    text = json.loads((tmp_path / "model.json").read_text())
    (tmp_path / "model.json").write_text(json.dumps(text | {"fingerprint": "0" * 32}))
    with pytest.raises(CheckpointError, match="do not belong together"):
        load_checkpoint(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(text | {"format": 99}))
    with pytest.raises(CheckpointError, match="format 99"):
        load_checkpoint(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps(text | {"calibration": {"slope": -1.0}}))
    with pytest.raises(CheckpointError, match="slope must be positive"):
        load_checkpoint(tmp_path)


def test_the_shipped_weights_load_and_are_small() -> None:
    """The model in the repository is whole and within its size budget."""
    shipped = load_checkpoint()
    folder = Path(__file__).parents[2] / "model" / "weights"
    assert sum(file.stat().st_size for file in folder.iterdir()) < 3_000_000
    assert shipped.schema == VAN_SCHEMA
    assert shipped.config.conv_state_shape == (4, 256, 3)
    assert shipped.config.ssm_state_shape == (4, 256, 64)


def test_surprise_is_the_laplace_likelihood_of_what_is_present() -> None:
    """Nats per channel present; a better forecast surprises less, and nothing present gives no number."""
    z = np.array([[1.0, 5.0], [0.0, 0.0]], np.float32)
    present = np.array([[True, False], [False, False]])
    mean = np.zeros((2, 2), np.float32)
    log_scale = np.full((2, 2), np.log(2.0), np.float32)
    nats = surprise(z, present, mean, log_scale)
    assert nats[0] == pytest.approx(np.log(2 * 2.0) + 1.0 / 2.0)
    assert np.isnan(nats[1])
    assert surprise(z, present, z, log_scale)[0] < nats[0]


def test_calibration_is_a_probability_and_refuses_nonsense() -> None:
    """Risk stays in [0, 1] for any logit; thresholds out of order are refused."""
    risk = Calibration(slope=2.0, intercept=-1.0).risk(np.array([-1e4, 0.5, 1e4], np.float32))
    assert risk.tolist() == [0.0, pytest.approx(0.5), 1.0]
    with pytest.raises(ValueError, match="resolve <= alert"):
        Calibration(alert_threshold=0.2, resolve_threshold=0.4)
