"""The training scan in C++ against the sequential definition in float64, values and gradients."""

import pytest
import torch

from kernels.config import MambaConfig
from kernels.cpu import ISA_VARIABLE, instruction_sets, missing_for_cpu
from kernels.cpu.training_scan import selective_scan_cpu
from kernels.reference import network_scan
from kernels.scan import selective_scan_ref
from kernels.training import forward_cpu
from kernels.weights import random_weights
from tests.kernels.cuda.cases import assert_close
from tests.kernels.cuda.test_network import named

pytestmark = pytest.mark.skipif(missing_for_cpu() is not None, reason=f"backend cpu: {missing_for_cpu()}")


@pytest.fixture(params=instruction_sets() or ("none",))
def _isa(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each instruction set that this processor has."""
    monkeypatch.setenv(ISA_VARIABLE, str(request.param))


@pytest.mark.usefixtures("_isa")
@pytest.mark.parametrize(
    ("batch", "length", "d_inner", "d_state"),
    [(2, 70, 21, 64), (9, 1, 3, 16), (3, 33, 40, 5), (1, 64, 32, 128), (2, 31, 17, 32)],
)
@pytest.mark.parametrize("from_state", [False, True])
def test_values_and_gradients(batch: int, length: int, d_inner: int, d_state: int, *, from_state: bool) -> None:
    """Odd sizes, lengths around the tile, gaps up to half a day; every operand's gradient.

    After one sample every channel of a vehicle reads its state through the same B.C, which may nearly cancel; of nine
    vehicles not all do.
    """
    dt = 0.05 * torch.rand(batch, length, d_inner) * torch.exp(9.0 * torch.rand(batch, length, 1) ** 8)
    leaves = {
        "u": torch.randn(batch, length, d_inner), "dt": dt, "dt_in": dt.clamp(max=0.6),
        "A": -torch.exp(torch.randn(d_inner, d_state)), "B": torch.randn(batch, length, d_state),
        "C": torch.randn(batch, length, d_state),
    }  # fmt: skip
    if from_state:
        leaves["state"] = torch.randn(batch, d_inner, d_state)
    d_y, d_last = torch.randn(batch, length, d_inner), torch.randn(batch, d_inner, d_state)
    results = []
    for scan, of in ((selective_scan_cpu, torch.float32), (selective_scan_ref, torch.float64)):
        own = {name: tensor.to(of, copy=True).requires_grad_() for name, tensor in leaves.items()}
        y, last = scan(own["u"], own["dt"], own["dt_in"], own["A"], own["B"], own["C"], own.get("state"))
        gradients = torch.autograd.grad([y, last], list(own.values()), [d_y.to(of), d_last.to(of)])
        results.append({"y": y, "last": last} | dict(zip((f"d_{n}" for n in own), gradients, strict=True)))
    assert_close(results[0], results[1], 1e-5)


def test_the_network_trains_on_it() -> None:
    """The gradient of every weight of the whole network, from views with strides, against float64."""
    config = MambaConfig(d_input=7, n_channels=3, d_model=24, n_layer=2, d_state=16, dt_rank=3)
    weights = random_weights(config)
    features, ratio = torch.randn(2, 75, config.d_input), torch.exp(torch.randn(2, 75))
    results = []
    for of in (torch.float32, torch.float64):
        own = weights.to(device=torch.device("cpu"), dtype=of)
        leaves = {name: tensor.requires_grad_() for name, tensor in named(own).items()}
        run = forward_cpu if of == torch.float32 else network_scan
        output, last = run(config, own, features.to(of), ratio.to(of), None)
        loss = output.risk_logit.square().mean() + output.forecast_mean.square().mean()
        loss = loss + output.forecast_log_scale.square().mean() + last.ssm.square().mean()
        results.append(dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True)))
    assert_close(results[0], results[1], 1e-5)


def test_too_large_a_state_is_refused() -> None:
    """Nothing is computed wrongly in silence."""
    x, B = torch.zeros(1, 2, 3), torch.zeros(1, 2, 129)
    with pytest.raises(ValueError, match="at most 128"):
        selective_scan_cpu(x, x, x, torch.zeros(3, 129), B, B, None)
