"""The network's weights in the order in which step.cu streams them."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.cuda.step_plan import StepPlan
from kernels.weights import BlockWeights, NetworkWeights

LOG2_E = 1.4426950408889634


def pack_step_weights(plan: StepPlan, weights: NetworkWeights) -> tuple[Tensor, Tensor]:
    """Fragments of all projections, fp32 or bf16, and tables of everything else, fp32; both flat.

    The norms' weights are folded into the projections behind them, and A is kept as -exp(A_log) * log2(e), both in
    float64, so that packing costs one rounding.
    """
    weights = weights.to(device=torch.device("cpu"), dtype=torch.float64).with_norms_folded()
    fragments = torch.cat([part.flatten() for part in _fragments(plan, weights)])
    tables = torch.cat([part.flatten() for part in _tables(plan, weights)])
    return fragments.to(torch.bfloat16 if plan.bf16 else torch.float32), tables.to(torch.float32)


def _fragments(plan: StepPlan, weights: NetworkWeights) -> Iterator[Tensor]:
    yield _product(plan, weights.embedding, plan.model // 16, plan.input_steps, 1)
    heads = torch.cat((weights.forecast_head, weights.risk_head))
    yield _product(plan, heads, plan.head_tiles, plan.model // 16, plan.split_heads)
    for block in weights.mamba1_blocks():
        for rank in range(plan.ranks):
            yield from _layer(plan, block, rank)


def _layer(plan: StepPlan, block: BlockWeights, rank: int) -> Iterator[Tensor]:
    config, own = plan.config, plan.own
    in_proj = torch.cat([_own(plan, half, rank) for half in block.in_proj.chunk(2)])
    yield _product(plan, in_proj, 2 * own // 16, plan.model // 16, plan.split_in)
    dt, B, C = block.x_proj.split((config.dt_rank, config.d_state, config.d_state))
    x_proj = torch.cat((_pad(dt, plan.rank_padded), _pad(B, plan.states), _pad(C, plan.states)))
    x_proj = _own(plan, x_proj.T, rank).T
    yield _product(plan, x_proj, plan.projected_tiles, own // 16, plan.split_projected)
    out_proj = _own(plan, block.out_proj.T, rank).T
    yield _product(plan, out_proj, plan.model // 16, own // 16, plan.split_out)


def _tables(plan: StepPlan, weights: NetworkWeights) -> Iterator[Tensor]:
    yield _pad(weights.embedding_bias, plan.model)
    yield _pad(torch.cat((weights.forecast_head_bias, weights.risk_head_bias)), 16 * plan.head_tiles)
    for block in weights.mamba1_blocks():
        for rank in range(plan.ranks):
            yield _own(plan, block.conv1d.squeeze(1), rank).T
            for vector in (block.conv1d_bias, block.dt_proj_bias, block.D):
                yield _own(plan, vector, rank)
            yield _own(plan, block.dt_proj, rank).T
    for block in weights.mamba1_blocks():
        for rank in range(plan.ranks):
            yield _pad(_own(plan, -torch.exp(block.A_log) * LOG2_E, rank).T, plan.states).T


def _pad(tensor: Tensor, rows: int) -> Tensor:
    """Zeros appended to the first dimension."""
    return F.pad(tensor, (0,) * (2 * tensor.dim() - 1) + (rows - len(tensor),))


def _own(plan: StepPlan, tensor: Tensor, rank: int) -> Tensor:
    """A rank's share of the channels, the first dimension."""
    return _pad(tensor[rank * plan.own : (rank + 1) * plan.own], plan.own)


def _product(plan: StepPlan, weight: Tensor, tiles: int, steps: int, split: int) -> Tensor:
    """(outputs, inputs) as (fragments, 64, 4), the fragments of each warp in a row; see `Product` in step.cu."""
    weight = _pad(_pad(weight, 16 * tiles).T, 16 * steps).T
    # (tile, row half, g, step, t, half, quad) to (tile, step, half, g, t, quad, row half): lane 4 * g + t of each half
    # has rows g and g + 8 of inputs 4 * t + 2 * half and its neighbour.
    lanes = weight.reshape(tiles, 2, 8, steps, 4, 2, 2).permute(0, 3, 5, 2, 4, 6, 1).reshape(tiles, steps, 64, 4)
    units = lanes.view(tiles, split, steps // split, 64, 4).transpose(0, 1).flatten(0, 1)
    return torch.cat([units[warp :: plan.warps] for warp in range(plan.warps)]).flatten(0, 1)
