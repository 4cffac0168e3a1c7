"""Backend `cuda` as a whole, emulated where there is no device: scans of different lengths and steps join."""

import pytest
import torch

from kernels import MambaConfig, RecurrentState, StatePool, network_scan
from kernels.cuda.backend import CudaBackend
from kernels.cuda.packed_scan import chunks, scan_packed_cuda
from kernels.weights import random_weights
from tests.kernels.cuda.cases import relative_error

CONFIG = MambaConfig(d_input=7, n_channels=3, d_model=20, n_layer=2, d_state=16, d_conv=4, dt_rank=3)


@pytest.mark.parametrize("last_only", [False, True])
@pytest.mark.parametrize("rows_at_once", [16, 1 << 19])
def test_different_lengths_in_pieces(device: torch.device, rows_at_once: int, *, last_only: bool) -> None:
    """Final states in place and outputs equal float64, however time is cut; other slots stay as they are."""
    lengths = [37, 0, 1, 40, 2]
    weights = random_weights(CONFIG)
    start = RecurrentState(
        torch.randn(len(lengths), *CONFIG.conv_state_shape), torch.randn(len(lengths), *CONFIG.ssm_state_shape)
    )
    features, ratio = torch.randn(sum(lengths), CONFIG.d_input), torch.exp(torch.randn(sum(lengths)))
    pool, slots = StatePool(CONFIG, 8, device), torch.tensor([6, 1, 3, 2, 7], device=device)
    pool.conv.fill_(torch.nan)
    pool.ssm.fill_(torch.nan)
    pool.write(slots, start)
    on_device = weights.to(device=device, dtype=torch.float32)
    out = scan_packed_cuda(
        CONFIG, on_device, pool, slots, torch.tensor(lengths), features.to(device), ratio.to(device),
        last_only=last_only, rows_at_once=rows_at_once,
    )  # fmt: skip
    first, state = 0, pool.read(slots)
    for vehicle, length in enumerate(lengths):
        own, at = slice(first, first + length), slice(vehicle, vehicle + 1)
        first += length
        if length == 0:
            assert torch.equal(state.ssm[vehicle].cpu(), start.ssm[vehicle])
            assert torch.equal(state.conv[vehicle].cpu(), start.conv[vehicle])
            continue
        before = RecurrentState(start.conv[at].double(), start.ssm[at].double())
        truth, after = network_scan(CONFIG, weights, features[None, own].double(), ratio[None, own].double(), before)
        assert relative_error(state.ssm[at], after.ssm) < 1e-5
        assert relative_error(state.conv[at], after.conv) < 1e-5
        risk = out.risk_logit[at] if last_only else out.risk_logit[own]
        assert relative_error(risk, truth.risk_logit[0, -1:] if last_only else truth.risk_logit[0]) < 1e-4
    assert torch.isnan(pool.ssm[[0, 4, 5]]).all()


@pytest.mark.parametrize("bf16", [False, True])
def test_steps_and_scans_join(device: torch.device, *, bf16: bool) -> None:
    """The backend scans some samples and steps the rest, and arrives where float64 does; both round the same weights."""
    weights = random_weights(CONFIG)
    backend = CudaBackend(CONFIG, weights, device, bf16=bf16)
    if bf16:
        weights = weights.with_bf16_projections()
    features, ratio = torch.randn(3, 9, CONFIG.d_input), torch.exp(torch.randn(3, 9))
    truth, after = network_scan(CONFIG, weights, features.double(), ratio.double())
    scanned, state = backend.scan(features[:, :6], ratio[:, :6], None)
    pool, slots = StatePool(CONFIG, 5, device), torch.tensor([4, 1, 2], device=device)
    pool.write(slots, state)
    risks = [backend.step(pool, slots, features[:, t], ratio[:, t]).risk_logit for t in range(6, 9)]
    found = torch.cat((scanned.risk_logit, torch.stack(risks, dim=1)), dim=1)
    assert relative_error(found, truth.risk_logit) < 1e-4
    assert relative_error(pool.read(slots).ssm, after.ssm) < 1e-5
    assert relative_error(pool.read(slots).conv, after.conv) < 1e-5


@pytest.mark.parametrize("rows_at_once", [700, 1 << 19])
def test_chunks_cover_every_sample_once_and_in_order(rows_at_once: int) -> None:
    """Whatever the lengths, no sample is left out, done twice or done early."""
    lengths = torch.randint(0, 3_000, (50,))
    done = torch.zeros(50, dtype=torch.int64)
    for vans, first, steps in chunks(lengths, rows_at_once):
        assert (done[vans] == first).all()
        done[vans] = torch.minimum(lengths[vans], torch.tensor(first + steps))
    assert torch.equal(done, lengths)
