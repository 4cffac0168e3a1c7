"""Mamba-2 blocks on CUDA: over sequences for training, bf16 products, and as one step in place in the pool, fp32.

Computes what `kernels.mamba2` computes. mamba-ssm's Triton kernels carry the recurrence and the gated norm of a sequence; its
convolution is ours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.config import MambaConfig
from kernels.cuda.causal_conv1d import causal_conv1d, last_inputs
from kernels.cuda.ssd import MOST_AT_ONCE, ssd_scan_mamba_ssm, ssd_step_in_place
from kernels.layers import rms_norm, step_sizes
from kernels.mamba2 import gated_out, operands_of, projected
from kernels.packed import join_outputs, split_outputs
from kernels.pool import StatePool
from kernels.reference import NetworkOutput, heads
from kernels.weights import Mamba2Weights, NetworkWeights


def block_scan_mamba2(
    config: MambaConfig,
    block: Mamba2Weights,
    x: Tensor,
    ratio: Tensor,
    conv_state: Tensor | None,
    ssm_state: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`kernels.mamba2.block_scan` in the dtype of x (batch, length, d_model); weights, step sizes and states are fp32.

    Raises:
        ValueError: a gradient of `conv_state` is asked for.
    """
    from mamba_ssm.ops.triton.layernorm_gated import rmsnorm_fn  # noqa: PLC0415  (importing it needs a CUDA device)

    z, xBC, dt_raw = projected(config, block.in_proj.to(x.dtype), x)
    u, B, C = operands_of(config, causal_conv1d(xBC, block.conv1d.squeeze(1), block.conv1d_bias, conv_state))
    dt, dt_in = step_sizes(dt_raw.float() + block.dt_bias, ratio, config.max_hold_ratio)
    initial = None if ssm_state is None else ssm_state.unflatten(1, (config.n_heads, config.head_dim))
    y, last = ssd_scan_mamba_ssm(u, dt, dt_in, -torch.exp(block.A_log), B, C, initial)
    y = rmsnorm_fn(
        (y + block.D.to(y.dtype).unsqueeze(-1) * u).flatten(-2), block.gated_norm, None, z=z, eps=config.norm_eps,
        group_size=config.d_inner // config.n_groups, norm_before_gate=False,
    )  # fmt: skip
    return F.linear(y, block.out_proj.to(x.dtype)), last_inputs(xBC, conv_state, config.d_conv), last.flatten(1, 2)


@torch.inference_mode()
def step_mamba2(
    config: MambaConfig, weights: NetworkWeights, pool: StatePool, slots: Tensor, features: Tensor, ratio: Tensor
) -> NetworkOutput:
    """`kernels.reference.network_step` of Mamba-2 blocks in fp32, in place in a pool on a CUDA device.

    Arguments are those of `kernels.backend.Backend.step`, on the device.
    """
    parts = [
        join_outputs(_step(config, weights, pool, *part))
        for part in zip(slots.split(MOST_AT_ONCE), features.split(MOST_AT_ONCE), ratio.split(MOST_AT_ONCE), strict=True)
    ]
    return split_outputs(config, parts[0] if len(parts) == 1 else torch.cat(parts))


def _step(
    config: MambaConfig, weights: NetworkWeights, pool: StatePool, slots: Tensor, features: Tensor, ratio: Tensor
) -> NetworkOutput:
    x = F.linear(features, weights.embedding, weights.embedding_bias)
    weight = ratio.clamp(max=config.max_hold_ratio) / ratio
    for layer, block in enumerate(weights.mamba2_blocks()):
        z, xBC, dt_raw = projected(config, block.in_proj, rms_norm(x, block.norm, config.norm_eps))
        history = pool.conv[:, layer]
        window = torch.cat((history[slots], xBC.unsqueeze(1)), dim=1)  # (batch, d_conv, conv_width)
        history[slots] = window[:, 1:]
        convolved = (window * block.conv1d.squeeze(1).t()).sum(dim=1) + block.conv1d_bias
        u, B, C = operands_of(config, F.silu(convolved))
        dt, _ = step_sizes(dt_raw + block.dt_bias, ratio, config.max_hold_ratio)
        states = pool.ssm[:, layer].unflatten(1, (config.n_heads, config.head_dim))
        y = ssd_step_in_place(states, slots, u, dt, weight, -torch.exp(block.A_log), B, C, block.D)
        x = x + gated_out(config, block, y, z)
    return heads(config, weights, x, features)
