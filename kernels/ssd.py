"""The scan of Mamba-2, from any initial state: the sequential truth, one step, and a form made of matrix products.

    h_t = exp(dt_t * A) * h_{t-1} + (dt_in_t * u_t) outer B_t          y_t = h_t . C_t

One decay per head, so that the sums inside a chunk are products of matrices (structured state-space duality, Dao & Gu
2024, arXiv:2405.21060, section 6). `dt` and `dt_in` part when a gap is long (ADR 1).
"""

from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

SsdScan: TypeAlias = Callable[
    [Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None],
    tuple[Tensor, Tensor],
]


def ssd_scan_ref(
    u: Tensor, dt: Tensor, dt_in: Tensor, A: Tensor, B: Tensor, C: Tensor, ssm_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scan a sequence one step after another: the definition, and the truth for every other form.

    Args:
        u: (batch, length, n_heads, head_dim) inputs.
        dt: (batch, length, n_heads) step sizes of the decay, after softplus and elapsed time.
        dt_in: (batch, length, n_heads) step sizes of the input.
        A: (n_heads,), negative.
        B: (batch, length, n_groups, d_state); n_groups divides n_heads, neighbouring heads share a group.
        C: (batch, length, n_groups, d_state).
        ssm_state: (batch, n_heads, head_dim, d_state) initial state, or None for zero; not modified.

    Returns:
        y (batch, length, n_heads, head_dim) without the skip `D * u`, and the last state.
    """
    state = _zero_state(u, B) if ssm_state is None else ssm_state
    outputs = []
    for t in range(u.shape[1]):
        state, y = ssd_step(state, u[:, t], dt[:, t], dt_in[:, t], A, B[:, t], C[:, t])
        outputs.append(y)
    return torch.stack(outputs, dim=1) if outputs else torch.zeros_like(u), state


def ssd_step(
    ssm_state: Tensor, u: Tensor, dt: Tensor, dt_in: Tensor, A: Tensor, B: Tensor, C: Tensor
) -> tuple[Tensor, Tensor]:
    """Advance the state by one sample.

    Args are those of `ssd_scan_ref` without the length dimension; `ssm_state` is not modified.

    Returns:
        The new state (batch, n_heads, head_dim, d_state) and y (batch, n_heads, head_dim).
    """
    per_group = u.shape[1] // B.shape[1]
    B, C = (x.repeat_interleave(per_group, dim=1) for x in (B, C))
    state = torch.exp(dt * A)[..., None, None] * ssm_state + (dt_in.unsqueeze(-1) * u).unsqueeze(-1) * B.unsqueeze(2)
    return state, torch.einsum("bhpn,bhn->bhp", state, C)


def ssd_scan_chunked(
    u: Tensor,
    dt: Tensor,
    dt_in: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    ssm_state: Tensor | None,
    chunk: int = 64,
) -> tuple[Tensor, Tensor]:
    """Scan by matrix products inside chunks, sequentially from chunk to chunk. Differentiable.

    Same arguments and results as `ssd_scan_ref`. Exponents are differences of sums kept in float64, so that what comes
    after a gap that erases the state is as exact as before it. Working memory is batch * length * n_heads * chunk
    values, a few times.
    """
    with torch.autocast(u.device.type, enabled=False):  # the state is never carried in half precision
        return _chunked(u, dt, dt_in, A, B, C, ssm_state, chunk)


def _chunked(
    u: Tensor, dt: Tensor, dt_in: Tensor, A: Tensor, B: Tensor, C: Tensor, ssm_state: Tensor | None, chunk: int
) -> tuple[Tensor, Tensor]:
    state = _zero_state(u, B) if ssm_state is None else ssm_state
    batch, length, n_heads, head_dim = u.shape
    if length == 0:
        return torch.zeros_like(u), state
    n_groups = B.shape[2]
    chunk = min(chunk, length)
    # A padded step has dt 0: its decay is 1 and its input has no weight, so the state stays what it is.
    u, dt, dt_in, B, C = (_in_chunks(x, chunk) for x in (u, dt, dt_in, B, C))
    # Letters below: b batch, c chunk, t and s samples in it, g group, r head in the group, p head_dim, n d_state.
    grouped = (n_groups, n_heads // n_groups)
    weighted = (u * dt_in.unsqueeze(-1)).unflatten(3, grouped)
    total = (dt.double() * A.double()).cumsum(dim=2).unflatten(3, grouped).permute(0, 1, 3, 4, 2)  # (b, c, g, r, t)
    ahead = torch.ones(chunk, chunk, dtype=torch.bool, device=u.device).triu(1)
    exponent = (total.unsqueeze(-1) - total.unsqueeze(-2)).masked_fill(ahead, -torch.inf)
    within = torch.exp(exponent.to(u.dtype))  # (b, c, g, r, t, s), zero where s > t
    scores = torch.einsum("bctgn,bcsgn->bcgts", C, B)
    y = torch.einsum("bcgrts,bcsgrp->bctgrp", scores.unsqueeze(3) * within, weighted)

    to_end = torch.exp((total[..., -1:] - total).to(u.dtype))  # (b, c, g, r, s)
    added = torch.einsum("bcgrs,bcsgrp,bcsgn->bcgrpn", to_end, weighted, B)
    kept = torch.exp(total[..., -1].to(u.dtype))[..., None, None]
    running = state.unflatten(1, grouped)
    before = []
    for c in range(u.shape[1]):
        before.append(running)
        running = kept[:, c] * running + added[:, c]
    since_start = torch.exp(total.to(u.dtype))
    y = y + torch.einsum("bctgn,bcgrpn,bcgrt->bctgrp", C, torch.stack(before, dim=1), since_start)
    return y.reshape(batch, -1, n_heads, head_dim)[:, :length], running.flatten(1, 2)


def _zero_state(u: Tensor, B: Tensor) -> Tensor:
    return u.new_zeros(u.shape[0], *u.shape[2:], B.shape[-1])


def _in_chunks(x: Tensor, chunk: int) -> Tensor:
    """(batch, length, ...) as (batch, chunks, chunk, ...), zeros appended."""
    padded = F.pad(x, (0,) * (2 * (x.dim() - 2)) + (0, -x.shape[1] % chunk))
    return padded.reshape(x.shape[0], -1, chunk, *x.shape[2:])
