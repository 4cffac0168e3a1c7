"""The selective scan, from any initial state: the sequential truth and a parallel form of the same sums.

    h_t = exp(dt_t * A) * h_{t-1} + (dt_in_t * u_t) outer B_t          y_t = h_t . C_t

`dt_t` is the step size that decays the state, `dt_in_t` the one that weighs the input; in plain Mamba they are equal
(Gu & Dao 2023, algorithm 2), here they part when a gap is long (ADR 1).
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

SelectiveScan: TypeAlias = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None],
    tuple[Tensor, Tensor],
]


def selective_scan_ref(
    u: Tensor, dt: Tensor, dt_in: Tensor, A: Tensor, B: Tensor, C: Tensor, ssm_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scan a sequence one step after another: the definition, and the truth for every other form.

    Args:
        u: (batch, length, d_inner) inputs.
        dt: (batch, length, d_inner) step sizes of the decay, after softplus and elapsed time.
        dt_in: (batch, length, d_inner) step sizes of the input.
        A: (d_inner, d_state), negative.
        B: (batch, length, d_state).
        C: (batch, length, d_state).
        ssm_state: (batch, d_inner, d_state) initial state, or None for zero; not modified.

    Returns:
        y (batch, length, d_inner) without the skip `D * u`, and the last state (batch, d_inner, d_state).
    """
    state = u.new_zeros(u.shape[0], *A.shape) if ssm_state is None else ssm_state
    outputs = []
    for t in range(u.shape[1]):
        state, y = selective_step(state, u[:, t], dt[:, t], dt_in[:, t], A, B[:, t], C[:, t])
        outputs.append(y)
    return torch.stack(outputs, dim=1) if outputs else torch.zeros_like(u), state


def selective_step(
    ssm_state: Tensor, u: Tensor, dt: Tensor, dt_in: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor]:
    """Advance the selective state by one sample.

    Args are those of `selective_scan_ref` without the length dimension; `ssm_state` is not modified.

    Returns:
        The new state (batch, d_inner, d_state) and y (batch, d_inner).
    """
    state = torch.exp(dt.unsqueeze(-1) * A) * ssm_state + (dt_in * u).unsqueeze(-1) * B.unsqueeze(1)
    return state, torch.einsum("bdn,bn->bd", state, C)


def selective_scan_chunked(
    u: Tensor,
    dt: Tensor,
    dt_in: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    ssm_state: Tensor | None,
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """Scan by doubling inside chunks (Hillis & Steele 1986), sequentially from chunk to chunk.

    Same arguments and results as `selective_scan_ref`. No quotient of decays is ever formed, so that a state that has
    died out (decay 0) stays exact. Working memory is batch * chunk * d_inner * d_state values, twice.
    """
    state = u.new_zeros(u.shape[0], *A.shape) if ssm_state is None else ssm_state
    outputs = []
    for start in range(0, u.shape[1], chunk):
        part = slice(start, start + chunk)
        decay = torch.exp(dt[:, part].unsqueeze(-1) * A)
        state_sum = (dt_in[:, part] * u[:, part]).unsqueeze(-1) * B[:, part].unsqueeze(2)
        width = 1
        while width < decay.shape[1]:
            # After this round, entry t holds the composition of the steps (t - 2 * width, t].
            state_sum = torch.cat(
                (state_sum[:, :width], state_sum[:, width:] + decay[:, width:] * state_sum[:, :-width]), dim=1
            )
            decay = torch.cat((decay[:, :width], decay[:, width:] * decay[:, :-width]), dim=1)
            width *= 2
        states = state_sum + decay * state.unsqueeze(1)
        outputs.append(torch.einsum("bldn,bln->bld", states, C[:, part]))
        state = states[:, -1]
    return torch.cat(outputs, dim=1) if outputs else torch.zeros_like(u), state


def selective_scan_mamba_ssm(
    u: Tensor, dt: Tensor, dt_in: Tensor, A: Tensor, B: Tensor, C: Tensor, ssm_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scan with mamba-ssm's CUDA kernel, which differentiates, starts from zero and keeps the state in fp32.

    Same arguments and results as `selective_scan_ref`. The two step sizes are carried by scaling the input, since
    `dt * (u * dt_in / dt) = dt_in * u`.

    Raises:
        ValueError: an initial state was given; the kernel cannot start from one.
    """
    if ssm_state is not None:
        raise ValueError("mamba-ssm's scan starts from zero; use selective_scan_chunked to start from a state")
    # Imported here because importing it without a CUDA device fails.
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # noqa: PLC0415

    scaled = u * (dt_in / dt)
    y, last = selective_scan_fn(
        scaled.transpose(1, 2).contiguous(),
        dt.transpose(1, 2).contiguous(),
        A.float(),
        B.transpose(1, 2).contiguous(),
        C.transpose(1, 2).contiguous(),
        return_last_state=True,
    )
    return y.transpose(1, 2), last
