"""One Mamba-1 block in plain torch, as a step and as a scan. Source: Gu & Dao 2023 and `mamba_ssm.Mamba`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.config import MambaConfig
from kernels.layers import conv_scan, conv_step, step_sizes
from kernels.scan import SelectiveScan, selective_step
from kernels.weights import BlockWeights


def block_step(
    config: MambaConfig, block: BlockWeights, x: Tensor, ratio: Tensor, conv_state: Tensor, ssm_state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One Mamba-1 block (without norm and residual), one sample.

    Args:
        config: sizes.
        block: weights.
        x: (batch, d_model).
        ratio: (batch,) elapsed time over the nominal interval.
        conv_state: (batch, d_inner, d_conv - 1).
        ssm_state: (batch, d_inner, d_state).

    Returns:
        Output (batch, d_model), new conv_state, new ssm_state. Source: `mamba_ssm.Mamba.step`.
    """
    u, z = F.linear(x, block.in_proj).chunk(2, dim=-1)
    u, conv_state = conv_step(u, block.conv1d, block.conv1d_bias, conv_state)
    u = F.silu(u)
    dt_low_rank, B, C = F.linear(u, block.x_proj).split((config.dt_rank, config.d_state, config.d_state), dim=-1)
    dt_raw = F.linear(dt_low_rank, block.dt_proj) + block.dt_proj_bias
    dt, dt_in = step_sizes(dt_raw, ratio, config.max_hold_ratio)
    ssm_state, y = selective_step(ssm_state, u, dt, dt_in, -torch.exp(block.A_log), B, C)
    y = (y + block.D * u) * F.silu(z)
    return F.linear(y, block.out_proj), conv_state, ssm_state


def block_scan(
    config: MambaConfig,
    block: BlockWeights,
    x: Tensor,
    ratio: Tensor,
    conv_state: Tensor | None,
    ssm_state: Tensor | None,
    scan: SelectiveScan,
) -> tuple[Tensor, Tensor, Tensor]:
    """One Mamba-1 block over a sequence; the arguments of `block_step` with a length after the batch.

    Args:
        config: sizes.
        block: weights.
        x: (batch, length, d_model), length at least 1.
        ratio: (batch, length).
        conv_state: (batch, d_inner, d_conv - 1), or None for zero.
        ssm_state: (batch, d_inner, d_state), or None for zero.
        scan: which form of the selective scan to use.

    Returns:
        Output (batch, length, d_model), last conv_state, last ssm_state.
    """
    u, z = F.linear(x, block.in_proj).chunk(2, dim=-1)
    u, conv_state = conv_scan(u, block.conv1d, block.conv1d_bias, conv_state)
    u = F.silu(u)
    dt_low_rank, B, C = F.linear(u, block.x_proj).split((config.dt_rank, config.d_state, config.d_state), dim=-1)
    dt_raw = F.linear(dt_low_rank, block.dt_proj) + block.dt_proj_bias
    dt, dt_in = step_sizes(dt_raw, ratio, config.max_hold_ratio)
    y, ssm_state = scan(u, dt, dt_in, -torch.exp(block.A_log), B, C, ssm_state)
    y = (y + block.D * u) * F.silu(z)
    return F.linear(y, block.out_proj), conv_state, ssm_state
