"""Every form of the selective scan against the sequential one in float64."""

import pytest
import torch

from kernels.scan import selective_scan_chunked, selective_scan_ref

Operands = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def operands(batch: int, length: int, d_inner: int, d_state: int) -> Operands:
    """u, dt, dt_in, A, B, C in float64; a tenth of the steps are long gaps after which nothing is left."""
    u = torch.randn(batch, length, d_inner, dtype=torch.float64)
    dt = torch.exp(torch.randn(batch, length, d_inner, dtype=torch.float64) - 4)
    dt_in = dt.clone()
    gap = torch.rand(batch, length) < 0.1
    dt[gap] *= 5_000.0
    A = -torch.exp(torch.randn(d_inner, d_state, dtype=torch.float64))
    B = torch.randn(batch, length, d_state, dtype=torch.float64)
    C = torch.randn(batch, length, d_state, dtype=torch.float64)
    return u, dt, dt_in, A, B, C


def single(parts: Operands) -> Operands:
    """The same in float32."""
    u, dt, dt_in, A, B, C = (part.float() for part in parts)
    return u, dt, dt_in, A, B, C


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 200])
@pytest.mark.parametrize("from_state", [False, True])
def test_the_chunked_scan_equals_the_sequential_one(length: int, *, from_state: bool) -> None:
    """Outputs and last state agree to rounding for lengths around the chunk, from zero and from a state."""
    parts = operands(2, length, 5, 3)
    state = torch.randn(2, 5, 3, dtype=torch.float64) if from_state else None
    y_ref, last_ref = selective_scan_ref(*parts, state)
    y, last = selective_scan_chunked(*parts, state)
    torch.testing.assert_close(y, y_ref, rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(last, last_ref, rtol=1e-11, atol=1e-13)


def test_an_empty_sequence_leaves_the_state_alone() -> None:
    """Length zero returns no outputs and the state as given."""
    parts = operands(2, 0, 5, 3)
    state = torch.randn(2, 5, 3, dtype=torch.float64)
    for scan in (selective_scan_ref, selective_scan_chunked):
        y, last = scan(*parts, state)
        assert y.shape == (2, 0, 5)
        assert torch.equal(last, state)


def test_gradients_of_the_chunked_scan_are_right() -> None:
    """Autograd through the chunks agrees with finite differences for every operand and the initial state."""

    def chunks_of_three(
        u: torch.Tensor, dt: torch.Tensor, dt_in: torch.Tensor, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor,
        state: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        return selective_scan_chunked(u, dt, dt_in, A, B, C, state, chunk=3)

    inputs = [part.requires_grad_() for part in (*operands(1, 7, 2, 3), torch.randn(1, 2, 3, dtype=torch.float64))]
    assert torch.autograd.gradcheck(chunks_of_three, inputs)


def test_float32_streams_for_a_day_within_promise_one() -> None:
    """After 17,280 fp32 steps the state is within 1e-4 of the float64 scan (relative norm)."""
    parts = operands(1, 17_280, 4, 4)
    _, truth = selective_scan_chunked(*parts, None)
    _, stepped = selective_scan_ref(*single(parts), None)
    error = torch.linalg.vector_norm(stepped.double() - truth) / torch.linalg.vector_norm(truth)
    assert error < 1e-4
