"""Scan and convolution of the training path, values and gradients, against the sequential definition in float64."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kernels.cuda.causal_conv1d import causal_conv1d
from kernels.cuda.selective_scan import ScanTiling, selective_scan
from tests.kernels.cuda.cases import MAX_HOLD_RATIO, assert_close, conv_truth, scan_operands, scan_truth

DT_RANK = 8
DTYPES = (torch.float32, torch.bfloat16)
TILINGS = (
    ScanTiling(),
    ScanTiling(tile=32, steps=8, forward_keep=4, backward_keep=4),
    ScanTiling(tile=16, steps=4, forward_keep=2, backward_keep=2),
    ScanTiling(tile=8, steps=8, forward_keep=4, backward_keep=2),
)


@pytest.fixture
def _deterministic() -> Iterator[None]:
    """Ask torch for deterministic algorithms."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def check_scan(
    device: torch.device,
    operands: dict[str, Tensor],
    tiling: ScanTiling,
    *,
    gate: bool = True,
    from_state: bool = True,
    tolerance: float | None = None,
) -> None:
    """Outputs, last state and all gradients of one case, through views of the leaves as in the network."""
    d_inner, d_state = operands["A"].shape
    leaves = {name: t for name, t in operands.items() if name != "ratio" and (from_state or name != "ssm_state")}
    d_out = torch.randn_like(operands["dt_raw"])  # in the dtype of `out`: the truth starts from the same numbers
    d_last = torch.randn_like(operands["ssm_state"])
    results = []
    for truth in (False, True):
        at = torch.device("cpu") if truth else device
        own = {n: (t.double() if truth else t).to(at).detach().clone().requires_grad_() for n, t in leaves.items()}
        ratio = (operands["ratio"].double() if truth else operands["ratio"]).to(at)
        u, z = own["xz"].split(d_inner, dim=-1)
        _, B, C = own["projected"].split((DT_RANK, d_state, d_state), dim=-1)
        rest = (B, C, own["D"], z if gate else None, own.get("ssm_state"))
        if truth:
            out, last = scan_truth(u, own["dt_raw"], own["dt_bias"], ratio, own["A"], *rest)
        else:
            out, last = selective_scan(
                u, own["dt_raw"], own["dt_bias"], ratio, MAX_HOLD_RATIO, own["A"], *rest, tiling=tiling
            )
        gradients = torch.autograd.grad([out, last], list(own.values()), [d_out.to(out), d_last.to(last)])
        results.append({"out": out, "last": last} | dict(zip((f"d_{n}" for n in own), gradients, strict=True)))
    assert_close(results[0], results[1], tolerance)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("d_state", [16, 32, 64, 128])
@pytest.mark.parametrize("tiling", TILINGS, ids=["default", "keep4", "keep2", "mixed"])
def test_equals_the_definition(device: torch.device, tiling: ScanTiling, d_state: int, dtype: torch.dtype) -> None:
    """Odd batch, length and channels; gaps up to 10,000 intervals."""
    check_scan(device, scan_operands(3 if device.type == "cuda" else 1, 75, 21, d_state, dtype), tiling)


@pytest.mark.parametrize("length", [1, 2, 31, 32, 33, 64, 65])
def test_lengths_around_the_tile(device: torch.device, length: int) -> None:
    """No step is lost or counted twice where tiles meet."""
    check_scan(device, scan_operands(2, length, 16, 16, torch.float32), ScanTiling(), tolerance=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("d_inner", "gate", "from_state"), [(48, False, False), (24, True, False), (5, False, True)])
def test_with_and_without_gate_and_state(
    device: torch.device, d_inner: int, dtype: torch.dtype, *, gate: bool, from_state: bool
) -> None:
    """The gate and the initial state are optional; rows may or may not allow 16-byte copies."""
    check_scan(device, scan_operands(2, 40, d_inner, 32, dtype), ScanTiling(), gate=gate, from_state=from_state)


@pytest.mark.usefixtures("_deterministic")
def test_deterministic_sums_over_blocks(device: torch.device) -> None:
    """The gradients of B and C may be summed in a fixed order."""
    check_scan(device, scan_operands(2, 40, 40, 16, torch.float32), ScanTiling())


@pytest.mark.gpu
def test_a_day_of_samples() -> None:
    """Gradients and state still agree after 17,280 steps: fp32 within 1e-4."""
    check_scan(torch.device("cuda"), scan_operands(1, 17_280, 16, 64, torch.float32), ScanTiling(), tolerance=1e-4)


def test_a_gradient_of_the_elapsed_time_is_refused(device: torch.device) -> None:
    """Nothing is silently taken for a constant."""
    o = scan_operands(1, 4, 8, 16, torch.float32)
    B = torch.zeros(1, 4, 16, device=device)
    with pytest.raises(ValueError, match="elapsed time"):
        selective_scan(
            o["dt_raw"].to(device), o["dt_raw"].to(device), o["dt_bias"].to(device),
            o["ratio"].to(device).requires_grad_(), MAX_HOLD_RATIO, o["A"].to(device), B, B, o["D"].to(device),
        )  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("batch", "length", "channels", "width", "from_state"),
    [(2, 70, 5, 4, True), (3, 33, 16, 4, False), (2, 32, 24, 3, True), (1, 2, 8, 4, True), (2, 40, 6, 2, False)],
)
def test_convolution_equals_torch(
    device: torch.device, dtype: torch.dtype, batch: int, length: int, channels: int, width: int, *, from_state: bool
) -> None:
    """Values and gradients for packs of 8, 4, 2 and 1 channels, segments whole and cut, from zero and from a window."""
    leaves = {
        "x": torch.randn(batch, length, 2 * channels).to(dtype),
        "weight": torch.randn(channels, width),
        "bias": torch.randn(channels),
    }
    state = torch.randn(batch, channels, width - 1) if from_state else None
    d_y = torch.randn(batch, length, channels).to(dtype)  # the truth starts from the same numbers
    results = []
    for truth in (False, True):
        at = torch.device("cpu") if truth else device
        own = {n: (t.double() if truth else t).to(at).detach().clone().requires_grad_() for n, t in leaves.items()}
        window = None if state is None else state.to(at, torch.float64 if truth else torch.float32)
        conv = conv_truth if truth else causal_conv1d
        y = conv(own["x"][..., :channels], own["weight"], own["bias"], window)
        gradients = torch.autograd.grad(y, list(own.values()), d_y.to(y))
        results.append({"y": y} | dict(zip((f"d_{n}" for n in own), gradients, strict=True)))
    assert_close(results[0], results[1])
