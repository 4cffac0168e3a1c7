"""Mamba-2's recurrence by mamba-ssm's Triton kernels: the scan of training, and the step in place in the pool.

Both know one step size; ours are two when a gap is long (ADR 1). The scan's second is carried by scaling its input, the
step's by scaling B. Bias, softplus and elapsed time are applied by us before, the skip `D * u` after.
"""

from importlib.util import find_spec

import torch
from torch import Tensor

CHUNK = 128  # steps of a chunk of the scan
# A decay of exp(-40) leaves nothing that fp32 could tell from zero. Without this bound a long gap would fill the kernel's
# running fp32 sums of dt * A, from whose differences it takes the decays of all later steps of the chunk.
MOST_DECAY = 40.0
MOST_AT_ONCE = 65_535  # samples of a step: a dimension of the kernel's grid


def missing_for_ssd() -> str | None:
    """What mamba-ssm's kernels lack here, in words; None when they can run."""
    if not torch.cuda.is_available():
        return f"no CUDA device (torch {torch.__version__} sees none)"
    if find_spec("mamba_ssm") is None:
        return "mamba-ssm is not installed: pip install 'emberwatch[peers]'"
    return None


def ssd_scan_mamba_ssm(
    u: Tensor, dt: Tensor, dt_in: Tensor, A: Tensor, B: Tensor, C: Tensor, ssm_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scan on CUDA, differentiable; arguments and results of `kernels.ssd.ssd_scan_ref`.

    u, B and C are bf16 or fp32 and of one dtype, as is the result; dt, dt_in, A and the states are fp32. Products of fp32
    operands are TF32 (2**-11) unless TRITON_F32_DEFAULT says otherwise.
    Source: `mamba_ssm.ops.triton.ssd_combined.mamba_chunk_scan_combined`.
    """
    # Imported here because importing it without a CUDA device fails.
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined  # noqa: PLC0415

    decaying = torch.minimum(dt, (-MOST_DECAY / A).detach())
    # A step size that has vanished takes no input either: 0 / tiny.
    weight = dt_in / decaying.clamp(min=torch.finfo(torch.float32).tiny)
    y, last = mamba_chunk_scan_combined(
        (u * weight.unsqueeze(-1)).to(u.dtype),
        decaying,
        A,
        B,
        C,
        CHUNK,
        initial_states=ssm_state,
        return_final_states=True,
    )
    return y, last


def ssd_step_in_place(
    ssm: Tensor, slots: Tensor, u: Tensor, dt: Tensor, weight: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor
) -> Tensor:
    """Advance the states in `slots` by one sample, in place.

    Args:
        ssm: (n_slots, n_heads, head_dim, d_state) fp32, any strides.
        slots: (batch,) int64, at most MOST_AT_ONCE, distinct but for slot 0.
        u: (batch, n_heads, head_dim).
        dt: (batch, n_heads) step sizes of the decay, after softplus and elapsed time.
        weight: (batch,) step size of the input over that of the decay.
        A: (n_heads,), negative.
        B: (batch, n_groups, d_state).
        C: (batch, n_groups, d_state).
        D: (n_heads,) weights of the skip.

    Returns:
        y (batch, n_heads, head_dim), the skip included.
    """
    from mamba_ssm.ops.triton.selective_state_update import selective_state_update  # noqa: PLC0415  (as above)

    _, n_heads, head_dim, d_state = ssm.shape
    y: Tensor = selective_state_update(
        ssm,
        u,
        # Strides of zero tell the kernel that a head has one decay.
        dt.unsqueeze(-1).expand(-1, -1, head_dim),
        A.view(-1, 1, 1).expand(-1, head_dim, d_state),
        B * weight.view(-1, 1, 1),
        C,
        D.view(-1, 1).expand(-1, head_dim),
        dt_bias=D.new_zeros(()).expand(n_heads, head_dim),  # it cannot do without one
        state_batch_indices=slots,
    )
    return y
