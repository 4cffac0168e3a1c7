"""The product as a scorer gives what the service would, whatever it is scored beside."""

import numpy as np
import pytest
import torch

from kernels import MambaConfig
from model.channels import VAN_SCHEMA
from model.checkpoint import Checkpoint
from model.evaluation.mamba import CPU_SAMPLES, MambaScorer
from model.fleet import FleetConfig, VehicleTrace, simulate_vehicle
from model.network import RiskNetwork
from model.normaliser import FleetPrior
from model.runtime import recompute
from model.scoring import Calibration

CONFIG = MambaConfig(d_input=VAN_SCHEMA.d_input, n_channels=len(VAN_SCHEMA.channels), d_model=16, n_layer=2, d_state=8)


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """A small untrained model whose logits vary."""
    torch.manual_seed(0)
    network = RiskNetwork(CONFIG)
    torch.nn.init.normal_(network.risk_head.weight, std=0.5)
    n = len(VAN_SCHEMA.channels)
    return Checkpoint(network, VAN_SCHEMA, FleetPrior((1.0,) * n, (20.0,) * n), Calibration())


@pytest.fixture(scope="module")
def traces() -> list[VehicleTrace]:
    """Two vans of different lengths, longer than what is scored at a time."""
    config = FleetConfig(n_vehicles=2, days=(CPU_SAMPLES + 900) * 5 / 86_400, seed=2)
    return [simulate_vehicle(config, i) for i in range(2)]


def test_scores_are_the_logits_of_the_offline_scan(checkpoint: Checkpoint, traces: list[VehicleTrace]) -> None:
    """From the first sample to the last, over the seam between two stretches."""
    scores = MambaScorer(checkpoint, torch.device("cpu")).score(traces)
    for trace, score in zip(traces, scores, strict=True):
        truth = recompute(checkpoint, trace.ts_ms, trace.signals.astype(np.float64)).risk
        assert len(score) == len(trace.ts_ms) > CPU_SAMPLES
        assert score.std() > 1e-3
        np.testing.assert_allclose(checkpoint.calibration.risk(score), truth, atol=1e-4)


def test_a_van_scores_the_same_alone(checkpoint: Checkpoint, traces: list[VehicleTrace]) -> None:
    """Padding beside a longer van changes nothing."""
    scorer = MambaScorer(checkpoint, torch.device("cpu"))
    together = scorer.score(traces)
    for trace, score in zip(traces, together, strict=True):
        np.testing.assert_allclose(scorer.score([trace])[0], score, atol=1e-5)


@pytest.mark.gpu
def test_cuda_scores_as_the_cpu_does(checkpoint: Checkpoint, traces: list[VehicleTrace]) -> None:
    """The scan of training against the step of the service."""
    cpu = MambaScorer(checkpoint, torch.device("cpu")).score(traces)
    cuda = MambaScorer(checkpoint, torch.device("cuda")).score(traces)
    for a, b in zip(cpu, cuda, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)
