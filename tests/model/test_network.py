"""The torch module, the scores made of its outputs, and the checkpoint on disk."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from kernels import SEQUENTIAL, MambaConfig, network_scan
from model.channels import VAN_SCHEMA, Channel, ChannelSchema
from model.checkpoint import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from model.network import Mamba2, RiskNetwork
from model.normaliser import FleetPrior
from model.preprocess import preprocess_sequence
from model.runtime import ModelRuntime, recompute
from model.scoring import Calibration, surprise

CONFIG = MambaConfig(d_input=VAN_SCHEMA.d_input, n_channels=len(VAN_SCHEMA.channels), d_model=16, n_layer=2, d_state=8)
CONFIG_2 = replace(CONFIG, block="mamba2", head_dim=8, n_groups=2)


@pytest.fixture(params=[CONFIG, CONFIG_2], ids=["mamba1", "mamba2"])
def config(request: pytest.FixtureRequest) -> MambaConfig:
    """Both kinds of block."""
    assert isinstance(request.param, MambaConfig)
    return request.param


@pytest.fixture
def checkpoint(config: MambaConfig) -> Checkpoint:
    """A small untrained model."""
    n = len(VAN_SCHEMA.channels)
    return Checkpoint(RiskNetwork(config), VAN_SCHEMA, FleetPrior((1.0,) * n, (2.0,) * n), Calibration())


def test_the_module_computes_what_the_kernels_compute(config: MambaConfig) -> None:
    """Training's forward pass equals the sequential reference on the same weights."""
    network = RiskNetwork(config).double()
    features = torch.randn(2, 90, config.d_input, dtype=torch.float64)
    ratio = torch.rand(2, 90, dtype=torch.float64) * 20
    output = network(features, ratio)
    truth, _ = network_scan(config, network.weights(), features, ratio, scan=SEQUENTIAL)
    torch.testing.assert_close(output.risk_logit, truth.risk_logit, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(output.forecast_mean, truth.forecast_mean, rtol=1e-10, atol=1e-12)


def test_every_parameter_learns(config: MambaConfig) -> None:
    """A loss on both heads sends a gradient to every parameter."""
    network = RiskNetwork(config)
    output = network(torch.randn(2, 40, config.d_input), torch.ones(2, 40))
    (output.risk_logit.sum() + output.forecast_mean.sum() + output.forecast_log_scale.sum()).backward()
    silent = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_a_mamba_2_block_has_the_parameters_of_mamba_ssm() -> None:
    """Names and shapes are those of `mamba_ssm.Mamba2`: z, x, B, C and a step size per head leave one projection."""
    width = CONFIG_2.d_inner + 2 * 2 * 8
    mixer = RiskNetwork(CONFIG_2).layers[0].mixer
    assert isinstance(mixer, Mamba2)
    assert {name: tuple(p.shape) for name, p in mixer.named_parameters()} == {
        "A_log": (4,), "D": (4,), "dt_bias": (4,), "conv1d.bias": (width,), "conv1d.weight": (width, 1, 4),
        "in_proj.weight": (32 + width + 4, 16), "norm.weight": (32,), "out_proj.weight": (16, 32),
    }  # fmt: skip


def test_the_kind_of_block_is_part_of_the_description_only_where_it_is_new() -> None:
    """A Mamba-1 checkpoint says what it said before there was a choice; one of Mamba-2 names its own sizes."""
    assert not {"block", "head_dim", "n_groups"} & CONFIG.described().keys()
    described = CONFIG_2.described()
    assert (described["block"], described["head_dim"], described["n_groups"]) == ("mamba2", 8, 2)
    assert "dt_rank" not in described
    for one in (CONFIG, CONFIG_2):
        assert MambaConfig(**one.described()) == one


def test_a_stream_of_mamba_2_equals_the_offline_scan() -> None:
    """The product's runtime, step by step after packed scans, arrives at the state and risk of the float64 scan."""
    n = len(VAN_SCHEMA.channels)
    network = RiskNetwork(CONFIG_2).requires_grad_(requires_grad=False)
    checkpoint = Checkpoint(network, VAN_SCHEMA, FleetPrior((1.0,) * n, (2.0,) * n), Calibration())
    rng = np.random.default_rng(7)
    ts_ms = np.cumsum(rng.choice([5_000, 5_000, 5_000, 600_000], 40)).astype(np.int64)
    signals = rng.normal(20.0, 5.0, (40, len(VAN_SCHEMA.signals)))
    signals[rng.random(signals.shape) < 0.2] = np.nan
    truth = recompute(checkpoint, ts_ms, signals)
    features = preprocess_sequence(checkpoint.preprocessor(), ts_ms[None], signals[None], np.array([40]))
    inputs, ratio = features.inputs[0], features.ratio[0]
    runtime, slots = ModelRuntime(checkpoint, "auto", 3), np.array([2])
    runtime.replay(slots, np.array([30]), inputs[:30], ratio[:30])
    for t in range(30, 40):
        scores = runtime.step(slots, replace(features, inputs=inputs[t : t + 1], ratio=ratio[t : t + 1]))
        assert scores.risk[0] == pytest.approx(truth.risk[t], rel=1e-4)
    conv, ssm = runtime.read(slots)
    np.testing.assert_allclose(ssm[0], truth.ssm, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(conv[0], truth.conv, rtol=1e-3, atol=1e-5)
    runtime.write(slots, conv, ssm)
    with pytest.raises(ValueError, match="states have shapes"):
        runtime.write(slots, conv[:, :, :-1], ssm)


def test_a_checkpoint_survives_the_disk(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Saving in half precision rounds the network in hand too; loading gives the same model and fingerprint."""
    save_checkpoint(checkpoint, tmp_path, dtype=torch.float16)
    loaded = load_checkpoint(tmp_path)
    assert loaded.fingerprint() == checkpoint.fingerprint()
    assert loaded.schema == checkpoint.schema
    assert loaded.prior == checkpoint.prior
    features, ratio = torch.randn(1, 5, VAN_SCHEMA.d_input), torch.ones(1, 5)
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
