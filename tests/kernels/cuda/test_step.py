"""The step kernel in every cut against the reference in float64."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from kernels import MambaConfig, RecurrentState, StatePool, network_step
from kernels.cuda.step import StepKernel
from kernels.cuda.step_plan import StepPlan, StepPlanError
from kernels.weights import random_weights
from tests.kernels.cuda.cases import assert_close

SMALL = MambaConfig(d_input=7, n_channels=3, d_model=24, n_layer=2, d_state=16, d_conv=4, dt_rank=3)
ODD = replace(SMALL, d_model=19, expand=1, d_state=5, d_conv=2)
WIDE = replace(SMALL, d_model=70, d_state=32, d_conv=5, dt_rank=17)
DEEP_STATE = replace(SMALL, d_model=40, d_state=128, n_layer=1)
UNEVEN = replace(SMALL, d_model=48, n_layer=1)
FULL = MambaConfig(d_input=22, n_channels=9, n_layer=2)
CASES = [
    pytest.param(SMALL, {"ranks": 1}, 3, 5, id="one block"),
    pytest.param(SMALL, {"ranks": 1, "threads": 128}, 8, 19, id="several tiles, one block"),
    pytest.param(SMALL, {"ranks": 1, "columns": 16, "threads": 128}, 16, 19, id="sixteen columns"),
    pytest.param(SMALL, {"ranks": 2, "threads": 128}, 2, 5, id="two ranks"),
    pytest.param(SMALL, {"ranks": 2, "threads": 64}, 8, 13, id="two ranks, two tiles"),
    pytest.param(WIDE, {"ranks": 4, "threads": 128, "kept": 25}, 4, 7, id="four ranks, a share kept"),
    pytest.param(WIDE, {"ranks": 8, "threads": 64}, 3, 7, id="eight ranks"),
    pytest.param(ODD, {"ranks": 1, "threads": 64}, 8, 9, id="odd sizes"),
    pytest.param(ODD, {"ranks": 2, "threads": 64}, 1, 3, id="odd sizes, two ranks"),
    pytest.param(DEEP_STATE, {"ranks": 1, "threads": 64}, 8, 9, id="state of 128"),
    pytest.param(SMALL, {"ranks": 1, "threads": 64, "ring": 1}, 4, 9, id="a ring of one"),
    pytest.param(SMALL, {"ranks": 2, "threads": 96}, 4, 9, id="three warps"),
    pytest.param(
        UNEVEN, {"ranks": 2, "threads": 256}, 4, 9, id="more threads than a vehicle's channels, less than two's"
    ),
    pytest.param(WIDE, {"ranks": 2, "threads": 64, "pipe": 2}, 4, 7, id="two fragments ahead"),
    pytest.param(WIDE, {"ranks": 1, "threads": 128, "pipe": 3, "ring": 2}, 4, 5, id="three fragments ahead"),
    pytest.param(SMALL, {"ranks": 1, "threads": 64, "advancers": 64}, 2, 9, id="two teams"),
    pytest.param(SMALL, {"ranks": 1, "threads": 64, "advancers": 32, "columns": 16}, 9, 27, id="two teams, odd tiles"),
    pytest.param(SMALL, {"ranks": 2, "threads": 96, "advancers": 64}, 3, 17, id="two teams, two ranks"),
    pytest.param(SMALL, {"ranks": 1, "threads": 64, "bulk": True, "ring": 2}, 4, 9, id="copy engine"),
    pytest.param(WIDE, {"ranks": 2, "threads": 64, "bulk": True}, 4, 9, id="copy engine, two ranks"),
    pytest.param(WIDE, {"ranks": 2, "threads": 64, "advancers": 32, "bulk": True}, 2, 9, id="two teams, copy engine"),
    pytest.param(ODD, {"ranks": 1, "threads": 64, "advancers": 32, "bulk": True}, 2, 9, id="two teams, odd sizes"),
    pytest.param(FULL, {"ranks": 2, "threads": 256, "advancers": 128, "bulk": True}, 8, 40, id="full, two teams"),
    pytest.param(FULL, {"ranks": 1}, 8, 9, id="full, one block"),
    pytest.param(FULL, {"ranks": 4}, 8, 9, id="full, four ranks"),
    pytest.param(FULL, {"ranks": 16, "threads": 256}, 3, 4, id="full, sixteen ranks"),
    pytest.param(FULL, {"ranks": 16}, 1, 1, id="full, sixteen ranks, one vehicle"),
]


@pytest.mark.parametrize(("config", "cut", "vans", "batch"), CASES)
def test_equals_the_reference(
    device: torch.device, config: MambaConfig, cut: dict[str, Any], vans: int, batch: int
) -> None:
    """Outputs and every state from a poisoned pool, gaps of a second to half a day; unused slots stay bit-equal."""
    weights = random_weights(config)
    kernel = StepKernel(config, weights, device)
    plan = StepPlan(config, **cut)
    if device.type == "cpu":
        kernel._capacity[plan] = 2
    features = torch.randn(batch, config.d_input)
    ratio = torch.exp(torch.rand(batch) * 10.8 - 1.6)
    start = RecurrentState(torch.randn(batch, *config.conv_state_shape), torch.randn(batch, *config.ssm_state_shape))
    truth, after = network_step(
        config, weights, features.double(), ratio.double(), RecurrentState(start.conv.double(), start.ssm.double())
    )
    pool = StatePool(config, batch + 6, device)
    pool.conv.fill_(torch.nan)
    pool.ssm.fill_(torch.nan)
    slots = 1 + torch.randperm(batch + 5)[:batch].to(device)
    pool.write(slots, RecurrentState(start.conv.to(device), start.ssm.to(device)))
    out = torch.full((batch, 2 * config.n_channels + 1), torch.nan, device=device)
    kernel.run(pool, slots, features.to(device), ratio.to(device), out, plan, vans)
    state, n = pool.read(slots), config.n_channels
    assert_close(
        {
            "mean and risk": torch.cat((out[:, :n], out[:, 2 * n :]), 1), "scale": out[:, n : 2 * n],
            "conv": state.conv, "ssm": state.ssm,
        },
        {  # the risk of one vehicle alone may lie next to zero
            "mean and risk": torch.cat((truth.forecast_mean, truth.risk_logit[:, None]), 1),
            "scale": truth.forecast_log_scale, "conv": after.conv, "ssm": after.ssm,
        },
        1e-5,
    )  # fmt: skip
    unused = torch.ones(pool.n_slots, dtype=torch.bool)
    unused[slots.cpu()] = False
    assert torch.isnan(pool.ssm.cpu()[unused]).all()
    assert torch.isnan(pool.conv.cpu()[unused]).all()


def test_rounded_weights(device: torch.device) -> None:
    """With bf16 weights the step equals the reference on the rounded weights; norms are folded before rounding."""
    weights = random_weights(SMALL)
    rounded = weights.to(device=torch.device("cpu"), dtype=torch.float64)
    for block in rounded.mamba1_blocks():
        block.in_proj.copy_((block.in_proj * block.norm).bfloat16().double())
        block.norm.fill_(1)
        for tensor in (block.x_proj, block.out_proj):
            tensor.copy_(tensor.bfloat16().double())
    for tensor in (rounded.embedding, rounded.risk_head, rounded.forecast_head):
        tensor.copy_(tensor.bfloat16().double())
    features, ratio = torch.randn(5, SMALL.d_input), torch.ones(5)
    zero = RecurrentState.zeros(SMALL, 5, like=features.double())
    truth, after = network_step(SMALL, rounded, features.double(), ratio.double(), zero)
    pool, slots = StatePool(SMALL, 6, device), torch.arange(1, 6, device=device)
    out = torch.full((5, 2 * SMALL.n_channels + 1), torch.nan, device=device)
    kernel = StepKernel(SMALL, weights, device, bf16=True)
    kernel.run(pool, slots, features.to(device), ratio.to(device), out)
    assert_close({"risk": out[:, -1], "ssm": pool.read(slots).ssm}, {"risk": truth.risk_logit, "ssm": after.ssm}, 1e-5)


@pytest.mark.parametrize(
    ("batch", "ranks", "teams", "vans", "kept"),
    [
        (1, 16, 1, 1, -1), (7, 16, 1, 1, -1), (8, 8, 1, 1, -1), (30, 8, 1, 2, -1), (31, 4, 1, 2, -1), (64, 4, 1, 3, -1),
        (240, 4, 1, 8, 25), (500, 2, 1, 8, -1), (529, 2, 2, 5, -1), (1_024, 2, 2, 8, -1), (1_100, 1, 1, 9, -1),
        (2_300, 1, 2, 9, -1), (16_384, 1, 2, 16, -1),
    ],
)  # fmt: skip
def test_cuts_as_measured(
    monkeypatch: pytest.MonkeyPatch, batch: int, ranks: int, teams: int, vans: int, kept: int
) -> None:
    """On a device that holds as many clusters as an H100, a batch is cut as the sweep found best, in even rounds."""
    config = MambaConfig(d_input=22, n_channels=9)
    kernel = StepKernel(config, random_weights(config), torch.device("cpu"))
    monkeypatch.setattr(kernel, "_ask_capacity", lambda plan: {16: 7, 8: 15, 4: 30, 2: 66, 1: 132}[plan.ranks])
    plan, found = kernel.plan(batch)
    assert (plan.ranks, plan.tiles_in_flight, found, plan.kept) == (ranks, teams, vans, kept)


def test_a_state_that_does_not_fit_is_refused() -> None:
    """What the kernel cannot hold is said, not tried."""
    with pytest.raises(StepPlanError, match="d_state up to 128"):
        StepKernel(replace(SMALL, d_state=129), random_weights(SMALL), torch.device("cpu"))
