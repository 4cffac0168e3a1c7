"""docs/scale.md: what it states is stated by others too, its tables are rendered, and the simulation is near what was measured."""

import re
from itertools import pairwise

import pytest

from loadtest.capacity import PAGE, Given, Prices, checks, costs, need, rendered
from loadtest.worker_simulation import Worker, closed_loop, open_loop
from model.checkpoint import load_checkpoint
from service.engine.vehicle_bytes import vehicle_bytes
from tests.conftest import REPOSITORY


def test_what_is_given_is_what_its_source_says() -> None:
    """Bytes of a vehicle by the service's own account, the GPU's step by the page on kernels."""
    given, checkpoint = Given(), load_checkpoint()
    assert vehicle_bytes(checkpoint, 60, "fp32")["total_in_store"] == given.store_bytes
    assert vehicle_bytes(checkpoint, 60, "int8")["total_in_store"] == given.store_bytes_int8
    assert vehicle_bytes(checkpoint, 60, "fp32")["total_in_worker"] == given.worker_bytes
    kernels = (REPOSITORY / "docs" / "kernels.md").read_text()
    (step,) = re.findall(rf"^\| {given.gpu_batch:,} \| ([\d.]+) \|", kernels, re.MULTILINE)  # the H100's table
    assert float(step) == given.gpu_step_us
    for stated in (given.store_bytes, given.store_bytes_int8, given.worker_bytes):
        assert f"{stated:,}" in PAGE.read_text()


def test_the_page_is_what_the_command_writes() -> None:
    """From the reports beside it; every generated part is there and filled."""
    text = PAGE.read_text()
    assert text == rendered(text), "run python -m loadtest.capacity --write"
    assert len(re.findall(r"<!-- (\w+) -->\n\n\|.*?<!-- /\1 -->", text, re.DOTALL)) == 4


def test_the_simulation_agrees_with_what_was_measured() -> None:
    """Within a third, at sizes that it was not fitted to; the figures are those of docs/scale.md and do not move."""
    found = checks(costs())
    assert len(found) == 6
    for check in found:
        assert 0.67 <= check.ratio <= 1.5, check


def test_a_busier_worker_makes_larger_batches_and_cheaper_samples() -> None:
    """And a rate that it can take is a rate that it serves."""
    worker = Worker(per_batch_us=300.0, per_row_us=30.0, per_post_us=200.0)
    runs = [open_loop(worker, rate, 3_000) for rate in (50.0, 400.0, 1_500.0, 3_000.0)]
    for slower, faster in pairwise(runs):
        assert faster.batch > slower.batch
        assert faster.cpu_us < slower.cpu_us
    assert runs[1].rate == pytest.approx(400.0, rel=0.1)
    most = closed_loop(worker, 64)
    assert most.rate * most.cpu_us == pytest.approx(1e6, rel=0.02), "the core is never idle"
    assert closed_loop(worker, 1, 1_000).batch == pytest.approx(1.0, rel=0.01)


def test_needs_grow_with_the_fleet() -> None:
    """Ten times the vans need ten times of everything, and a million samples cost about the same."""
    of = costs()
    small, large = (need(vans, of, batches=True, int8=False) for vans in (1_000_000, 10_000_000))
    assert large.rate == 10 * small.rate == 2_000_000
    assert large.worker_cores == pytest.approx(10 * small.worker_cores)
    assert large.shards_by_memory == pytest.approx(10 * small.shards_by_memory)
    assert large.per_million(Prices()) == pytest.approx(small.per_million(Prices()), rel=0.05)
    assert large.first == "memory of the store"
    assert need(1_000_000, of, batches=True, int8=True).shards < small.shards
    assert small.gpus_by_step < 1 < small.gpus_by_memory
