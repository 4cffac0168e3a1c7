"""Our block against `mamba_ssm.Mamba` on the same weights (CUDA only: mamba-ssm cannot be imported without it)."""

from typing import Any

import pytest
import torch

from kernels import CHUNKED, SEQUENTIAL, MambaConfig
from kernels.reference import block_scan, block_step
from kernels.scan import selective_scan_mamba_ssm, selective_scan_ref
from model.network import Block, block_weights
from tests.kernels.test_backend import relative_error
from tests.kernels.test_scan import Operands, operands

pytestmark = pytest.mark.gpu

CONFIG = MambaConfig(d_input=22, n_channels=9)


@pytest.fixture
def mamba_ssm_block() -> Any:
    """A `mamba_ssm.Mamba` of the product's size in fp32 on the GPU, and our block with its weights in float64."""
    mamba_ssm = pytest.importorskip("mamba_ssm", reason="mamba-ssm is not installed")
    torch.backends.cuda.matmul.allow_tf32 = False
    theirs = mamba_ssm.Mamba(
        CONFIG.d_model, CONFIG.d_state, CONFIG.d_conv, CONFIG.expand, dt_rank=CONFIG.dt_rank, device="cuda"
    )
    ours = Block(CONFIG)
    ours.mixer.load_state_dict({name: tensor.cpu() for name, tensor in theirs.state_dict().items()}, strict=True)
    assert {n: p.shape for n, p in theirs.named_parameters()} == {n: p.shape for n, p in ours.mixer.named_parameters()}
    return theirs, ours


@torch.inference_mode()
@pytest.mark.parametrize("length", [1, 3, 512, 2_048])
def test_scan_outputs_and_last_state_agree(mamba_ssm_block: Any, length: int) -> None:
    """fp32 on the same GPU: outputs, conv state and ssm state within 1e-5 of mamba-ssm's, relative norm."""
    theirs, ours = mamba_ssm_block
    x = torch.randn(4, length, CONFIG.d_model, device="cuda")
    conv, ssm = theirs.allocate_inference_cache(4, length)[:2]
    cache = type("Cache", (), {"key_value_memory_dict": {0: (conv, ssm)}, "seqlen_offset": 0})()
    theirs.layer_idx = 0
    expected = theirs(x, inference_params=cache)
    weights = block_weights(ours.cuda().float())
    for scan in (SEQUENTIAL, CHUNKED):
        y, our_conv, our_ssm = block_scan(CONFIG, weights, x, torch.ones(4, length, device="cuda"), None, None, scan)
        assert relative_error(y, expected.double().cpu()) < 1e-5
        assert relative_error(our_ssm, ssm.double().cpu()) < 1e-5
        assert relative_error(our_conv, conv[..., 1:].double().cpu()) < 1e-5


@torch.inference_mode()
def test_steps_agree(mamba_ssm_block: Any) -> None:
    """64 single steps, fp32: outputs and states within 1e-5 of `mamba_ssm.Mamba.step` all the way."""
    theirs, ours = mamba_ssm_block
    weights = block_weights(ours.cuda().float())
    conv, ssm = theirs.allocate_inference_cache(5, 1)[:2]
    our_conv = torch.zeros(5, CONFIG.d_inner, CONFIG.d_conv - 1, device="cuda")
    our_ssm = torch.zeros(5, CONFIG.d_inner, CONFIG.d_state, device="cuda")
    ones = torch.ones(5, device="cuda")
    for _ in range(64):
        x = torch.randn(5, 1, CONFIG.d_model, device="cuda")
        expected, conv, ssm = theirs.step(x, conv, ssm)
        y, our_conv, our_ssm = block_step(CONFIG, weights, x[:, 0], ones, our_conv, our_ssm)
        assert relative_error(y, expected[:, 0].double().cpu()) < 1e-5
    assert relative_error(our_ssm, ssm.double().cpu()) < 1e-5
    assert relative_error(our_conv, conv[..., 1:].double().cpu()) < 1e-5


def test_training_scan_agrees_with_long_gaps_and_its_gradients(mamba_ssm_block: Any) -> None:
    """mamba-ssm's kernel with scaled inputs equals the time-aware reference in float64, gradients included."""
    assert mamba_ssm_block
    parts = operands(2, 200, 8, 16)
    truth_parts: Any = [part.clone().requires_grad_() for part in parts]
    fast_parts: Any = [part.float().cuda().requires_grad_() for part in parts]
    truth_operands: Operands = tuple(truth_parts)
    fast_operands: Operands = tuple(fast_parts)
    y_truth, last_truth = selective_scan_ref(*truth_operands, None)
    y, last = selective_scan_mamba_ssm(*fast_operands, None)
    assert relative_error(y, y_truth.detach()) < 1e-5
    assert relative_error(last, last_truth.detach()) < 1e-5
    weight = torch.randn_like(y_truth)
    (y_truth * weight).sum().backward()
    (y * weight.float().cuda()).sum().backward()
    for name, fast, truth in zip(("u", "dt", "dt_in", "A", "B", "C"), fast_parts, truth_parts, strict=True):
        assert relative_error(fast.grad, truth.grad) < 1e-4, name
