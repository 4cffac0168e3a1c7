"""Mamba-2 on mamba-ssm's kernels against our float64 reference, and our block against `mamba_ssm.Mamba2` on the same weights.

On a GPU only. Products of fp32 operands are asked to be fp32 (three TF32 products each), so that what is left is rounding.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from kernels import CHUNKED, SEQUENTIAL, MambaConfig, RecurrentState, choose_backend, network_scan, training_forward
from kernels.cuda.mamba2 import step_mamba2
from kernels.cuda.network import network_scan_cuda
from kernels.cuda.ssd import ssd_scan_mamba_ssm
from kernels.reference import block_scan, block_step
from kernels.ssd import SsdScan, ssd_scan_ref
from kernels.weights import NetworkWeights, random_weights
from model.network import Block, block_weights
from tests.kernels.conftest import FULL_2
from tests.kernels.test_backend import poisoned_pool, random_ratio, random_state, relative_error

pytestmark = pytest.mark.gpu
AT = torch.device("cuda")
TWO_GROUPS = replace(FULL_2, n_groups=2, d_state=16, head_dim=32)
# Their decays are exp of differences of fp32 sums over a chunk of dt * A, which reach some hundreds: half a unit in the last
# place of 512 is 3e-5. What has no such sums (a step) is exact to fp32's rounding.
OF_SUMS, OF_STEPS = 1e-4, 1e-5


@pytest.fixture(scope="module", autouse=True)
def _exact_products() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_F32_DEFAULT", "tf32x3")
        patch.setenv("MAMBA_DETERMINISTIC", "1")  # one shape of each kernel: tuning them takes minutes
        pytest.importorskip("mamba_ssm", reason="mamba-ssm is not installed")
        patch.setattr(torch.backends.cuda.matmul, "allow_tf32", False)
        patch.setattr(torch.backends.cudnn, "allow_tf32", False)
        yield


def operands(config: MambaConfig, batch: int, length: int) -> list[Tensor]:
    """u, dt, dt_in, A, B, C and an initial state in float64; a tenth of the steps are long gaps."""
    heads, groups, of = config.n_heads, config.n_groups, torch.float64
    dt = torch.exp(torch.randn(batch, length, heads, dtype=of) - 4)
    gap = (torch.rand(batch, length, 1) < 0.1).double()
    return [
        torch.randn(batch, length, heads, config.head_dim, dtype=of),
        dt * (1 + gap * 5_000.0),
        dt * (1 + gap * 11.0),
        -torch.exp(torch.randn(heads, dtype=of)),
        torch.randn(batch, length, groups, config.d_state, dtype=of),
        torch.randn(batch, length, groups, config.d_state, dtype=of),
        torch.randn(batch, heads, config.head_dim, config.d_state, dtype=of),
    ]


@pytest.mark.parametrize("config", [FULL_2, TWO_GROUPS], ids=["full", "two groups"])
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "bf16"])
def test_the_scan_with_long_gaps_and_its_gradients(config: MambaConfig, *, half: bool) -> None:
    """From a state, over several chunks and a part of one: outputs, last state and seven gradients."""
    parts = operands(config, 2, 300)
    if half:  # rounded first, so that what is compared is the arithmetic
        parts = [p.bfloat16().double() if i in {0, 4, 5} else p for i, p in enumerate(parts)]
    weight, last_weight = torch.randn_like(parts[0]), torch.randn_like(parts[6])

    def found(scan: SsdScan, leaves: list[Tensor]) -> dict[str, Tensor]:
        u, dt, dt_in, A, B, C, state = leaves
        y, last = scan(u, dt, dt_in, A, B, C, state)
        value = (y * weight.to(y)).sum() + (last * last_weight.to(last)).sum()
        names = ("u", "dt", "dt_in", "A", "B", "C", "state")
        return {
            "y": y.detach(),
            "last": last.detach(),
            **dict(zip(names, torch.autograd.grad(value, leaves), strict=True)),
        }

    truth = found(ssd_scan_ref, [part.clone().requires_grad_() for part in parts])
    own = [part.float().to(AT, torch.bfloat16 if half and i in {0, 4, 5} else None) for i, part in enumerate(parts)]
    fast = found(ssd_scan_mamba_ssm, [part.requires_grad_() for part in own])
    # bf16: products of rounded decays and of states rounded at every chunk, 2**-9 each; gradients pass several.
    bound, gradient = (2e-2, 1e-1) if half else (OF_SUMS, 10 * OF_SUMS)
    for name, value in truth.items():
        assert relative_error(fast[name], value) < (bound if name in {"y", "last"} else gradient), name


def mamba_ssm_block(config: MambaConfig) -> tuple[Any, Block]:
    """A `mamba_ssm.Mamba2` in fp32 and our block with its weights."""
    from mamba_ssm.modules.mamba2 import Mamba2  # noqa: PLC0415  (needs a CUDA device)

    theirs = Mamba2(
        config.d_model, config.d_state, config.d_conv, expand=config.expand, headdim=config.head_dim,
        ngroups=config.n_groups, use_mem_eff_path=False, layer_idx=0, device=AT,
    )  # fmt: skip
    ours = Block(config)
    ours.mixer.load_state_dict({name: tensor.cpu() for name, tensor in theirs.state_dict().items()}, strict=True)
    assert {n: p.shape for n, p in theirs.named_parameters()} == {n: p.shape for n, p in ours.mixer.named_parameters()}
    return theirs, ours.to(AT)


@torch.inference_mode()
@pytest.mark.parametrize(
    ("config", "length"), [(FULL_2, 1), (FULL_2, 2_048), (TWO_GROUPS, 300)], ids=["one", "long", "two groups"]
)
def test_outputs_and_states_of_a_sequence_agree(config: MambaConfig, length: int) -> None:
    """fp32: outputs, conv state and ssm state."""
    theirs, ours = mamba_ssm_block(config)
    x = torch.randn(2, length, config.d_model, device=AT)
    conv, ssm = theirs.allocate_inference_cache(2, length)
    cache = type("Cache", (), {"key_value_memory_dict": {0: (conv, ssm)}, "seqlen_offset": 0})()
    expected = theirs(x, inference_params=cache).double().cpu()
    for scan in (SEQUENTIAL, CHUNKED):
        ratio = torch.ones(2, length, device=AT)
        y, our_conv, our_ssm = block_scan(config, block_weights(ours), x, ratio, None, None, scan)
        assert relative_error(y, expected) < OF_SUMS
        assert relative_error(our_ssm, ssm.flatten(1, 2).double().cpu()) < OF_SUMS
        assert relative_error(our_conv, conv[..., 1:].double().cpu()) < OF_STEPS


@torch.inference_mode()
def test_steps_agree() -> None:
    """64 single steps, fp32: outputs and states of `mamba_ssm.Mamba2.step` all the way."""
    theirs, ours = mamba_ssm_block(FULL_2)
    weights = block_weights(ours)
    conv, ssm = theirs.allocate_inference_cache(5, 1)
    our_conv = torch.zeros(5, *FULL_2.conv_state_shape[1:], device=AT)
    our_ssm = torch.zeros(5, *FULL_2.ssm_state_shape[1:], device=AT)
    for _ in range(64):
        x = torch.randn(5, 1, FULL_2.d_model, device=AT)
        expected, conv, ssm = theirs.step(x, conv, ssm)
        y, our_conv, our_ssm = block_step(FULL_2, weights, x[:, 0], torch.ones(5, device=AT), our_conv, our_ssm)
        assert relative_error(y, expected[:, 0].double().cpu()) < OF_STEPS
    assert relative_error(our_ssm, ssm.flatten(1, 2).double().cpu()) < OF_STEPS
    assert relative_error(our_conv, conv[..., 1:].double().cpu()) < OF_STEPS


def test_gradients_of_a_block_agree() -> None:
    """fp32: those of the input and of every parameter, ours by the chunked scan in torch."""
    theirs, ours = mamba_ssm_block(FULL_2)
    x = torch.randn(2, 300, FULL_2.d_model, device=AT)
    weight = torch.randn_like(x)
    x_theirs, x_ours = x.clone().requires_grad_(), x.clone().requires_grad_()
    (theirs(x_theirs) * weight).sum().backward()
    y, _, _ = block_scan(FULL_2, block_weights(ours), x_ours, torch.ones(2, 300, device=AT), None, None, CHUNKED)
    (y * weight).sum().backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()} | {"x": x_theirs.grad}
    for name, own in (*ours.mixer.named_parameters(), ("x", x_ours)):
        assert own.grad is not None
        assert relative_error(own.grad, expected[name].double().cpu()) < 10 * OF_SUMS, name


# bf16 rounds every activation of every layer, so only gross errors show; fp32 carries the proof.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 10 * OF_SUMS), (torch.bfloat16, 0.15)], ids=str)
@pytest.mark.parametrize("from_state", [False, True])
def test_the_network_of_training(dtype: torch.dtype, tolerance: float, *, from_state: bool) -> None:
    """Outputs, last state and the gradient of every weight against the float64 reference."""
    length = 140
    config = replace(TWO_GROUPS, d_model=64, n_layer=2)
    weights, state = random_weights(config), random_state(config, 2) if from_state else None
    features, ratio = torch.randn(2, length, config.d_input).double(), random_ratio(2, length)
    factor = torch.randn(2, length, config.n_channels).double()

    def found(own: NetworkWeights, *, fast: bool) -> dict[str, Tensor]:
        leaves = {f"{i}.{n}": getattr(b, n).requires_grad_() for i, b in enumerate(own.blocks) for n in b.__slots__}
        like = own.embedding
        start = None if state is None else RecurrentState(state.conv.to(like), state.ssm.to(like))
        arguments = (config, own, features.to(like), ratio.to(like), start)
        output, last = network_scan_cuda(*arguments, dtype=dtype) if fast else network_scan(*arguments)
        loss = (output.forecast_mean * factor.to(like)).sum() + output.risk_logit.sum()
        gradients = dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))
        values = {"mean": output.forecast_mean, "risk": output.risk_logit, "conv": last.conv, "ssm": last.ssm}
        return {name: value.detach() for name, value in (values | gradients).items()}

    truth = found(weights.to(device=torch.device("cpu"), dtype=torch.float64), fast=False)
    near = found(weights.to(device=AT, dtype=torch.float32), fast=True)
    for name, value in truth.items():
        assert relative_error(near[name], value) < tolerance, name


def test_the_step_in_the_pool() -> None:
    """fp32 with long and short gaps: outputs and states follow the float64 scan, slots that nobody named stay as they were."""
    weights = random_weights(FULL_2)
    own = weights.to(device=AT, dtype=torch.float32)
    pool, slots = poisoned_pool(FULL_2, 6, AT), torch.tensor([4, 1, 3], device=AT)
    state = random_state(FULL_2, 3)
    pool.write(slots, RecurrentState(state.conv.float().to(AT), state.ssm.float().to(AT)))
    features, ratio = torch.randn(3, 20, FULL_2.d_input).double(), random_ratio(3, 20)
    truth, last = network_scan(FULL_2, weights, features, ratio, state)
    for t in range(20):
        output = step_mamba2(FULL_2, own, pool, slots, features[:, t].float().to(AT), ratio[:, t].float().to(AT))
        assert relative_error(output.forecast_mean, truth.forecast_mean[:, t]) < OF_STEPS
    held = pool.read(slots)
    assert relative_error(held.conv, last.conv) < OF_STEPS
    assert relative_error(held.ssm, last.ssm) < OF_STEPS
    assert pool.ssm[[0, 2, 5]].isnan().all()
    assert pool.conv[[0, 2, 5]].isnan().all()


def test_it_is_chosen_aloud(caplog: pytest.LogCaptureFixture) -> None:
    """By `auto` and for training."""
    with caplog.at_level("INFO", logger="kernels"):
        assert choose_backend("auto", FULL_2, random_weights(FULL_2)).name == "cuda"
        training_forward(AT, block="mamba2")
    assert "mamba-ssm's kernel and scans" in caplog.text
    assert "mamba-ssm's kernels scan whole sequences" in caplog.text
