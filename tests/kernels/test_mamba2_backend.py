"""Who serves a network of Mamba-2 blocks: the torch reference does, others refuse where they cannot, `auto` knows."""

import logging

import pytest
import torch

from kernels import (
    BackendUnavailableError,
    MambaConfig,
    RecurrentState,
    StatePool,
    choose_backend,
    network_scan,
    training_forward,
)
from kernels.cpu import CpuBackend, missing_for_cpu
from kernels.cuda import missing_for_cuda
from kernels.training import forward_bf16, forward_chunked
from kernels.weights import random_weights
from tests.kernels.conftest import FULL_2, SMALL_2
from tests.kernels.test_backend import poisoned_pool, random_ratio, random_state, relative_error


@pytest.mark.parametrize("config", [SMALL_2, FULL_2], ids=["small", "full"])
def test_the_reference_carries_the_state_in_place(config: MambaConfig) -> None:
    """Packed scans and steps in the pool equal the float64 scan; slots that nobody named stay as they were."""
    weights = random_weights(config)
    backend = choose_backend("reference", config, weights)
    pool, slots = poisoned_pool(config, 5, backend.device), torch.tensor([3, 1])
    state = random_state(config, 2)
    pool.write(slots, state)
    features, ratio = torch.randn(2, 30, config.d_input).double(), random_ratio(2, 30)
    truth, last = network_scan(config, weights, features, ratio, state)
    scanned = backend.scan_packed(
        pool, slots, torch.tensor([20, 20]), features[:, :20].float().flatten(0, 1), ratio[:, :20].float().flatten()
    )
    assert relative_error(scanned.risk_logit.view(2, 20), truth.risk_logit[:, :20]) < 1e-4
    for t in range(20, 30):
        output = backend.step(pool, slots, features[:, t].float(), ratio[:, t].float())
        assert relative_error(output.forecast_mean, truth.forecast_mean[:, t]) < 1e-4
    assert relative_error(pool.read(slots).conv, last.conv) < 1e-4
    assert relative_error(pool.read(slots).ssm, last.ssm) < 1e-4
    assert pool.ssm[[0, 2, 4]].isnan().all()
    assert pool.conv[[0, 2, 4]].isnan().all()


@pytest.mark.parametrize("name", ["cpu", "cuda-bf16"])
def test_a_step_for_mamba_1_refuses_and_names_who_serves(name: str) -> None:
    """Asked for by name, it does not fall back in silence."""
    with pytest.raises(
        BackendUnavailableError, match=rf"'{name}' computes Mamba-1 .* mamba2\. Use --backend reference"
    ):
        choose_backend(name, SMALL_2, random_weights(SMALL_2))


@pytest.fixture
def without_mamba_ssm(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA device, as far as anyone asks, and no mamba-ssm."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("kernels.cuda.ssd.find_spec", lambda _: None)


@pytest.mark.usefixtures("without_mamba_ssm")
def test_cuda_without_mamba_ssm_refuses_and_says_what_to_install() -> None:
    """It does not run in plain torch in silence."""
    with pytest.raises(BackendUnavailableError, match=r"mamba-ssm is not installed: pip install 'emberwatch\[peers\]'"):
        choose_backend("cuda", SMALL_2, random_weights(SMALL_2))


@pytest.mark.usefixtures("without_mamba_ssm")
def test_auto_takes_the_reference_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever was compiled here."""
    with caplog.at_level(logging.INFO, logger="kernels.backend"):
        backend = choose_backend("auto", SMALL_2, random_weights(SMALL_2))
    assert backend.name == "reference"
    assert "computes Mamba-1 blocks, not mamba2, and for cuda mamba-ssm is not installed" in caplog.text


@pytest.mark.usefixtures("without_mamba_ssm")
def test_training_on_cuda_without_mamba_ssm_says_what_is_slow(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bf16 products by the chunked scan in torch; fp32 ones are always so, and need nothing."""
    monkeypatch.setattr("kernels.training.find_spec", lambda _: True)
    assert training_forward(torch.device("cuda"), block="mamba2") is forward_bf16
    assert "far slower: mamba-ssm is not installed" in caplog.text
    caplog.clear()
    assert training_forward(torch.device("cuda"), torch.float32, "mamba2") is forward_chunked
    assert not caplog.text


def test_kernels_made_for_mamba_1_refuse_other_weights() -> None:
    """Also when nobody asked the chooser."""
    assert "Mamba-1" in (missing_for_cuda(SMALL_2) or "")
    if missing_for_cpu() is None:
        with pytest.raises(ValueError, match="compute Mamba-1 blocks"):
            CpuBackend(SMALL_2, random_weights(SMALL_2))


def test_the_state_of_the_pool_is_what_the_configuration_says() -> None:
    """Bytes per vehicle follow from the kind of block: B and C pass the convolution too."""
    pool = StatePool(FULL_2, 2, torch.device("cpu"))
    assert pool.ssm[0].nbytes + pool.conv[0].nbytes == FULL_2.state_bytes == 4 * 4 * (256 * 64 + (256 + 2 * 64) * 3)


def test_training_differentiates_and_bf16_stays_near() -> None:
    """The forward of training gives gradients to every weight of the blocks; with bf16 products the outputs stay near."""
    weights = random_weights(SMALL_2).to(device=torch.device("cpu"), dtype=torch.float32)
    blocks = [getattr(block, name).requires_grad_() for block in weights.blocks for name in block.__slots__]
    features, ratio = torch.randn(2, 40, SMALL_2.d_input), torch.ones(2, 40)
    forward = training_forward(torch.device("cpu"), block="mamba2")
    output, last = forward(SMALL_2, weights, features, ratio, None)
    output.forecast_mean.square().sum().backward()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in blocks)
    half, half_last = forward_bf16(SMALL_2, weights, features, ratio, None)
    assert half.risk_logit.dtype is torch.float32
    assert half_last.ssm.dtype is torch.float32
    assert relative_error(half_last.ssm.detach(), last.ssm.detach().double()) < 0.1
    resumed, _ = forward(SMALL_2, weights, features, ratio, RecurrentState(last.conv.detach(), last.ssm.detach()))
    assert not torch.equal(resumed.risk_logit, output.risk_logit)
