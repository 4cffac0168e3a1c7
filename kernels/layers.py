"""What both kinds of block are made of besides their recurrence."""

import torch
import torch.nn.functional as F
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm over the last dimension (Zhang & Sennrich 2019)."""
    return x * torch.rsqrt(x.square().mean(dim=-1, keepdim=True) + eps) * weight


def step_sizes(dt_raw: Tensor, ratio: Tensor, max_hold_ratio: float) -> tuple[Tensor, Tensor]:
    """Step sizes of the decay and of the input.

    Args:
        dt_raw: (..., d_inner) or (..., n_heads), bias included.
        ratio: (...,) elapsed time over the nominal interval.
        max_hold_ratio: the most nominal intervals that one sample stands for.

    Returns:
        dt and dt_in, each as dt_raw. Equal up to `max_hold_ratio`; beyond it the input's stays put (ADR 1).
    """
    dt = F.softplus(dt_raw)
    return dt * ratio.unsqueeze(-1), dt * ratio.clamp(max=max_hold_ratio).unsqueeze(-1)


def conv_step(x: Tensor, conv1d: Tensor, bias: Tensor, conv_state: Tensor) -> tuple[Tensor, Tensor]:
    """Causal depthwise convolution of one sample.

    Args:
        x: (batch, channels).
        conv1d: (channels, 1, d_conv).
        bias: (channels,).
        conv_state: (batch, channels, d_conv - 1) the samples before, oldest first.

    Returns:
        Output (batch, channels) without activation, and the new conv_state.
    """
    window = torch.cat((conv_state, x.unsqueeze(-1)), dim=-1)
    return (window * conv1d.squeeze(1)).sum(dim=-1) + bias, window[..., 1:]


def conv_scan(x: Tensor, conv1d: Tensor, bias: Tensor, conv_state: Tensor | None) -> tuple[Tensor, Tensor]:
    """`conv_step` over x (batch, length, channels), length at least 1, from conv_state or (None) from zeros."""
    if conv_state is None:
        conv_state = x.new_zeros(x.shape[0], x.shape[2], conv1d.shape[-1] - 1)
    length = x.shape[1]
    window = torch.cat((conv_state.transpose(1, 2), x), dim=1)  # (batch, d_conv - 1 + length, channels)
    # A sum of shifted products: the gradient of torch's depthwise convolution takes most of a training step on a CPU.
    taps = conv1d.squeeze(1).unbind(1)
    out = bias + sum(window[:, k : k + length] * tap for k, tap in enumerate(taps))
    return out, window[:, length:].transpose(1, 2)
