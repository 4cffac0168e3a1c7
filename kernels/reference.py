"""The network in plain torch, as one step and as a scan: the only copy of the maths in Python.

Works in the dtype of the weights (float64 for checks, float32 to serve). The recurrent state is never modified in
place; every function returns the new one. What it does not know: slots, vehicles, calibration.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.config import MambaConfig
from kernels.scan import SelectiveScan, selective_scan_ref, selective_step
from kernels.weights import BlockWeights, NetworkWeights

# Of the forecast's log scale: 1/270 of a standard deviation is finer than most sensors' steps, and a finer scale
# would let the next surprise outweigh everything else in training; 20 is wider than any z-score.
LOG_SCALE_BOUNDS = (-5.6, 3.0)


@dataclass(frozen=True, slots=True)
class RecurrentState:
    """The whole past of a batch of vehicles."""

    conv: Tensor  # (batch, n_layer, d_inner, d_conv - 1)
    ssm: Tensor  # (batch, n_layer, d_inner, d_state)

    @staticmethod
    def zeros(config: MambaConfig, batch: int, *, like: Tensor) -> "RecurrentState":
        """The state before the first sample, in the dtype and on the device of `like`."""
        return RecurrentState(
            conv=like.new_zeros(batch, *config.conv_state_shape),
            ssm=like.new_zeros(batch, *config.ssm_state_shape),
        )


@dataclass(frozen=True, slots=True)
class NetworkOutput:
    """What the heads say; leading dimensions are (batch,) for a step and (batch, length) for a scan."""

    risk_logit: Tensor  # (...,), before calibration
    forecast_mean: Tensor  # (..., n_channels), z-scores of the next sample
    forecast_log_scale: Tensor  # (..., n_channels), log of the Laplace scale


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last dimension (Zhang & Sennrich 2019)."""
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight


def step_sizes(block: BlockWeights, dt_low_rank: Tensor, ratio: Tensor, max_hold_ratio: float) -> tuple[Tensor, Tensor]:
    """Step sizes of the decay and of the input.

    Args:
        block: the block's weights.
        dt_low_rank: (..., dt_rank).
        ratio: (...,) elapsed time over the nominal interval.
        max_hold_ratio: the most nominal intervals that one sample stands for.

    Returns:
        dt and dt_in, each (..., d_inner). Equal up to `max_hold_ratio`; beyond it the input's stays put (ADR 1).
    """
    dt = F.softplus(F.linear(dt_low_rank, block.dt_proj) + block.dt_proj_bias)
    return dt * ratio.unsqueeze(-1), dt * ratio.clamp(max=max_hold_ratio).unsqueeze(-1)


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
    window = torch.cat((conv_state, u.unsqueeze(-1)), dim=-1)
    u = F.silu((window * block.conv1d.squeeze(1)).sum(dim=-1) + block.conv1d_bias)
    dt_low_rank, B, C = F.linear(u, block.x_proj).split((config.dt_rank, config.d_state, config.d_state), dim=-1)
    dt, dt_in = step_sizes(block, dt_low_rank, ratio, config.max_hold_ratio)
    ssm_state, y = selective_step(ssm_state, u, dt, dt_in, -torch.exp(block.A_log), B, C)
    y = (y + block.D * u) * F.silu(z)
    return F.linear(y, block.out_proj), window[..., 1:], ssm_state


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
    if conv_state is None:
        conv_state = u.new_zeros(u.shape[0], config.d_inner, config.d_conv - 1)
    length = u.shape[1]
    window = torch.cat((conv_state.transpose(1, 2), u), dim=1)  # (batch, d_conv - 1 + length, d_inner)
    # A sum of shifted products: the gradient of torch's depthwise convolution takes most of a training step on a CPU.
    taps = block.conv1d.squeeze(1).unbind(1)
    u = F.silu(block.conv1d_bias + sum(window[:, k : k + length] * tap for k, tap in enumerate(taps)))
    dt_low_rank, B, C = F.linear(u, block.x_proj).split((config.dt_rank, config.d_state, config.d_state), dim=-1)
    dt, dt_in = step_sizes(block, dt_low_rank, ratio, config.max_hold_ratio)
    y, ssm_state = scan(u, dt, dt_in, -torch.exp(block.A_log), B, C, ssm_state)
    y = (y + block.D * u) * F.silu(z)
    return F.linear(y, block.out_proj), window[:, length:].transpose(1, 2), ssm_state


def heads(config: MambaConfig, weights: NetworkWeights, x: Tensor, features: Tensor) -> NetworkOutput:
    """Final norm and the two heads on x (..., d_model).

    The forecast head says by how much the next sample will differ from this one's held z-scores, the first n_channels
    of `features` (..., d_input): persistence is where it starts from.
    """
    x = rms_norm(x, weights.norm_f, config.norm_eps)
    mean, log_scale = F.linear(x, weights.forecast_head, weights.forecast_head_bias).chunk(2, dim=-1)
    return NetworkOutput(
        risk_logit=F.linear(x, weights.risk_head, weights.risk_head_bias).squeeze(-1),
        forecast_mean=features[..., : config.n_channels] + mean,
        forecast_log_scale=log_scale.clamp(*LOG_SCALE_BOUNDS),
    )


def network_step(
    config: MambaConfig, weights: NetworkWeights, features: Tensor, ratio: Tensor, state: RecurrentState
) -> tuple[NetworkOutput, RecurrentState]:
    """Advance every vehicle of a batch by one sample.

    Args:
        config: sizes.
        weights: all tensors of one dtype and device.
        features: (batch, d_input) preprocessed samples.
        ratio: (batch,) elapsed time over the nominal interval, positive.
        state: the batch's recurrent state; not modified.
    """
    x = F.linear(features, weights.embedding, weights.embedding_bias)
    conv, ssm = [], []
    for layer, block in enumerate(weights.blocks):
        y, conv_state, ssm_state = block_step(
            config,
            block,
            rms_norm(x, block.norm, config.norm_eps),
            ratio,
            state.conv[:, layer],
            state.ssm[:, layer],
        )
        x = x + y
        conv.append(conv_state)
        ssm.append(ssm_state)
    return heads(config, weights, x, features), RecurrentState(torch.stack(conv, dim=1), torch.stack(ssm, dim=1))


def network_scan(
    config: MambaConfig,
    weights: NetworkWeights,
    features: Tensor,
    ratio: Tensor,
    state: RecurrentState | None = None,
    scan: SelectiveScan = selective_scan_ref,
) -> tuple[NetworkOutput, RecurrentState]:
    """Carry every vehicle of a batch over a whole sequence.

    Args:
        config: sizes.
        weights: all tensors of one dtype and device.
        features: (batch, length, d_input), length at least 1.
        ratio: (batch, length).
        state: the initial state, or None for zero; not modified.
        scan: which form of the selective scan to use.

    Returns:
        Outputs at every step, and the last state: equal to `network_step` applied sample by sample.
    """
    x, last = residual_scan(config, weights, features, ratio, state, scan)
    return heads(config, weights, x, features), last


def residual_scan(
    config: MambaConfig,
    weights: NetworkWeights,
    features: Tensor,
    ratio: Tensor,
    state: RecurrentState | None,
    scan: SelectiveScan,
) -> tuple[Tensor, RecurrentState]:
    """`network_scan` up to the heads: the residual stream (batch, length, d_model) that they read, and the last state."""
    x = F.linear(features, weights.embedding, weights.embedding_bias)
    conv, ssm = [], []
    for layer, block in enumerate(weights.blocks):
        y, conv_state, ssm_state = block_scan(
            config,
            block,
            rms_norm(x, block.norm, config.norm_eps),
            ratio,
            None if state is None else state.conv[:, layer],
            None if state is None else state.ssm[:, layer],
            scan,
        )
        x = x + y
        conv.append(conv_state)
        ssm.append(ssm_state)
    return x, RecurrentState(torch.stack(conv, dim=1), torch.stack(ssm, dim=1))
