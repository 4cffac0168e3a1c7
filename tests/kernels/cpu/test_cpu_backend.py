"""What only the C++ backend promises: every instruction set, packed lengths, refusals, and life without the extension."""

import logging
from dataclasses import replace

import pytest
import torch

from kernels import (
    CHUNKED,
    BackendUnavailableError,
    MambaConfig,
    NetworkWeights,
    RecurrentState,
    StatePool,
    choose_backend,
    network_scan,
    network_step,
)
from kernels import backend as backend_module
from kernels.cpu import ISA_VARIABLE, CpuBackend, instruction_sets, missing_for_cpu
from kernels.packed import join_outputs
from tests.kernels.conftest import FULL, SMALL, MakeWeights
from tests.kernels.test_backend import SIZES, poisoned_pool, random_ratio, random_state, relative_error

needs_extension = pytest.mark.skipif(missing_for_cpu() is not None, reason=f"backend cpu: {missing_for_cpu()}")


@pytest.fixture
def weights(config: MambaConfig, make_weights: MakeWeights) -> NetworkWeights:
    """One network for the backend and the truth."""
    return make_weights(config)


@needs_extension
@pytest.mark.parametrize("size", SIZES, ids=lambda c: f"inner{c.d_inner}-state{c.d_state}-conv{c.d_conv}")
@pytest.mark.parametrize("isa", ["avx512", "avx2", "portable"])
def test_every_instruction_set_computes_the_same_network(
    isa: str, size: MambaConfig, make_weights: MakeWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forced through the environment, each equals float64 to fp32 rounding, outputs and states."""
    if isa not in instruction_sets():
        pytest.skip(f"this processor has no {isa}")
    monkeypatch.setenv(ISA_VARIABLE, isa)
    weights = make_weights(size)
    backend = CpuBackend(size, weights)
    assert backend.isa == isa
    pool, slots = poisoned_pool(size, 40, backend.device), 1 + torch.randperm(39)[:31]
    start, features, ratio = random_state(size, 31), torch.randn(31, size.d_input).double(), random_ratio(31)
    truth, after = network_step(size, weights, features, ratio, start)
    pool.write(slots, start)
    output = backend.step(pool, slots, features.float(), ratio.float())
    assert relative_error(join_outputs(output), join_outputs(truth)) < 1e-5
    assert relative_error(pool.read(slots).ssm, after.ssm) < 1e-5
    assert relative_error(pool.read(slots).conv, after.conv) < 1e-5


@needs_extension
@pytest.mark.parametrize("size", [FULL, SIZES[2]], ids=["full", "odd"])
@pytest.mark.parametrize("isa", instruction_sets())
def test_a_row_does_not_depend_on_its_batch_bit_for_bit(isa: str, size: MambaConfig, make_weights: MakeWeights) -> None:
    """However a batch is cut, every vehicle's outputs and state have the same bits, from wide weights and narrow ones."""
    backend = CpuBackend(size, make_weights(size), isa=isa, threads=2)
    start, features, ratio = random_state(size, 61), torch.randn(61, size.d_input), random_ratio(61).float()
    results = []
    for rows_at_once in (61, 1, 5, 7, 25):
        pool = poisoned_pool(size, 62, backend.device)
        pool.write(torch.arange(1, 62), start)
        parts = [
            backend.step(pool, 1 + rows, features[rows], ratio[rows]) for rows in torch.arange(61).split(rows_at_once)
        ]
        results.append((torch.cat([part.forecast_mean for part in parts]), pool.ssm[1:], pool.conv[1:]))
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


@needs_extension
def test_every_elementary_function_holds_at_the_extremes(make_weights: MakeWeights) -> None:
    """Inputs and step sizes far out in both directions give finite results that equal float64."""
    for isa in instruction_sets():
        for scale in (1e-3, 30.0, 3_000.0):
            weights = make_weights(SMALL)
            for block in weights.mamba1_blocks():
                block.dt_proj_bias.copy_(torch.linspace(-80, 80, SMALL.d_inner))
                block.conv1d_bias.copy_(torch.linspace(-scale, scale, SMALL.d_inner))
            backend = CpuBackend(SMALL, weights, isa=isa)
            start, features, ratio = random_state(SMALL, 9), torch.randn(9, SMALL.d_input).double(), random_ratio(9)
            truth, after = network_step(SMALL, weights, features, ratio, start)
            pool = StatePool(SMALL, 10, backend.device)
            pool.write(torch.arange(1, 10), start)
            output = backend.step(pool, torch.arange(1, 10), features.float(), ratio.float())
            assert relative_error(output.forecast_mean, truth.forecast_mean) < 1e-4
            assert relative_error(pool.ssm[1:], after.ssm) < 1e-4


@needs_extension
def test_packed_sequences_of_different_lengths_equal_the_float64_scan(
    config: MambaConfig, weights: NetworkWeights
) -> None:
    """Lengths around the block of rows, zero among them: outputs at every step and last states, in place."""
    backend = CpuBackend(config, weights)
    lengths = torch.tensor([3, 0, 60, 1, 24, 25, 7, 100, 2])[torch.randperm(9)]
    slots = 1 + torch.randperm(12)[:9]
    start, features = random_state(config, 9), torch.randn(int(lengths.sum()), config.d_input).double()
    ratio = random_ratio(int(lengths.sum()))
    pool = poisoned_pool(config, 13, backend.device)
    pool.write(slots, start)
    output = backend.scan_packed(pool, slots, lengths, features.float(), ratio.float())
    ends = lengths.cumsum(0)
    for i, (length, end) in enumerate(zip(lengths.tolist(), ends.tolist(), strict=True)):
        one = RecurrentState(start.conv[i : i + 1], start.ssm[i : i + 1])
        if length == 0:
            assert torch.equal(pool.ssm[slots[i]].double(), one.ssm[0])
            continue
        rows = slice(end - length, end)
        truth, last = network_scan(config, weights, features[None, rows], ratio[None, rows], one)
        assert relative_error(output.risk_logit[None, rows], truth.risk_logit) < 1e-4
        assert relative_error(output.forecast_mean[None, rows], truth.forecast_mean) < 1e-4
        assert relative_error(pool.ssm[slots[i]][None], last.ssm) < 1e-5
        assert relative_error(pool.read(slots[i : i + 1]).conv, last.conv) < 1e-5


@needs_extension
@pytest.mark.parametrize("size", [FULL, SIZES[1], replace(SMALL, d_state=21)], ids=["full", "odd", "odd state"])
@pytest.mark.parametrize("isa", instruction_sets())
def test_a_replay_equals_its_steps_bit_for_bit(isa: str, size: MambaConfig, make_weights: MakeWeights) -> None:
    """Journals of 0 to 40 samples, some vehicles ending in every block of rows and some in none; all outputs or the last."""
    backend = CpuBackend(size, make_weights(size), isa=isa)
    lengths = torch.tensor([0, 40, 1, 1, 1, 17, 30, 3])
    n, ends = len(lengths), lengths.cumsum(0)
    start, features = random_state(size, n), torch.randn(int(ends[-1]), size.d_input)
    ratio = torch.exp(torch.randn(len(features)))
    pools = [poisoned_pool(size, n + 1, backend.device) for _ in range(3)]
    for pool in pools:
        pool.write(torch.arange(1, n + 1), start)
    every = backend.scan_packed(pools[1], torch.arange(1, n + 1), lengths, features, ratio)
    last = backend.scan_packed(pools[2], torch.arange(1, n + 1), lengths, features, ratio, last_only=True)
    for i in range(1, n):
        for row in range(int(ends[i - 1]), int(ends[i])):
            output = backend.step(pools[0], torch.tensor([i + 1]), features[row, None], ratio[row, None])
            assert torch.equal(join_outputs(output), join_outputs(every)[row, None])
        assert torch.equal(join_outputs(output), join_outputs(last)[i, None])
    assert join_outputs(last)[0].isnan().all()
    for pool in pools[1:]:
        assert torch.equal(pool.ssm[1:], pools[0].ssm[1:])
        assert torch.equal(pool.conv[1:], pools[0].conv[1:])


@needs_extension
@pytest.mark.slow
def test_a_day_of_steps_at_full_size_on_every_instruction_set(make_weights: MakeWeights) -> None:
    """17,280 steps of the product's network: state within 1e-4 of the float64 scan, and stepping equals our scan."""
    weights, length = make_weights(FULL), 17_280
    features = torch.randn(1, length, FULL.d_input).double()
    ratio = torch.where(torch.rand(1, length) < 0.01, random_ratio(1, length), 1.0)
    _, truth = network_scan(FULL, weights, features, ratio, scan=CHUNKED)
    rows, ratios = features.float()[0].split(1), ratio.float()[0].split(1)
    for isa in instruction_sets():
        backend, pool, slot = (
            CpuBackend(FULL, weights, isa=isa),
            StatePool(FULL, 2, torch.device("cpu")),
            torch.tensor([1]),
        )
        for row, row_ratio in zip(rows, ratios, strict=True):
            backend.step(pool, slot, row, row_ratio)
        assert relative_error(pool.ssm[1:], truth.ssm) < 1e-4
        _, scanned = backend.scan(features, ratio, None)
        assert relative_error(scanned.ssm, truth.ssm) < 1e-4


@needs_extension
def test_what_does_not_fit_is_refused(config: MambaConfig, weights: NetworkWeights) -> None:
    """C++ works on addresses, so wrong shapes, dtypes and slots never reach it."""
    backend, pool = CpuBackend(config, weights), StatePool(config, 4, torch.device("cpu"))
    features, ratio = torch.randn(2, config.d_input), torch.ones(2)
    before = pool.ssm.clone()
    with pytest.raises(IndexError, match="slot 4 is not in the pool"):
        backend.step(pool, torch.tensor([1, 4]), features, ratio)
    with pytest.raises(IndexError, match="slot -1"):
        backend.step(pool, torch.tensor([-1, 2]), features, ratio)
    with pytest.raises(ValueError, match="2 rows need features"):
        backend.step(pool, torch.tensor([1, 2]), features[:, 1:], ratio)
    with pytest.raises(ValueError, match="ratio"):
        backend.step(pool, torch.tensor([1, 2]), features, ratio[:1])
    with pytest.raises(ValueError, match="lengths"):
        backend.scan_packed(pool, torch.tensor([1, 2]), torch.tensor([2]), features, ratio)
    with pytest.raises(ValueError, match="length must not be negative"):
        backend.scan_packed(pool, torch.tensor([1, 2]), torch.tensor([3, -1]), features, ratio)
    with pytest.raises(ValueError, match="the pool holds states of"):
        backend.step(
            StatePool(replace(config, d_state=7), 4, torch.device("cpu")), torch.tensor([1, 2]), features, ratio
        )
    with pytest.raises(ValueError, match="cannot run instruction set 'sse9'"):
        CpuBackend(config, weights, isa="sse9")
    assert torch.equal(pool.ssm, before)


@needs_extension
def test_an_empty_batch_does_nothing(config: MambaConfig, weights: NetworkWeights) -> None:
    """No vehicles, no outputs, no change."""
    backend, pool = CpuBackend(config, weights), StatePool(config, 4, torch.device("cpu"))
    output = backend.step(pool, torch.tensor([], dtype=torch.int64), torch.empty(0, config.d_input), torch.empty(0))
    assert output.risk_logit.shape == (0,)
    assert not pool.ssm.any()


def test_without_the_extension_cpu_is_refused_and_auto_says_what_it_takes(
    config: MambaConfig, weights: NetworkWeights, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where there was no compiler the torch reference serves, and start-up says so."""
    monkeypatch.setattr(backend_module, "missing_for_cpu", lambda: "no compiler was here")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailableError, match="no compiler was here"):
        choose_backend("cpu", config, weights)
    with caplog.at_level(logging.INFO, logger="kernels.backend"):
        assert choose_backend("auto", config, weights).name == "reference"
    assert "no compiler was here" in caplog.text
    assert "backend auto chose reference" in caplog.text
