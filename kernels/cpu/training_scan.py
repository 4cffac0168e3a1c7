"""The selective scan in C++ for training on the processor, with gradients; takes the place of the chunked scan in torch."""

import contextlib
import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.cpu.backend import ISA_VARIABLE, instruction_sets

with contextlib.suppress(ImportError):  # `kernels.cpu.missing_for_cpu` says so
    from kernels.cpu import _step

D_STATES = (16, 32, 64, 128)
TILE = 32  # kTrainingTile in layout.hpp
LOG2_E = 1.4426950408889634


def selective_scan_cpu(
    u: Tensor, dt: Tensor, dt_in: Tensor, A: Tensor, B: Tensor, C: Tensor, ssm_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """`kernels.scan.selective_scan_ref` in fp32 with gradients of every operand, on torch's number of threads.

    Keeps 4 * d_inner * d_state / 32 bytes per sample for the backward pass.

    Raises:
        ValueError: d_state is above 128.
    """
    d_state = A.shape[-1]
    padded = next((size for size in D_STATES if size >= d_state), None)
    if padded is None:
        raise ValueError(f"d_state must be at most {D_STATES[-1]}, got {d_state}")
    if ssm_state is None:
        ssm_state = u.new_zeros(u.shape[0], *A.shape)
    if u.shape[1] == 0:
        return torch.zeros_like(u), ssm_state
    A, B, C, ssm_state = (F.pad(tensor, (0, padded - d_state)) for tensor in (A, B, C, ssm_state))
    y, last = _Scan.apply(u, dt, dt_in, A, B, C, ssm_state)  # type: ignore[no-untyped-call]
    return y, last[..., :d_state]


def _run(function: Any, u: Tensor, d_state: int, segments: int, tensors: list[Tensor]) -> None:
    isa = os.environ.get(ISA_VARIABLE) or instruction_sets()[0]
    batch, length, channels = u.shape
    places = [tensor.data_ptr() for tensor in tensors]
    function((batch, length, channels, d_state, segments), places, isa, torch.get_num_threads())


def _segments(batch: int, channels: int) -> int:
    """Into how many parts a sequence's channels go: two tasks per thread, so that none waits long for another."""
    return max(1, min(channels // 16, -(-2 * torch.get_num_threads() // batch)))


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, dt: Tensor, dt_in: Tensor, A: Tensor, B: Tensor, C: Tensor, ssm_state: Tensor
    ) -> tuple[Tensor, Tensor]:
        u, dt, dt_in, B, C = (tensor.detach().float().contiguous() for tensor in (u, dt, dt_in, B, C))
        A = (A.detach().float() * LOG2_E).contiguous()
        last = ssm_state.detach().float().clone(memory_format=torch.contiguous_format)
        batch, length, channels = u.shape
        y, d_state = torch.empty_like(u), A.shape[-1]
        checkpoints = u.new_empty(batch, -(-length // TILE), channels, d_state)
        segments = _segments(batch, channels)
        _run(_step.scan_forward, u, d_state, segments, [u, dt, dt_in, A, B, C, last, y, checkpoints])
        ctx.save_for_backward(u, dt, dt_in, A, B, C, checkpoints)
        return y, last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_y: Tensor, d_last: Tensor) -> tuple[Tensor, ...]:
        u, dt, dt_in, A, B, C, checkpoints = ctx.saved_tensors
        batch, length, channels = u.shape
        d_state, segments = A.shape[-1], _segments(batch, channels)
        d_y = d_y.float().contiguous()
        d_u, d_dt, d_dt_in = (torch.empty_like(u) for _ in range(3))
        d_B, d_C = (u.new_zeros(segments, batch, length, d_state) for _ in range(2))
        d_A = u.new_zeros(batch, channels, d_state)
        d_initial = d_last.float().clone(memory_format=torch.contiguous_format)
        operands = [u, dt, dt_in, A, B, C, checkpoints, d_y, d_u, d_dt, d_dt_in, d_B, d_C, d_A, d_initial]
        _run(_step.scan_backward, u, d_state, segments, operands)
        return d_u, d_dt, d_dt_in, d_A.sum(dim=0), d_B.sum(dim=0), d_C.sum(dim=0), d_initial
