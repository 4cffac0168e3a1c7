"""Causal depthwise convolution with bias and SiLU on CUDA, channel-last, with gradients."""

import ctypes
from typing import Any

import torch
from torch import Tensor

from kernels.cuda import launch as launcher
from kernels.cuda.launch import Launch, pointer

THREADS = 128
SEGMENT = 32  # steps of one thread


class ConvParams(ctypes.Structure):
    """`ConvParams` of causal_conv1d.cu."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "d_y", "weight", "bias", "initial", "y", "d_x", "partial")),
        *((name, ctypes.c_int64) for name in ("x_batch", "x_row", "d_x_batch", "d_x_row", "length")),
        *((name, ctypes.c_int32) for name in ("batch", "channels", "segments", "padding")),
    )


def causal_conv1d(x: Tensor, weight: Tensor, bias: Tensor, conv_state: Tensor | None = None) -> Tensor:
    """silu(bias + sum_k weight[:, k] * x[:, t - (d_conv - 1) + k]).

    Args:
        x: (batch, length, d_inner) fp32 or bf16, last dimension dense.
        weight: (d_inner, d_conv).
        bias: (d_inner,).
        conv_state: (batch, d_inner, d_conv - 1) the inputs before the first, oldest first, or None for zero.

    Returns:
        (batch, length, d_inner), contiguous, in the dtype of `x`.

    Raises:
        ValueError: `x` is neither fp32 nor bf16, or a gradient of `conv_state` is asked for.
    """
    y: Tensor = _CausalConv1d.apply(x, weight, bias, conv_state)  # type: ignore[no-untyped-call]
    return y


class _CausalConv1d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, conv_state: Tensor | None) -> Tensor:
        if ctx.needs_input_grad[3]:
            raise ValueError("the convolution has no gradient for its initial state")
        ctx.save_for_backward(x, weight, bias, conv_state)
        return conv_forward(x, weight, bias, conv_state)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_y: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, conv_state = ctx.saved_tensors
        d_x = torch.empty_like(x, memory_format=torch.contiguous_format)
        d_weight, d_bias = conv_backward(x, weight, bias, conv_state, d_y, d_x)
        return d_x, d_weight.to(weight.dtype), d_bias.to(bias.dtype), None


def conv_forward(x: Tensor, weight: Tensor, bias: Tensor, conv_state: Tensor | None) -> Tensor:
    """`causal_conv1d` without autograd."""
    x = dense_last(x)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    run("conv_forward", x, weight, bias, conv_state, 16, y=y)
    return y


def conv_backward(
    x: Tensor, weight: Tensor, bias: Tensor, conv_state: Tensor | None, d_y: Tensor, d_x: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients: that of x is written to `d_x` (any strides, last dimension dense), weight's and bias's returned in fp32."""
    x, d_y = dense_last(x), d_y.to(x.dtype).contiguous()
    batch, length, channels = x.shape
    width = weight.shape[-1]
    partial = torch.empty(batch * segments_of(length), width + 1, channels, dtype=torch.float32, device=x.device)
    run("conv_backward", x, weight, bias, conv_state, 8, d_y=d_y, d_x=d_x, partial=partial)
    total = partial.sum(dim=0)
    return total[:width].t().contiguous(), total[width]


def last_inputs(x: Tensor, conv_state: Tensor | None, width: int) -> Tensor:
    """The conv_state after x (batch, length, channels) for `width` taps: (batch, channels, width - 1) fp32."""
    kept = width - 1
    window = x[:, max(0, x.shape[1] - kept) :].float().transpose(1, 2)
    if window.shape[-1] == kept:
        return window
    before = window.new_zeros(*window.shape[:2], kept) if conv_state is None else conv_state
    return torch.cat((before, window), dim=-1)[..., -kept:]


def segments_of(length: int) -> int:
    """How many threads share the steps of a sequence."""
    return -(-length // SEGMENT)


def run(
    kernel: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    conv_state: Tensor | None,
    pack_bytes: int,
    *,
    y: Tensor | None = None,
    d_y: Tensor | None = None,
    d_x: Tensor | None = None,
    partial: Tensor | None = None,
) -> None:
    """Check the operands and start the kernel."""
    if x.dtype not in {torch.float32, torch.bfloat16}:
        raise ValueError(f"x must be fp32 or bf16, got {x.dtype}")
    batch, length, channels = x.shape
    if weight.shape[0] != channels or bias.shape != (channels,):
        raise ValueError(f"x {tuple(x.shape)}, weight {tuple(weight.shape)} and bias {tuple(bias.shape)} do not fit")
    if x.numel() == 0:
        raise ValueError("the sequence is empty")
    width = weight.shape[-1]
    weight, bias = weight.detach().float().contiguous(), bias.detach().float().contiguous()
    if conv_state is not None:
        conv_state = conv_state.detach().float().contiguous()
        if conv_state.shape != (batch, channels, width - 1):
            raise ValueError(f"conv_state must be {(batch, channels, width - 1)}, got {tuple(conv_state.shape)}")
    params = ConvParams(
        x=pointer(x), d_y=pointer(d_y), weight=pointer(weight), bias=pointer(bias), initial=pointer(conv_state),
        y=pointer(y), d_x=pointer(d_x), partial=pointer(partial),
        x_batch=x.stride(0), x_row=x.stride(1), length=length, batch=batch, channels=channels,
        segments=segments_of(length),
    )  # fmt: skip
    if d_x is not None:
        params.d_x_batch, params.d_x_row = d_x.stride(0), d_x.stride(1)
    pack = common_pack([t for t in (x, y, d_y, d_x) if t is not None], channels, pack_bytes)
    items = channels // pack * segments_of(length) * batch
    defines = {
        "WIDTH": width, "PACK": pack, "SEGMENT": SEGMENT, "ELEMENT_BF16": int(x.dtype == torch.bfloat16),
        "PARAMS_BYTES": ctypes.sizeof(ConvParams),
    }  # fmt: skip
    launcher.launch(Launch("causal_conv1d.cu", kernel, defines, -(-items // THREADS), THREADS), params, x.device)


def common_pack(tensors: list[Tensor], channels: int, most_bytes: int) -> int:
    """The most neighbouring channels that can be moved at once in every one of (batch, length, channels) tensors."""
    pack = most_bytes // tensors[0].element_size()
    while pack > 1 and not (
        channels % pack == 0
        and all(
            t.data_ptr() % (pack * t.element_size()) == 0 and t.stride(0) % pack == 0 and t.stride(1) % pack == 0
            for t in tensors
        )
    ):
        pack //= 2
    return pack


def dense_last(tensor: Tensor) -> Tensor:
    """The tensor itself if its last dimension is dense, else a copy."""
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()
