"""The maths: step against scan, gaps, and the published formulas."""

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kernels import BlockWeights, Mamba2Weights, MambaConfig, RecurrentState, network_scan, network_step
from kernels.reference import block_step
from tests.kernels.conftest import FULL, FULL_2, SMALL, SMALL_2, MakeWeights


@pytest.fixture(params=[SMALL, FULL, SMALL_2, FULL_2], ids=["small-1", "full-1", "small-2", "full-2"])
def config(request: pytest.FixtureRequest) -> MambaConfig:
    """Both kinds of block, each in an odd small size and in the product's."""
    assert isinstance(request.param, MambaConfig)
    return request.param


def random_sequence(config: MambaConfig, batch: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and elapsed-time ratios from a fifth to ten thousand nominal intervals, most of them one."""
    features = torch.randn(batch, length, config.d_input, dtype=torch.float64)
    ratio = torch.ones(batch, length, dtype=torch.float64)
    odd = torch.rand(batch, length) < 0.2
    ratio[odd] = torch.exp(math.log(0.2) + torch.rand(int(odd.sum()), dtype=torch.float64) * math.log(50_000.0))
    return features, ratio


def test_stepping_equals_the_scan_in_output_and_state(config: MambaConfig, make_weights: MakeWeights) -> None:
    """Applying the step sample by sample gives the scan's outputs and last state, in float64."""
    weights = make_weights(config)
    features, ratio = random_sequence(config, batch=3, length=37)
    scanned, last = network_scan(config, weights, features, ratio)
    state = RecurrentState.zeros(config, 3, like=features)
    for t in range(features.shape[1]):
        stepped, state = network_step(config, weights, features[:, t], ratio[:, t], state)
        torch.testing.assert_close(stepped.risk_logit, scanned.risk_logit[:, t], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(stepped.forecast_mean, scanned.forecast_mean[:, t], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(stepped.forecast_log_scale, scanned.forecast_log_scale[:, t], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(state.conv, last.conv, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(state.ssm, last.ssm, rtol=1e-10, atol=1e-12)


def test_a_scan_resumes_from_any_state(config: MambaConfig, make_weights: MakeWeights) -> None:
    """Cutting a sequence at any point and resuming from the state changes nothing, also for cuts below d_conv."""
    weights = make_weights(config)
    features, ratio = random_sequence(config, batch=2, length=20)
    whole, last = network_scan(config, weights, features, ratio)
    for cut in (1, 2, 3, 11, 19):
        _, middle = network_scan(config, weights, features[:, :cut], ratio[:, :cut])
        rest, resumed = network_scan(config, weights, features[:, cut:], ratio[:, cut:], middle)
        torch.testing.assert_close(rest.risk_logit, whole.risk_logit[:, cut:], rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(resumed.ssm, last.ssm, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(resumed.conv, last.conv, rtol=1e-10, atol=1e-12)


def test_a_batch_equals_its_vehicles_one_by_one(config: MambaConfig, make_weights: MakeWeights) -> None:
    """A batch of N gives what N batches of one give; shuffling it permutes the results and nothing else."""
    weights = make_weights(config)
    features, ratio = random_sequence(config, batch=5, length=1)
    state = RecurrentState(
        torch.randn(5, *config.conv_state_shape, dtype=torch.float64),
        torch.randn(5, *config.ssm_state_shape, dtype=torch.float64),
    )
    together, after = network_step(config, weights, features[:, 0], ratio[:, 0], state)
    order = torch.randperm(5)
    for row in order.tolist():
        one = slice(row, row + 1)
        alone, alone_after = network_step(
            config, weights, features[one, 0], ratio[one, 0], RecurrentState(state.conv[one], state.ssm[one])
        )
        torch.testing.assert_close(alone.risk_logit, together.risk_logit[one], rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(alone_after.ssm, after.ssm[one], rtol=1e-12, atol=1e-13)
    shuffled, _ = network_step(
        config, weights, features[order, 0], ratio[order, 0], RecurrentState(state.conv[order], state.ssm[order])
    )
    torch.testing.assert_close(shuffled.risk_logit, together.risk_logit[order], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("config", [SMALL, FULL], ids=["small", "full"])
def test_at_the_nominal_interval_a_block_is_plain_mamba(config: MambaConfig, make_weights: MakeWeights) -> None:
    """With ratio 1 a block computes Mamba's published step, written here once more, term by term."""
    block = make_weights(config).blocks[0]
    assert isinstance(block, BlockWeights)
    x = torch.randn(config.d_model, dtype=torch.float64)
    conv = torch.randn(config.d_inner, config.d_conv - 1, dtype=torch.float64)
    ssm = torch.randn(config.d_inner, config.d_state, dtype=torch.float64)
    y, new_conv, new_ssm = block_step(config, block, x[None], torch.ones(1, dtype=torch.float64), conv[None], ssm[None])

    u, z = (block.in_proj @ x)[: config.d_inner], (block.in_proj @ x)[config.d_inner :]
    taps = torch.cat((conv, u[:, None]), dim=1)
    u = F.silu(torch.einsum("dk,dk->d", taps, block.conv1d[:, 0]) + block.conv1d_bias)
    projected = block.x_proj @ u
    dt = F.softplus(block.dt_proj @ projected[: config.dt_rank] + block.dt_proj_bias)
    B = projected[config.dt_rank : config.dt_rank + config.d_state]
    C = projected[config.dt_rank + config.d_state :]
    expected = torch.exp(dt[:, None] * -torch.exp(block.A_log)) * ssm + dt[:, None] * B[None] * u[:, None]
    expected_y = block.out_proj @ ((expected @ C + block.D * u) * F.silu(z))

    torch.testing.assert_close(new_ssm[0], expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(y[0], expected_y, rtol=1e-10, atol=1e-12)
    assert torch.equal(new_conv[0], taps[:, 1:])


@pytest.mark.parametrize("config", [SMALL_2, FULL_2], ids=["small", "full"])
def test_at_the_nominal_interval_a_block_is_plain_mamba_2(config: MambaConfig, make_weights: MakeWeights) -> None:
    """With ratio 1 a block computes Mamba-2's published step, written here once more, head by head."""
    block = make_weights(config).blocks[0]
    assert isinstance(block, Mamba2Weights)
    x = torch.randn(config.d_model, dtype=torch.float64)
    conv = torch.randn(config.conv_width, config.d_conv - 1, dtype=torch.float64)
    ssm = torch.randn(config.d_inner, config.d_state, dtype=torch.float64)
    y, new_conv, new_ssm = block_step(config, block, x[None], torch.ones(1, dtype=torch.float64), conv[None], ssm[None])

    projected, d, n = block.in_proj @ x, config.d_inner, config.d_state
    z, xBC, dt_raw = projected[:d], projected[d : d + config.conv_width], projected[d + config.conv_width :]
    taps = torch.cat((conv, xBC[:, None]), dim=1)
    xBC = F.silu(torch.einsum("dk,dk->d", taps, block.conv1d[:, 0]) + block.conv1d_bias)
    B, C = xBC[d : d + config.n_groups * n], xBC[d + config.n_groups * n :]
    expected, inner = torch.empty_like(ssm), torch.empty(d, dtype=torch.float64)
    for head in range(config.n_heads):
        own = slice(head * config.head_dim, (head + 1) * config.head_dim)
        group = head * config.n_groups // config.n_heads
        shared = slice(group * n, (group + 1) * n)
        dt = F.softplus(dt_raw[head] + block.dt_bias[head])
        decay = torch.exp(-dt * torch.exp(block.A_log[head]))
        expected[own] = decay * ssm[own] + dt * torch.outer(xBC[:d][own], B[shared])
        inner[own] = expected[own] @ C[shared] + block.D[head] * xBC[:d][own]
    gated = inner * F.silu(z)
    gated = torch.cat([g / torch.sqrt(g.square().mean() + config.norm_eps) for g in gated.chunk(config.n_groups)])
    expected_y = block.out_proj @ (gated * block.gated_norm)

    torch.testing.assert_close(new_ssm[0], expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(y[0], expected_y, rtol=1e-10, atol=1e-12)
    assert torch.equal(new_conv[0], taps[:, 1:])


def test_a_gap_decays_the_state_by_true_elapsed_time(config: MambaConfig, make_weights: MakeWeights) -> None:
    """Up to a minute a gap scales the step size; beyond it only the decay goes on, so no sample can shout."""
    weights = make_weights(config)
    features = torch.randn(1, config.d_input, dtype=torch.float64)
    start = RecurrentState(
        torch.randn(1, *config.conv_state_shape, dtype=torch.float64),
        torch.randn(1, *config.ssm_state_shape, dtype=torch.float64),
    )

    def first_layer(ratio: float, ssm: torch.Tensor) -> torch.Tensor:
        state = RecurrentState(start.conv, ssm)
        after = network_step(config, weights, features, torch.tensor([ratio], dtype=torch.float64), state)[1]
        return after.ssm[:, 0]

    zero = torch.zeros_like(start.ssm)
    minute, hour = config.max_hold_ratio, 60 * config.max_hold_ratio
    fresh = first_layer(1.0, zero)
    torch.testing.assert_close(first_layer(minute, zero), minute * fresh)
    torch.testing.assert_close(first_layer(hour, zero), minute * fresh)
    kept_once = (first_layer(1.0, start.ssm) - fresh) / start.ssm[:, 0]
    kept_hour = (first_layer(hour, start.ssm) - first_layer(hour, zero)) / start.ssm[:, 0]
    torch.testing.assert_close(kept_hour, kept_once**hour, rtol=1e-6, atol=1e-9)


def test_sizes_must_be_positive() -> None:
    """A configuration that cannot exist is refused by name."""
    with pytest.raises(ValueError, match="d_state must be positive"):
        MambaConfig(d_input=7, n_channels=3, d_state=0)


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ({"block": "mamba3"}, "block must be one of mamba1, mamba2"),
        ({"block": "mamba2", "head_dim": 48}, "head_dim 48 does not divide the inner width 256"),
        ({"block": "mamba2", "n_groups": 3}, "n_groups 3 does not divide the 4 heads"),
    ],
)
def test_a_block_that_cannot_be_built_is_refused(sizes: dict[str, Any], reason: str) -> None:
    """An unknown kind of block and heads that do not divide are refused by name."""
    with pytest.raises(ValueError, match=reason):
        MambaConfig(d_input=7, n_channels=3, **sizes)
