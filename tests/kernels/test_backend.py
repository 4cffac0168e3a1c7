"""The same promises for every backend: correct in place, isolated, and chosen aloud."""

import itertools
import logging
import math
from dataclasses import replace

import pytest
import torch

from kernels import (
    CHUNKED,
    Backend,
    BackendUnavailableError,
    MambaConfig,
    NetworkWeights,
    RecurrentState,
    StatePool,
    choose_backend,
    network_scan,
    network_step,
)
from kernels.cpu import missing_for_cpu
from kernels.packed import join_outputs
from tests.kernels.conftest import FULL, SMALL, MakeWeights

NAMES = [
    "reference",
    pytest.param(
        "cpu", marks=pytest.mark.skipif(missing_for_cpu() is not None, reason=f"backend cpu: {missing_for_cpu()}")
    ),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
SIZES = [
    SMALL,
    replace(SMALL, d_model=19, expand=1, d_state=16, d_conv=2),
    replace(SMALL, d_model=21, d_state=32, d_conv=5, dt_rank=17),
    replace(FULL, n_layer=2, d_state=128),
    FULL,
]


@pytest.fixture
def weights(config: MambaConfig, make_weights: MakeWeights) -> NetworkWeights:
    """One network for the backend and the truth."""
    return make_weights(config)


@pytest.fixture(params=NAMES)
def backend_name(request: pytest.FixtureRequest) -> str:
    """Each backend that this machine can run."""
    return str(request.param)


@pytest.fixture
def backend(backend_name: str, config: MambaConfig, weights: NetworkWeights) -> Backend:
    """Each backend, on the network under test."""
    return choose_backend(backend_name, config, weights)


def random_state(config: MambaConfig, batch: int) -> RecurrentState:
    """A state in float64 that fp32 holds exactly, so that a difference is the step's alone."""
    return RecurrentState(
        torch.randn(batch, *config.conv_state_shape).double(), torch.randn(batch, *config.ssm_state_shape).double()
    )


def random_ratio(*shape: int) -> torch.Tensor:
    """Elapsed-time ratios from 0.2 to 10,000, log-uniform, exact in fp32."""
    return torch.exp(math.log(0.2) + torch.rand(*shape) * math.log(50_000.0)).double()


def poisoned_pool(config: MambaConfig, n_slots: int, device: torch.device) -> StatePool:
    """A pool in which any state that was not written is NaN."""
    pool = StatePool(config, n_slots, device)
    pool.conv.fill_(torch.nan)
    pool.ssm.fill_(torch.nan)
    return pool


def relative_error(value: torch.Tensor, truth: torch.Tensor) -> float:
    """Norm of the difference over the norm of the truth."""
    return float(torch.linalg.vector_norm(value.double().cpu() - truth) / torch.linalg.vector_norm(truth))


def test_steps_in_place_equal_the_float64_scan(backend: Backend, config: MambaConfig, weights: NetworkWeights) -> None:
    """Stepping random slots of a poisoned pool gives the float64 scan's outputs and states, to fp32 rounding."""
    length, slots = 50, torch.tensor([6, 2, 5])
    features = torch.randn(3, length, config.d_input, dtype=torch.float64)
    ratio = torch.exp(torch.randn(3, length, dtype=torch.float64))
    truth, last = network_scan(config, weights, features, ratio)
    rows = join_outputs(truth)
    pool = poisoned_pool(config, 8, backend.device)
    pool.zero(slots.to(backend.device))
    for t in range(length):
        output = backend.step(pool, slots, features[:, t].float(), ratio[:, t].float())
        assert relative_error(join_outputs(output), rows[:, t]) < 1e-4
    state = pool.read(slots.to(backend.device))
    assert relative_error(state.ssm, last.ssm) < 1e-5
    assert relative_error(state.conv, last.conv) < 1e-5


def test_unused_slots_stay_bit_equal(backend: Backend, config: MambaConfig) -> None:
    """A step touches the slots it was given and no others."""
    pool = StatePool(config, 9, backend.device)
    pool.conv.normal_()
    pool.ssm.normal_()
    conv, ssm = pool.conv.clone(), pool.ssm.clone()
    backend.step(pool, torch.tensor([7, 1]), torch.randn(2, config.d_input), torch.ones(2))
    unused = [0, 2, 3, 4, 5, 6, 8]
    assert torch.equal(conv[unused], pool.conv[unused])
    assert torch.equal(ssm[unused], pool.ssm[unused])
    assert not torch.equal(ssm[[7, 1]], pool.ssm[[7, 1]])


@pytest.mark.parametrize("size", SIZES, ids=lambda c: f"inner{c.d_inner}-state{c.d_state}-conv{c.d_conv}")
@pytest.mark.parametrize("batch", [1, 2, 13, 49])
def test_one_step_from_any_state_at_any_size(
    backend_name: str, make_weights: MakeWeights, size: MambaConfig, batch: int
) -> None:
    """Odd widths and batches, gaps of a second to half a day: outputs and states equal float64 to fp32 rounding."""
    weights = make_weights(size)
    backend = choose_backend(backend_name, size, weights)
    pool = poisoned_pool(size, batch + 5, backend.device)
    slots = 1 + torch.randperm(batch + 4)[:batch]
    start, ratio = random_state(size, batch), random_ratio(batch)
    features = torch.randn(batch, size.d_input).double()
    truth, after = network_step(size, weights, features, ratio, start)
    pool.write(slots.to(backend.device), start)
    output = backend.step(pool, slots, features.float(), ratio.float())
    state = pool.read(slots.to(backend.device))
    # All outputs of a vehicle at once: a single logit may lie so near zero that its rounding is large beside it.
    assert relative_error(join_outputs(output), join_outputs(truth)) < 1e-4
    assert relative_error(state.conv, after.conv) < 1e-5
    assert relative_error(state.ssm, after.ssm) < 1e-5


def assert_each_state_agrees(state: RecurrentState, other: RecurrentState) -> None:
    """Two fp32 computations of the same states agree for every vehicle, in the measure of all our bounds.

    Element by element they need not: a state that is a small difference of large terms keeps their rounding.
    """
    for vehicle in range(len(state.ssm)):
        assert relative_error(state.ssm[vehicle], other.ssm[vehicle].double().cpu()) < 1e-5
        assert relative_error(state.conv[vehicle], other.conv[vehicle].double().cpu()) < 1e-5


def test_a_batch_equals_its_vehicles_one_by_one_in_any_order(backend: Backend, config: MambaConfig) -> None:
    """A batch of N gives what N batches of one give, and shuffling it permutes its outputs and nothing else."""
    batch = 29
    start = random_state(config, batch)
    features, ratio = torch.randn(batch, config.d_input), random_ratio(batch).float()
    slots, order = 1 + torch.randperm(batch), torch.randperm(batch)

    def run(rows: list[torch.Tensor]) -> tuple[torch.Tensor, RecurrentState]:
        pool = poisoned_pool(config, batch + 1, backend.device)
        pool.write(slots.to(backend.device), start)
        risk = torch.empty(batch)
        for part in rows:
            risk[part] = backend.step(pool, slots[part], features[part], ratio[part]).risk_logit.cpu()
        return risk, pool.read(slots.to(backend.device))

    together, state = run([torch.arange(batch)])
    for rows in ([order], list(order.unsqueeze(1))):
        risk, other = run(rows)
        torch.testing.assert_close(risk, together, rtol=1e-5, atol=1e-5)
        assert_each_state_agrees(other, state)


def test_padding_goes_to_slot_zero_and_changes_no_vehicle(backend: Backend, config: MambaConfig) -> None:
    """Rows of slot 0, however many, leave the results of the other rows as they are."""
    start, features, ratio = random_state(config, 3), torch.randn(8, config.d_input), random_ratio(8).float()
    slots = torch.tensor([0, 3, 0, 0, 1, 2, 0, 0])
    real = slots > 0
    results = []
    for rows in (torch.arange(8), torch.arange(8)[real]):
        pool = StatePool(config, 4, backend.device)
        pool.write(slots[real].to(backend.device), start)
        output = backend.step(pool, slots[rows], features[rows], ratio[rows])
        results.append((output.risk_logit, pool.read(slots[real].to(backend.device))))
    (padded, padded_state), (plain, plain_state) = results
    torch.testing.assert_close(padded[real.to(backend.device)], plain, rtol=1e-5, atol=1e-5)
    assert_each_state_agrees(padded_state, plain_state)


@pytest.mark.slow
def test_a_day_of_steps_stays_within_promise_one(backend_name: str, make_weights: MakeWeights) -> None:
    """17,280 fp32 steps, some over long gaps: the state is within 1e-4 of the float64 scan (relative norm)."""
    config = replace(FULL, d_model=32, n_layer=2)
    length, weights = 17_280, make_weights(config)
    backend = choose_backend(backend_name, config, weights)
    features = torch.randn(2, length, config.d_input).double()
    ratio = torch.where(torch.rand(2, length) < 0.01, random_ratio(2, length), 1.0)
    _, truth = network_scan(config, weights, features, ratio, scan=CHUNKED)
    pool, slots = StatePool(config, 3, backend.device), torch.tensor([2, 1])
    rows, ratios = features.float().unbind(1), ratio.float().unbind(1)
    for row, row_ratio in zip(rows, ratios, strict=True):
        backend.step(pool, slots, row, row_ratio)
    state = pool.read(slots.to(backend.device))
    assert relative_error(state.ssm, truth.ssm) < 1e-4
    assert relative_error(state.conv, truth.conv) < 1e-4


def test_the_scan_resumes_from_a_state(backend: Backend, config: MambaConfig, weights: NetworkWeights) -> None:
    """The backend's scan from a stored state equals the float64 reference, outputs and last state."""
    features = torch.randn(2, 70, config.d_input, dtype=torch.float64)
    ratio = torch.ones(2, 70, dtype=torch.float64)
    start = RecurrentState(
        torch.randn(2, *config.conv_state_shape, dtype=torch.float64),
        torch.randn(2, *config.ssm_state_shape, dtype=torch.float64),
    )
    truth, last = network_scan(config, weights, features, ratio, start)
    on_device = RecurrentState(start.conv.float().to(backend.device), start.ssm.float().to(backend.device))
    output, state = backend.scan(features.float(), ratio.float(), on_device)
    assert relative_error(output.risk_logit, truth.risk_logit) < 1e-4
    assert relative_error(state.ssm, last.ssm) < 1e-5
    assert relative_error(state.conv, last.conv) < 1e-5


def packed_case(
    config: MambaConfig, weights: NetworkWeights, lengths: list[int]
) -> tuple[RecurrentState, torch.Tensor, torch.Tensor, torch.Tensor, RecurrentState]:
    """Start, packed features and ratio, and the truth in float64: risks and last states."""
    start = random_state(config, len(lengths))
    features, ratio = torch.randn(sum(lengths), config.d_input), random_ratio(sum(lengths)).float()
    risks, convs, ssms, first = [], [], [], 0
    for vehicle, length in enumerate(lengths):
        own = slice(first, first + length)
        state = RecurrentState(start.conv[vehicle, None], start.ssm[vehicle, None])
        if length > 0:
            rows = (features[None, own].double(), ratio[None, own].double())
            output, state = network_scan(config, weights, *rows, state, scan=CHUNKED)
            risks.append(output.risk_logit[0])
        convs.append(state.conv)
        ssms.append(state.ssm)
        first += length
    return start, features, ratio, torch.cat(risks), RecurrentState(torch.cat(convs), torch.cat(ssms))


@pytest.mark.parametrize("last_only", [False, True])
def test_a_packed_scan_of_different_lengths(
    backend: Backend, config: MambaConfig, weights: NetworkWeights, *, last_only: bool
) -> None:
    """Sequences of 0 to 90 samples from stored states: outputs where asked, final states in place, no other slot."""
    lengths = [33, 1, 0, 90, 2, 64, 3]
    start, features, ratio, risks, after = packed_case(config, weights, lengths)
    slots = 1 + torch.randperm(len(lengths) + 2)[: len(lengths)]
    pool = poisoned_pool(config, len(lengths) + 3, backend.device)
    pool.write(slots.to(backend.device), start)
    output = backend.scan_packed(pool, slots, torch.tensor(lengths), features, ratio, last_only=last_only)
    state = pool.read(slots.to(backend.device))
    assert relative_error(state.conv, after.conv) < 1e-5
    assert relative_error(state.ssm, after.ssm) < 1e-5
    some = torch.tensor(lengths) > 0
    if last_only:
        ends = torch.tensor(lengths).cumsum(0)[some] - 1
        assert relative_error(output.risk_logit[some.to(backend.device)], risks[ends]) < 1e-4
        assert torch.isnan(output.risk_logit.cpu()[~some]).all()
    else:
        assert relative_error(output.risk_logit, risks) < 1e-4
    unused = [slot for slot in range(pool.n_slots) if slot not in slots]
    assert torch.isnan(pool.ssm[unused]).all()


def test_a_vehicle_without_samples_keeps_its_state_bit_for_bit(backend: Backend, config: MambaConfig) -> None:
    """Sharing a scan with longer sequences changes nothing of it."""
    pool = StatePool(config, 4, backend.device)
    pool.conv.normal_()
    pool.ssm.normal_()
    conv, ssm = pool.conv.clone(), pool.ssm.clone()
    features, ratio = torch.randn(41, config.d_input), torch.ones(41)
    backend.scan_packed(pool, torch.tensor([2, 1, 3]), torch.tensor([40, 0, 1]), features, ratio)
    assert torch.equal(pool.conv[:2], conv[:2])
    assert torch.equal(pool.ssm[:2], ssm[:2])
    assert not torch.equal(pool.ssm[3], ssm[3])


def test_chunks_cut_at_random_points_join(backend: Backend, config: MambaConfig, weights: NetworkWeights) -> None:
    """A sequence in pieces, some scanned and some stepped, ends in the state and outputs of the whole."""
    length = 150
    start, features, ratio, risks, after = packed_case(config, weights, [length])
    pool, slot = poisoned_pool(config, 3, backend.device), torch.tensor([2])
    pool.write(slot.to(backend.device), start)
    cuts = [0, *sorted((1 + torch.randperm(length - 1)[:6]).tolist()), length]
    found = []
    for first, last in itertools.pairwise(cuts):
        if last - first < 6:
            found += [
                backend.step(pool, slot, features[t, None], ratio[t, None]).risk_logit for t in range(first, last)
            ]
        else:
            own = slice(first, last)
            piece = torch.tensor([last - first])
            found.append(backend.scan_packed(pool, slot, piece, features[own], ratio[own]).risk_logit)
    state = pool.read(slot.to(backend.device))
    assert relative_error(torch.cat(found), risks) < 1e-4
    assert relative_error(state.conv, after.conv) < 1e-5
    assert relative_error(state.ssm, after.ssm) < 1e-5


def test_pool_reads_back_what_was_written(config: MambaConfig) -> None:
    """A state survives the pool bit for bit, and zero puts it back to the start."""
    pool = StatePool(config, 4, torch.device("cpu"))
    state = RecurrentState(torch.randn(2, *config.conv_state_shape), torch.randn(2, *config.ssm_state_shape))
    slots = torch.tensor([3, 1])
    pool.write(slots, state)
    assert torch.equal(pool.read(slots).ssm, state.ssm)
    assert torch.equal(pool.read(slots).conv, state.conv)
    pool.zero(slots[:1])
    assert not pool.ssm[3].any()
    assert torch.equal(pool.ssm[1], state.ssm[1])


def test_a_pool_needs_room_beside_the_dummy(config: MambaConfig) -> None:
    """A pool of one slot would hold no vehicle and is refused."""
    with pytest.raises(ValueError, match="at least 2"):
        StatePool(config, 1, torch.device("cpu"))


def test_auto_says_what_it_chose(
    config: MambaConfig, weights: NetworkWeights, caplog: pytest.LogCaptureFixture
) -> None:
    """`auto` picks a backend that runs here and logs it."""
    with caplog.at_level(logging.INFO, logger="kernels.backend"):
        backend = choose_backend("auto", config, weights)
    assert backend.name in {"reference", "cpu", "cuda"}
    assert f"backend auto chose {backend.name}" in caplog.text


def test_an_unknown_backend_is_refused_with_the_choices(config: MambaConfig, weights: NetworkWeights) -> None:
    """A typing error in the setting names the valid values."""
    with pytest.raises(ValueError, match="auto, reference, cpu, cuda, cuda-bf16"):
        choose_backend("cdua", config, weights)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
@pytest.mark.parametrize("name", ["cuda", "cuda-bf16"])
def test_cuda_without_a_device_is_refused_with_what_is_missing(
    name: str, config: MambaConfig, weights: NetworkWeights
) -> None:
    """Asking for CUDA where there is none never falls back in silence."""
    with pytest.raises(BackendUnavailableError, match=f"'{name}' needs a CUDA device"):
        choose_backend(name, config, weights)
