"""Mamba-2's chunked scan against the sequential definition in float64, and against Mamba-1's scan of the same sums."""

from functools import partial

import pytest
import torch
from torch import Tensor

from kernels.scan import selective_scan_ref
from kernels.ssd import SsdScan, ssd_scan_chunked, ssd_scan_ref, ssd_step

Operands = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]
HEADS, GROUPS, HEAD_DIM, STATES = 4, 2, 3, 5


def operands(batch: int, length: int) -> Operands:
    """u, dt, dt_in, A, B, C in float64; a tenth of the steps are long gaps after which nothing is left."""
    u = torch.randn(batch, length, HEADS, HEAD_DIM, dtype=torch.float64)
    dt = torch.exp(torch.randn(batch, length, HEADS, dtype=torch.float64) - 4)
    dt_in = dt.clone()
    gap = torch.rand(batch, length) < 0.1
    dt[gap] *= 5_000.0
    A = -torch.exp(torch.randn(HEADS, dtype=torch.float64))
    B, C = torch.randn(2, batch, length, GROUPS, STATES, dtype=torch.float64)
    return u, dt, dt_in, A, B, C


def a_state(batch: int) -> Tensor:
    """A state to start from."""
    return torch.randn(batch, HEADS, HEAD_DIM, STATES, dtype=torch.float64)


def part_of(parts: Operands, own: slice) -> Operands:
    """The same in a part of the time."""
    u, dt, dt_in, A, B, C = parts
    return u[:, own], dt[:, own], dt_in[:, own], A, B[:, own], C[:, own]


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 200])
@pytest.mark.parametrize("from_state", [False, True])
def test_the_chunked_scan_equals_the_sequential_one(length: int, *, from_state: bool) -> None:
    """Outputs and last state agree to rounding for lengths around the chunk, from zero and from a state."""
    parts, state = operands(2, length), a_state(2) if from_state else None
    y_ref, last_ref = ssd_scan_ref(*parts, state)
    y, last = ssd_scan_chunked(*parts, state)
    torch.testing.assert_close(y, y_ref, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(last, last_ref, rtol=1e-10, atol=1e-10)


def test_a_scan_split_at_any_place_equals_the_whole() -> None:
    """The state after the first part is where the second goes on, also inside a chunk and after one sample."""
    parts = operands(2, 150)
    whole, last = ssd_scan_chunked(*parts, None)
    for cut in (1, 64, 149, *torch.randint(2, 149, (3,)).tolist()):
        first, middle = ssd_scan_chunked(*part_of(parts, slice(cut)), None)
        second, end = ssd_scan_chunked(*part_of(parts, slice(cut, None)), middle)
        torch.testing.assert_close(torch.cat((first, second), dim=1), whole, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(end, last, rtol=1e-10, atol=1e-10)


def test_steps_equal_the_scan() -> None:
    """One sample after another gives the chunked scan's outputs and last state."""
    parts, state = operands(2, 70), a_state(2)
    scanned, last = ssd_scan_chunked(*parts, state)
    u, dt, dt_in, A, B, C = parts
    for t in range(u.shape[1]):
        state, y = ssd_step(state, u[:, t], dt[:, t], dt_in[:, t], A, B[:, t], C[:, t])
        torch.testing.assert_close(y, scanned[:, t], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)


def test_it_is_the_selective_scan_with_one_decay_per_head() -> None:
    """Mamba-1's sequential scan, its step sizes and A repeated within each head, gives the same numbers."""
    u, dt, dt_in, A, B, C = operands(2, 40)
    state = a_state(2)
    y, last = ssd_scan_ref(u, dt, dt_in, A, B, C, state)
    per_group = HEADS // GROUPS
    for group in range(GROUPS):
        own = slice(group * per_group, (group + 1) * per_group)
        wide, wide_in = (x[:, :, own].repeat_interleave(HEAD_DIM, dim=2) for x in (dt, dt_in))
        decay = A[own].repeat_interleave(HEAD_DIM)[:, None].expand(-1, STATES)
        expected, expected_last = selective_scan_ref(
            u[:, :, own].flatten(2), wide, wide_in, decay, B[:, :, group], C[:, :, group], state[:, own].flatten(1, 2)
        )
        torch.testing.assert_close(y[:, :, own].flatten(2), expected, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(last[:, own].flatten(1, 2), expected_last, rtol=1e-12, atol=1e-13)


def test_an_empty_sequence_leaves_the_state_alone() -> None:
    """Length zero returns no outputs and the state as given."""
    parts, state = operands(2, 0), a_state(2)
    for scan in (ssd_scan_ref, ssd_scan_chunked):
        y, last = scan(*parts, state)
        assert y.shape == (2, 0, HEADS, HEAD_DIM)
        assert torch.equal(last, state)


def test_gradients_equal_those_of_the_sequential_scan() -> None:
    """For every operand and the initial state, through outputs and last state, over several chunks with gaps."""
    inputs = (*operands(2, 21), a_state(2))
    d_y, d_last = torch.randn(2, 21, HEADS, HEAD_DIM, dtype=torch.float64), a_state(2)

    def gradients(scan: SsdScan) -> tuple[Tensor, ...]:
        u, dt, dt_in, A, B, C, state = leaves = [part.clone().requires_grad_() for part in inputs]
        y, last = scan(u, dt, dt_in, A, B, C, state)
        return torch.autograd.grad((y * d_y).sum() + (last * d_last).sum(), leaves)

    grads = gradients(ssd_scan_ref), gradients(partial(ssd_scan_chunked, chunk=8))
    for name, truth, grad in zip(("u", "dt", "dt_in", "A", "B", "C", "state"), *grads, strict=True):
        torch.testing.assert_close(grad, truth, rtol=1e-9, atol=1e-10, msg=name)


def test_float32_streams_for_a_day_within_promise_one() -> None:
    """After 17,280 fp32 steps the state is within 1e-4 of the float64 scan, and so is the fp32 chunked scan."""
    parts = operands(1, 17_280)
    _, truth = ssd_scan_chunked(*parts, None)
    singles = tuple(part.float() for part in parts)
    u, dt, dt_in, A, B, C = singles
    for scan in (ssd_scan_ref, ssd_scan_chunked):
        _, last = scan(u, dt, dt_in, A, B, C, None)
        assert torch.linalg.vector_norm(last.double() - truth) < 1e-4 * torch.linalg.vector_norm(truth)


def test_under_autocast_the_scan_stays_in_fp32() -> None:
    """A sum that half precision would round is the one of plain fp32."""
    singles = tuple(part.float() for part in operands(1, 100))
    u, dt, dt_in, A, B, C = singles
    plain, _ = ssd_scan_chunked(u, dt, dt_in, A, B, C, None)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = ssd_scan_chunked(u, dt, dt_in, A, B, C, None)
    assert torch.equal(y, plain)
