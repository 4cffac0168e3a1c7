"""One Mamba-2 block in plain torch, as a step and as a scan. Source: Dao & Gu 2024 and `mamba_ssm.Mamba2`.

It differs from Mamba-1 in what it scans: one decay per head instead of one per channel and state index, step sizes and B
and C straight from the block's input, a convolution over B and C too, and a gated norm before the last projection. The
elapsed time enters as in Mamba-1 (ADR 1).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.config import MambaConfig
from kernels.layers import conv_scan, conv_step, rms_norm, step_sizes
from kernels.ssd import SsdScan, ssd_step
from kernels.weights import Mamba2Weights


def block_step(
    config: MambaConfig, block: Mamba2Weights, x: Tensor, ratio: Tensor, conv_state: Tensor, ssm_state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One Mamba-2 block (without norm and residual), one sample.

    Args:
        config: sizes.
        block: weights.
        x: (batch, d_model).
        ratio: (batch,) elapsed time over the nominal interval.
        conv_state: (batch, conv_width, d_conv - 1).
        ssm_state: (batch, d_inner, d_state), head after head.

    Returns:
        Output (batch, d_model), new conv_state, new ssm_state. Source: `mamba_ssm.Mamba2.step`.
    """
    z, xBC, dt_raw = projected(config, block.in_proj, x)
    xBC, conv_state = conv_step(xBC, block.conv1d, block.conv1d_bias, conv_state)
    u, B, C = operands_of(config, F.silu(xBC))
    dt, dt_in = step_sizes(dt_raw + block.dt_bias, ratio, config.max_hold_ratio)
    state, y = ssd_step(_by_head(config, ssm_state), u, dt, dt_in, -torch.exp(block.A_log), B, C)
    return gated_out(config, block, y + block.D.unsqueeze(-1) * u, z), conv_state, state.flatten(1, 2)


def block_scan(
    config: MambaConfig,
    block: Mamba2Weights,
    x: Tensor,
    ratio: Tensor,
    conv_state: Tensor | None,
    ssm_state: Tensor | None,
    scan: SsdScan,
) -> tuple[Tensor, Tensor, Tensor]:
    """One Mamba-2 block over a sequence; the arguments of `block_step` with a length after the batch.

    Args:
        config: sizes.
        block: weights.
        x: (batch, length, d_model), length at least 1.
        ratio: (batch, length).
        conv_state: (batch, conv_width, d_conv - 1), or None for zero.
        ssm_state: (batch, d_inner, d_state), or None for zero.
        scan: which form of the scan to use.

    Returns:
        Output (batch, length, d_model), last conv_state, last ssm_state.
    """
    z, xBC, dt_raw = projected(config, block.in_proj, x)
    xBC, conv_state = conv_scan(xBC, block.conv1d, block.conv1d_bias, conv_state)
    u, B, C = operands_of(config, F.silu(xBC))
    dt, dt_in = step_sizes(dt_raw + block.dt_bias, ratio, config.max_hold_ratio)
    initial = None if ssm_state is None else _by_head(config, ssm_state)
    y, last = scan(u, dt, dt_in, -torch.exp(block.A_log), B, C, initial)
    return gated_out(config, block, y + block.D.unsqueeze(-1) * u, z), conv_state, last.flatten(1, 2)


def projected(config: MambaConfig, in_proj: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gate z (..., d_inner), what is convolved (..., conv_width), step sizes before bias and softplus (..., n_heads)."""
    z, xBC, dt_raw = F.linear(x, in_proj).split((config.d_inner, config.conv_width, config.n_heads), dim=-1)
    return z, xBC, dt_raw


def operands_of(config: MambaConfig, xBC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of the convolution's output after SiLU: u (..., n_heads, head_dim), B and C (..., n_groups, d_state)."""
    widths = (config.d_inner, config.n_groups * config.d_state, config.n_groups * config.d_state)
    u, B, C = xBC.split(widths, dim=-1)
    groups = (config.n_groups, config.d_state)
    return u.unflatten(-1, (config.n_heads, config.head_dim)), B.unflatten(-1, groups), C.unflatten(-1, groups)


def _by_head(config: MambaConfig, ssm_state: Tensor) -> Tensor:
    return ssm_state.reshape(-1, config.n_heads, config.head_dim, config.d_state)


def gated_out(config: MambaConfig, block: Mamba2Weights, y: Tensor, z: Tensor) -> Tensor:
    """Gate y (..., n_heads, head_dim), then norm within each group (`RMSNormGated`), then project."""
    gated = (y.flatten(-2) * F.silu(z)).unflatten(-1, (config.n_groups, -1))
    weight = block.gated_norm.view(config.n_groups, -1)
    return F.linear(rms_norm(gated, weight, config.norm_eps).flatten(-2), block.out_proj)
