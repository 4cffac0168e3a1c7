"""The whole network over sequences on CUDA, for training: bf16 products, fp32 weights, residual stream and state.

Computes what `kernels.reference.network_scan` computes, with the fused scan and convolution, and differentiates.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.config import MambaConfig
from kernels.cuda.causal_conv1d import conv_backward, conv_forward, last_inputs
from kernels.cuda.mamba2 import block_scan_mamba2
from kernels.cuda.selective_scan import DEFAULT_TILING, Operands, ScanTiling, scan_backward, scan_forward
from kernels.reference import LOG_SCALE_BOUNDS, NetworkOutput, RecurrentState
from kernels.weights import Block, BlockWeights, NetworkWeights


def network_scan_cuda(
    config: MambaConfig,
    weights: NetworkWeights,
    features: Tensor,
    ratio: Tensor,
    state: RecurrentState | None = None,
    *,
    dtype: torch.dtype = torch.bfloat16,
    tiling: ScanTiling = DEFAULT_TILING,
) -> tuple[NetworkOutput, RecurrentState]:
    """Carry every vehicle of a batch over a whole sequence; the arguments of `network_scan`.

    Args:
        config: sizes; d_state of Mamba-1 is one of 16, 32, 64, 128.
        weights: fp32, on a CUDA device.
        features: (batch, length, d_input) fp32, length at least 1.
        ratio: (batch, length).
        state: the initial state, or None for zero; not modified. Its `conv` part has no gradient.
        dtype: of the blocks' products and activations, bf16 or fp32; the residual stream, the norms, the recurrent
            state and the heads are fp32 in either case.
        tiling: how the kernels of Mamba-1's scan are cut.

    Returns:
        Outputs at every step and the last state, fp32. Gradients reach every weight and `state.ssm`.

    Raises:
        ValueError: operands do not fit, or are not on a CUDA device, or a gradient of `ratio` (Mamba-1) or `state.conv` is asked.
    """
    with torch.autocast(features.device.type, enabled=False):
        x = F.linear(features, weights.embedding, weights.embedding_bias)
        conv, ssm = [], []
        for layer, block in enumerate(weights.blocks):
            y, conv_state, ssm_state = block_scan_cuda(
                config,
                block,
                F.rms_norm(x, (config.d_model,), block.norm, config.norm_eps).to(dtype),
                ratio,
                None if state is None else state.conv[:, layer],
                None if state is None else state.ssm[:, layer],
                tiling,
            )
            x = x + y
            conv.append(conv_state)
            ssm.append(ssm_state)
        return fused_heads(config, weights, x, features), RecurrentState(
            torch.stack(conv, dim=1), torch.stack(ssm, dim=1)
        )


def fused_heads(config: MambaConfig, weights: NetworkWeights, x: Tensor, features: Tensor) -> NetworkOutput:
    """`kernels.reference.heads` with torch's fused norm and both heads in one product."""
    x = F.rms_norm(x, (config.d_model,), weights.norm_f, config.norm_eps)
    weight = torch.cat((weights.risk_head, weights.forecast_head))
    bias = torch.cat((weights.risk_head_bias, weights.forecast_head_bias))
    risk, mean, log_scale = F.linear(x, weight, bias).split((1, config.n_channels, config.n_channels), dim=-1)
    mean = features[..., : config.n_channels] + mean
    return NetworkOutput(risk.squeeze(-1), mean, log_scale.clamp(*LOG_SCALE_BOUNDS))


def block_scan_cuda(
    config: MambaConfig,
    block: Block,
    x: Tensor,
    ratio: Tensor,
    conv_state: Tensor | None,
    ssm_state: Tensor | None,
    tiling: ScanTiling,
) -> tuple[Tensor, Tensor, Tensor]:
    """`kernels.reference.block_scan` in the dtype of x; states are fp32."""
    if not isinstance(block, BlockWeights):
        return block_scan_mamba2(config, block, x, ratio, conv_state, ssm_state)
    xz = F.linear(x, block.in_proj.to(x.dtype))
    y, last = _Mixer.apply(  # type: ignore[no-untyped-call]
        xz, ratio, block.conv1d.squeeze(1), block.conv1d_bias, block.x_proj, block.dt_proj, block.dt_proj_bias,
        block.A_log, block.D, conv_state, ssm_state, config.max_hold_ratio, tiling,
    )  # fmt: skip
    window = last_inputs(xz[..., : config.d_inner], conv_state, config.d_conv)
    return F.linear(y, block.out_proj.to(x.dtype)), window, last


class _Mixer(torch.autograd.Function):
    """Everything between in_proj and out_proj, with its gradients written where the products read them."""

    @staticmethod
    def forward(
        ctx: Any, xz: Tensor, ratio: Tensor, conv1d: Tensor, conv1d_bias: Tensor, x_proj: Tensor, dt_proj: Tensor,
        dt_proj_bias: Tensor, A_log: Tensor, D: Tensor, conv_state: Tensor | None, ssm_state: Tensor | None,
        max_hold_ratio: float, tiling: ScanTiling,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[9]:
            raise ValueError("there is no gradient for the elapsed time nor for the convolution's initial state")
        x, z = xz.chunk(2, dim=-1)
        u = conv_forward(x, conv1d, conv1d_bias, conv_state)
        projected = u @ x_proj.to(u.dtype).t()
        dt_low_rank, B, C = projected.split((dt_proj.shape[1], A_log.shape[1], A_log.shape[1]), dim=-1)
        dt_raw = dt_low_rank @ dt_proj.to(u.dtype).t()
        operands = Operands(
            u, dt_raw, z, B, C, dt_proj_bias, ratio, -torch.exp(A_log.float()), D, ssm_state, max_hold_ratio, tiling
        )
        result = scan_forward(operands, for_backward=any(ctx.needs_input_grad))
        ctx.save_for_backward(
            xz, ratio, conv1d, conv1d_bias, x_proj, dt_proj, dt_proj_bias, A_log, D, conv_state, ssm_state,
            u, projected, dt_raw, result.y, result.checkpoints,
        )  # fmt: skip
        ctx.max_hold_ratio, ctx.tiling = max_hold_ratio, tiling
        ctx.set_materialize_grads(False)
        return result.out, result.last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: Tensor | None, d_last: Tensor | None) -> tuple[Tensor | None, ...]:
        (
            xz, ratio, conv1d, conv1d_bias, x_proj, dt_proj, dt_proj_bias, A_log, D, conv_state, ssm_state,
            u, projected, dt_raw, y, checkpoints,
        ) = ctx.saved_tensors  # fmt: skip
        x, z = xz.chunk(2, dim=-1)
        rank, d_state, d_inner = dt_proj.shape[1], A_log.shape[1], u.shape[-1]
        dt_low_rank, B, C = projected.split((rank, d_state, d_state), dim=-1)
        A = -torch.exp(A_log.float())
        operands = Operands(u, dt_raw, z, B, C, dt_proj_bias, ratio, A, D, ssm_state, ctx.max_hold_ratio, ctx.tiling)
        d_out = torch.zeros_like(u) if d_out is None else d_out
        d_xz = torch.empty(xz.shape, dtype=xz.dtype, device=xz.device)
        g = scan_backward(operands, y, checkpoints, d_out, d_last, d_xz[..., d_inner:])

        d_dt_raw = g.d_dt_raw.view(-1, d_inner)
        d_projected = torch.empty(d_dt_raw.shape[0], projected.shape[-1], dtype=u.dtype, device=u.device)
        d_projected[:, :rank] = d_dt_raw @ dt_proj.to(u.dtype)
        d_projected[:, rank : rank + d_state] = g.d_B.view(-1, d_state)
        d_projected[:, rank + d_state :] = g.d_C.view(-1, d_state)
        d_dt_proj = d_dt_raw.t() @ dt_low_rank.reshape(-1, rank)
        d_x_proj = d_projected.t() @ u.view(-1, d_inner)
        d_u = torch.addmm(g.d_u.view(-1, d_inner), d_projected, x_proj.to(u.dtype)).view_as(u)
        d_conv1d, d_conv1d_bias = conv_backward(x, conv1d, conv1d_bias, conv_state, d_u, d_xz[..., :d_inner])
        return (
            d_xz, None, d_conv1d.to(conv1d.dtype), d_conv1d_bias.to(conv1d_bias.dtype), d_x_proj.to(x_proj.dtype),
            d_dt_proj.to(dt_proj.dtype), g.d_dt_bias.to(dt_proj_bias.dtype), (g.d_A * A).to(A_log.dtype),
            g.d_D.to(D.dtype), None, None if ssm_state is None else g.d_initial.to(ssm_state.dtype), None, None,
        )  # fmt: skip
