"""Scan many vehicles of different lengths on CUDA, from stored states to final states in place: replay and backfill.

Sequences are padded to the longest of a group. A padded step has ratio 0: its decay is exp(0) = 1 and its input has the
weight 0, so the selective state stays what it is, bit for bit; the convolution's window is taken where each ends.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.config import MambaConfig
from kernels.cuda.causal_conv1d import conv_forward
from kernels.cuda.network import fused_heads
from kernels.cuda.selective_scan import DEFAULT_TILING, Operands, ScanTiling, scan_forward
from kernels.layers import rms_norm
from kernels.packed import join_outputs, split_outputs
from kernels.pool import StatePool
from kernels.reference import NetworkOutput, RecurrentState
from kernels.weights import BlockWeights, NetworkWeights

ROWS_AT_ONCE = 1 << 19  # (vehicle, sample) rows under way: about 8 GB of activations at d_model 128
LEAST_STEPS = 256  # of a chunk, so that many vehicles do not cut time into single steps


def scan_packed_cuda(
    config: MambaConfig,
    weights: NetworkWeights,
    pool: StatePool,
    slots: Tensor,
    lengths: Tensor,
    features: Tensor,
    ratio: Tensor,
    *,
    last_only: bool = False,
    rows_at_once: int = ROWS_AT_ONCE,
) -> NetworkOutput:
    """Carry each of `slots` over its own number of samples, in place in the pool.

    Args:
        config: sizes; d_state is one of 16, 32, 64, 128.
        weights: fp32, on the pool's device.
        pool: states.
        slots: (vehicles,) int64, distinct, on the pool's device.
        lengths: (vehicles,) int64 on the host, samples of each, zero allowed.
        features: (lengths.sum(), d_input) fp32, vehicle after vehicle, each in order of time.
        ratio: (lengths.sum(),) fp32.
        last_only: outputs after the last sample of each vehicle only; of a vehicle without samples they are NaN.
        rows_at_once: bounds the working memory.

    Returns:
        Outputs with leading dimension lengths.sum(), or (vehicles,) with `last_only`.
    """
    starts = lengths.cumsum(0) - lengths
    rows = len(lengths) if last_only else int(lengths.sum())
    out = torch.full((rows, 2 * config.n_channels + 1), torch.nan, device=features.device)
    for vans, first, steps in chunks(lengths, rows_at_once):
        index = (starts[vans] + first).unsqueeze(1) + torch.arange(steps)  # (vehicles, steps) rows of `features`
        own = (lengths[vans] - first).clamp(max=steps)
        present = torch.arange(steps) < own.unsqueeze(1)
        index = torch.where(present, index, (starts[vans]).unsqueeze(1))
        index, own = index.to(features.device), own.to(features.device)
        here = slots[vans.to(slots.device)]
        state = pool.read(here)
        x, state = carry(
            config,
            weights,
            features[index],
            torch.where(present.to(ratio.device), ratio[index], 0.0),
            own,
            state,
        )
        pool.write(here, state)
        if last_only:
            ends = own.unsqueeze(1) - 1
            place, at = vans.to(out.device), (torch.arange(len(vans), device=out.device), ends.squeeze(1))
            out[place] = join_outputs(fused_heads(config, weights, x[at], features[index[at]]))
        else:
            real = present.to(out.device)
            out[index[real]] = join_outputs(fused_heads(config, weights, x[real], features[index[real]]))
    return split_outputs(config, out)


def chunks(lengths: Tensor, rows_at_once: int) -> Iterator[tuple[Tensor, int, int]]:
    """Vehicles, first step and steps of each piece of work, in order of time for every vehicle.

    Vehicles of like lengths share a group, so that little is padded.
    """
    order = torch.argsort(lengths, descending=True, stable=True)
    order = order[lengths[order] > 0]
    most = max(1, rows_at_once // LEAST_STEPS)
    for group in order.split(most):
        first = 0
        while len(group := group[lengths[group] > first]) > 0:
            steps = min(int(lengths[group[0]]) - first, max(1, rows_at_once // len(group)))
            # The shortest third of a piece would be padding: cut where the vehicle in the middle ends.
            middle = int(lengths[group[len(group) // 2]]) - first
            steps = min(steps, middle) if 3 * middle < 2 * steps else steps
            yield group, first, steps
            first += steps


def carry(
    config: MambaConfig,
    weights: NetworkWeights,
    features: Tensor,
    ratio: Tensor,
    lengths: Tensor,
    state: RecurrentState,
) -> tuple[Tensor, RecurrentState]:
    """The residual stream (batch, length, d_model) before the heads, and the states after `lengths` (batch,) samples."""
    x = F.linear(features, weights.embedding, weights.embedding_bias)
    conv, ssm = [], []
    for layer, block in enumerate(weights.mamba1_blocks()):
        y, conv_state, ssm_state = carry_block(
            config, block, rms_norm(x, block.norm, config.norm_eps), ratio, lengths, state.conv[:, layer],
            state.ssm[:, layer], DEFAULT_TILING,
        )  # fmt: skip
        x = x + y
        conv.append(conv_state)
        ssm.append(ssm_state)
    return x, RecurrentState(torch.stack(conv, dim=1), torch.stack(ssm, dim=1))


def carry_block(
    config: MambaConfig,
    block: BlockWeights,
    x: Tensor,
    ratio: Tensor,
    lengths: Tensor,
    conv_state: Tensor,
    ssm_state: Tensor,
    tiling: ScanTiling,
) -> tuple[Tensor, Tensor, Tensor]:
    """`kernels.mamba1.block_scan` from a state, in fp32, each vehicle over its own length."""
    xz = F.linear(x, block.in_proj)
    own, z = xz.chunk(2, dim=-1)
    u = conv_forward(own, block.conv1d.squeeze(1), block.conv1d_bias, conv_state)
    projected = F.linear(u, block.x_proj)
    dt_low_rank, B, C = projected.split((config.dt_rank, config.d_state, config.d_state), dim=-1)
    dt_raw = F.linear(dt_low_rank, block.dt_proj)
    result = scan_forward(
        Operands(
            u, dt_raw, z, B, C, block.dt_proj_bias, ratio, -torch.exp(block.A_log), block.D, ssm_state,
            config.max_hold_ratio, tiling,
        ),
        for_backward=False,
    )  # fmt: skip
    return F.linear(result.out, block.out_proj), window_after(own, conv_state, lengths), result.last


def window_after(own: Tensor, conv_state: Tensor, lengths: Tensor) -> Tensor:
    """The last d_conv - 1 inputs (batch, d_inner, d_conv - 1) of each vehicle, of own (batch, length, d_inner)."""
    history = conv_state.shape[-1]
    at = lengths.unsqueeze(1) + torch.arange(history, device=own.device) - history  # (batch, history), may be negative
    which = at.unsqueeze(1).expand(-1, own.shape[-1], -1)
    new = own.transpose(1, 2).gather(2, which.clamp(min=0))
    # `own` may be padded beyond a vehicle's end, but never read there: at < lengths.
    old = conv_state.gather(2, (which + history).clamp(max=history - 1)) if history else conv_state
    return torch.where(which >= 0, new, old)
