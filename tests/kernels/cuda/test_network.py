"""The whole network on the training kernels against the reference in float64."""

import dataclasses

import pytest
import torch
from torch import Tensor

from kernels import MambaConfig, NetworkOutput, NetworkWeights, network_scan
from kernels.cuda.network import network_scan_cuda
from kernels.reference import RecurrentState
from kernels.weights import BlockWeights, random_weights
from tests.kernels.cuda.cases import assert_close

CONFIG = MambaConfig(d_input=7, n_channels=3, d_model=20, n_layer=2, d_state=16, d_conv=4, dt_rank=3)


def named(weights: NetworkWeights) -> dict[str, Tensor]:
    """Every tensor under a name."""
    rest = {f.name: getattr(weights, f.name) for f in dataclasses.fields(NetworkWeights) if f.name != "blocks"}
    return rest | {
        f"{layer}.{f.name}": getattr(block, f.name)
        for layer, block in enumerate(weights.blocks)
        for f in dataclasses.fields(BlockWeights)
    }


def weighted_sum(output: NetworkOutput, weights: list[Tensor]) -> Tensor:
    """A scalar in which every output counts differently."""
    parts = (output.risk_logit, output.forecast_mean, output.forecast_log_scale)
    return torch.stack([(p.double() * w.to(p.device)).sum() for p, w in zip(parts, weights, strict=True)]).sum()


# bf16 rounds every activation of every layer, so only gross errors show; fp32 carries the proof.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.1)], ids=str)
@pytest.mark.parametrize("from_state", [False, True])
def test_values_and_gradients(device: torch.device, dtype: torch.dtype, tolerance: float, *, from_state: bool) -> None:
    """Outputs, last state and the gradient of every weight."""
    batch, length = 2, 41
    weights = random_weights(CONFIG)
    features = torch.randn(batch, length, CONFIG.d_input, dtype=torch.float64)
    ratio = torch.exp(torch.randn(batch, length, dtype=torch.float64)).float().double()
    state = None
    if from_state:
        state = RecurrentState(
            torch.randn(batch, *CONFIG.conv_state_shape, dtype=torch.float64),
            torch.randn(batch, *CONFIG.ssm_state_shape, dtype=torch.float64),
        )
    factors = [
        torch.rand(batch, length, *shape, dtype=torch.float64)
        for shape in ((), (CONFIG.n_channels,), (CONFIG.n_channels,))
    ]
    results = []
    for truth in (False, True):
        at, of = (torch.device("cpu"), torch.float64) if truth else (device, torch.float32)
        own = weights.to(device=at, dtype=of)
        leaves = {name: tensor.requires_grad_() for name, tensor in named(own).items()}
        start = None if state is None else RecurrentState(state.conv.to(at, of), state.ssm.to(at, of))
        operands = (CONFIG, own, features.to(at, of), ratio.to(at, of), start)
        output, last = network_scan(*operands) if truth else network_scan_cuda(*operands, dtype=dtype)
        gradients = torch.autograd.grad(weighted_sum(output, factors), list(leaves.values()))
        results.append(
            {
                "risk": output.risk_logit, "mean": output.forecast_mean, "log_scale": output.forecast_log_scale,
                "conv_state": last.conv, "ssm_state": last.ssm,
            }
            | dict(zip(leaves, gradients, strict=True))
        )  # fmt: skip
    assert_close(results[0], results[1], tolerance)


def test_short_sequences_carry_the_window(device: torch.device) -> None:
    """One sample at a time gives what all at once gives: the convolution's window survives sequences shorter than it."""
    weights = random_weights(CONFIG).to(device=device, dtype=torch.float32)
    features, ratio = torch.randn(2, 5, CONFIG.d_input, device=device), torch.ones(2, 5, device=device)
    with torch.no_grad():
        whole, last = network_scan_cuda(CONFIG, weights, features, ratio, dtype=torch.float32)
        state, risks = None, []
        for t in range(5):
            output, state = network_scan_cuda(
                CONFIG, weights, features[:, t : t + 1], ratio[:, t : t + 1], state, dtype=torch.float32
            )
            risks.append(output.risk_logit)
    assert state is not None
    torch.testing.assert_close(torch.cat(risks, dim=1), whole.risk_logit, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state.conv, last.conv, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state.ssm, last.ssm, rtol=1e-4, atol=1e-5)
