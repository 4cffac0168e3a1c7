"""The same promises for every backend: correct in place, isolated, and chosen aloud."""

import logging

import pytest
import torch

from kernels import (
    Backend,
    BackendUnavailableError,
    MambaConfig,
    NetworkWeights,
    RecurrentState,
    StatePool,
    choose_backend,
    network_scan,
)
from tests.kernels.conftest import MakeWeights

NAMES = ["reference", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.fixture
def weights(config: MambaConfig, make_weights: MakeWeights) -> NetworkWeights:
    """One network for the backend and the truth."""
    return make_weights(config)


@pytest.fixture(params=NAMES)
def backend(request: pytest.FixtureRequest, config: MambaConfig, weights: NetworkWeights) -> Backend:
    """Each backend that this machine can run."""
    return choose_backend(request.param, config, weights)


def relative_error(value: torch.Tensor, truth: torch.Tensor) -> float:
    """Norm of the difference over the norm of the truth."""
    return float(torch.linalg.vector_norm(value.double().cpu() - truth) / torch.linalg.vector_norm(truth))


def test_steps_in_place_equal_the_float64_scan(backend: Backend, config: MambaConfig, weights: NetworkWeights) -> None:
    """Stepping random slots of a poisoned pool gives the float64 scan's outputs and states, to fp32 rounding."""
    length, slots = 50, torch.tensor([6, 2, 5])
    features = torch.randn(3, length, config.d_input, dtype=torch.float64)
    ratio = torch.exp(torch.randn(3, length, dtype=torch.float64))
    truth, last = network_scan(config, weights, features, ratio)
    pool = StatePool(config, 8, backend.device)
    pool.conv.fill_(torch.nan)
    pool.ssm.fill_(torch.nan)
    pool.zero(slots.to(backend.device))
    for t in range(length):
        output = backend.step(pool, slots, features[:, t].float(), ratio[:, t].float())
        assert relative_error(output.risk_logit, truth.risk_logit[:, t]) < 1e-4
        assert relative_error(output.forecast_mean, truth.forecast_mean[:, t]) < 1e-4
        assert relative_error(output.forecast_log_scale, truth.forecast_log_scale[:, t]) < 1e-4
    assert relative_error(pool.ssm[slots], last.ssm) < 1e-5
    assert relative_error(pool.conv[slots], last.conv) < 1e-5


def test_unused_slots_stay_bit_equal(backend: Backend, config: MambaConfig) -> None:
    """A step touches the slots it was given and no others."""
    pool = StatePool(config, 9, backend.device)
    pool.conv.normal_()
    pool.ssm.normal_()
    conv, ssm = pool.conv.clone(), pool.ssm.clone()
    backend.step(pool, torch.tensor([7, 1]), torch.randn(2, config.d_input), torch.ones(2))
    unused = [0, 2, 3, 4, 5, 6, 8]
    assert torch.equal(conv[unused], pool.conv[unused])
    assert torch.equal(ssm[unused], pool.ssm[unused])
    assert not torch.equal(ssm[[7, 1]], pool.ssm[[7, 1]])


def test_the_scan_resumes_from_a_state(backend: Backend, config: MambaConfig, weights: NetworkWeights) -> None:
    """The backend's scan from a stored state equals the float64 reference, outputs and last state."""
    features = torch.randn(2, 70, config.d_input, dtype=torch.float64)
    ratio = torch.ones(2, 70, dtype=torch.float64)
    start = RecurrentState(
        torch.randn(2, *config.conv_state_shape, dtype=torch.float64),
        torch.randn(2, *config.ssm_state_shape, dtype=torch.float64),
    )
    truth, last = network_scan(config, weights, features, ratio, start)
    on_device = RecurrentState(start.conv.float().to(backend.device), start.ssm.float().to(backend.device))
    output, state = backend.scan(features.float(), ratio.float(), on_device)
    assert relative_error(output.risk_logit, truth.risk_logit) < 1e-4
    assert relative_error(state.ssm, last.ssm) < 1e-5
    assert relative_error(state.conv, last.conv) < 1e-5


def test_pool_reads_back_what_was_written(config: MambaConfig) -> None:
    """A state survives the pool bit for bit, and zero puts it back to the start."""
    pool = StatePool(config, 4, torch.device("cpu"))
    state = RecurrentState(torch.randn(2, *config.conv_state_shape), torch.randn(2, *config.ssm_state_shape))
    slots = torch.tensor([3, 1])
    pool.write(slots, state)
    assert torch.equal(pool.read(slots).ssm, state.ssm)
    assert torch.equal(pool.read(slots).conv, state.conv)
    pool.zero(slots[:1])
    assert not pool.ssm[3].any()
    assert torch.equal(pool.ssm[1], state.ssm[1])


def test_a_pool_needs_room_beside_the_dummy(config: MambaConfig) -> None:
    """A pool of one slot would hold no vehicle and is refused."""
    with pytest.raises(ValueError, match="at least 2"):
        StatePool(config, 1, torch.device("cpu"))


def test_auto_says_what_it_chose(
    config: MambaConfig, weights: NetworkWeights, caplog: pytest.LogCaptureFixture
) -> None:
    """`auto` picks a backend that runs here and logs it."""
    with caplog.at_level(logging.INFO, logger="kernels.backend"):
        backend = choose_backend("auto", config, weights)
    assert backend.name in {"reference", "cuda"}
    assert f"backend auto chose {backend.name}" in caplog.text


def test_an_unknown_backend_is_refused_with_the_choices(config: MambaConfig, weights: NetworkWeights) -> None:
    """A typing error in the setting names the valid values."""
    with pytest.raises(ValueError, match="auto, reference, cuda"):
        choose_backend("cdua", config, weights)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_cuda_without_a_device_is_refused_with_what_is_missing(config: MambaConfig, weights: NetworkWeights) -> None:
    """Asking for CUDA where there is none never falls back in silence."""
    with pytest.raises(BackendUnavailableError, match="needs a CUDA device"):
        choose_backend("cuda", config, weights)
