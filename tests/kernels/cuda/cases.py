"""Random operands of the training kernels, their truth in float64, and a comparison that names every tensor that is off."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.scan import selective_scan_ref

MAX_HOLD_RATIO = 12.0

# Relative norm of the error. fp32: rounding in another order. bf16: the results are rounded to 8 bits, the sums are not.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 6e-3}


def scan_operands(
    batch: int, length: int, d_inner: int, d_state: int, dtype: torch.dtype, dt_rank: int = 8
) -> dict[str, Tensor]:
    """Leaves of a scan on the CPU, as the network lays them: xz holds u and z, projected holds dt's low rank, B and C."""
    gap = torch.rand(batch, length) < 0.1
    gap[:, -1:] |= torch.rand(batch, 1) < 0.5
    ratio = torch.where(gap, torch.exp(torch.rand(batch, length) * 9.2), 0.2 + 1.6 * torch.rand(batch, length))
    return {
        "xz": torch.randn(batch, length, 2 * d_inner).to(dtype),
        "projected": torch.randn(batch, length, dt_rank + 2 * d_state).to(dtype),
        "dt_raw": torch.randn(batch, length, d_inner).to(dtype),
        "dt_bias": -4 + 2 * torch.randn(d_inner),
        "ratio": ratio,
        "A": -torch.exp(torch.randn(d_inner, d_state)),
        "D": torch.randn(d_inner),
        "ssm_state": torch.randn(batch, d_inner, d_state),
    }


def scan_truth(
    u: Tensor, dt_raw: Tensor, dt_bias: Tensor, ratio: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor,
    z: Tensor | None, ssm_state: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """What `selective_scan` computes, by the sequential definition."""
    step = F.softplus(dt_raw + dt_bias, threshold=50.0)
    dt, dt_in = step * ratio.unsqueeze(-1), step * ratio.clamp(max=MAX_HOLD_RATIO).unsqueeze(-1)
    y, last = selective_scan_ref(u, dt, dt_in, A, B, C, ssm_state)
    y = y + D * u
    return y if z is None else y * F.silu(z), last


def conv_truth(x: Tensor, weight: Tensor, bias: Tensor, conv_state: Tensor | None) -> Tensor:
    """What `causal_conv1d` computes, by torch."""
    if conv_state is None:
        conv_state = x.new_zeros(x.shape[0], x.shape[2], weight.shape[1] - 1)
    window = torch.cat((conv_state, x.transpose(1, 2)), dim=-1)
    return F.silu(F.conv1d(window, weight.unsqueeze(1), bias, groups=x.shape[2])).transpose(1, 2)


def relative_error(value: Tensor, truth: Tensor) -> float:
    """Norm of the difference over the norm of the truth; NaN counts as infinite."""
    difference = torch.linalg.vector_norm(value.detach().double().cpu() - truth.detach().cpu())
    error = float(difference / torch.linalg.vector_norm(truth.detach().cpu()).clamp(min=1e-30))
    return error if error == error else float("inf")  # noqa: PLR0124  (NaN)


def errors(values: Mapping[str, Tensor], truths: Mapping[str, Tensor]) -> dict[str, float]:
    """Relative error of every tensor."""
    return {name: relative_error(values[name], truth) for name, truth in truths.items()}


def assert_close(values: Mapping[str, Tensor], truths: Mapping[str, Tensor], tolerance: float | None = None) -> None:
    """Every tensor within the tolerance, by default that of its own dtype; or a message with the error of each."""
    found = errors(values, truths)
    allowed = {name: tolerance or TOLERANCE[values[name].dtype] for name in truths}
    assert all(error <= allowed[k] for k, error in found.items()), ", ".join(f"{k} {v:.1e}" for k, v in found.items())
