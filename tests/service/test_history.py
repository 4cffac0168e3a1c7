"""What vehicles sent, kept for a model that comes later: every accepted sample once, within its bounds, scanned again."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from model.checkpoint import Checkpoint, save_checkpoint
from model.runtime import recompute
from service.engine.vehicle_transfer import Precondition
from service.records.history import ROTATED_AT, HistoryError, HistoryLayout, Retention, is_raw, pack_block, read_block
from service.records.state_codec import unpack_snapshot
from service.records.vehicle_export import unpack_export
from service.samples import Samples, Status
from tests.processes import ServiceProcess, ValkeyProcess, wait_until
from tests.service.conftest import START_MS, sample
from tests.service.workers import Worker, close_to, count, run, words, worker

NAMES = ("a", "b", "c")


def samples(first: int, last: int, signals: NDArray[np.float64] | None = None) -> Samples:
    """Samples [first, last) of three signals."""
    n = last - first
    if signals is None:
        signals = np.arange(first, last)[:, None] * np.array([0.1, 1.0, 1e-3])
    return Samples.of(
        ["van"] * n, START_MS + 5_000 * np.arange(first, last), np.arange(n), np.zeros(n, np.int64), signals
    )


def block(first: int, last: int, *, epoch: int = 1, signals: NDArray[np.float64] | None = None) -> bytes:
    """A raw block of the samples [first, last)."""
    layout = HistoryLayout(NAMES)
    numbers = np.arange(first, last)
    records = layout.records(np.full(last - first, epoch, np.uint32), numbers, samples(first, last, signals))
    return layout.header + records.tobytes()


def test_every_value_comes_back_bit_for_bit() -> None:
    """Decimal fractions, any bits, the sign of zero, huge ones, nothing at all; fractions take little room."""
    rng = np.random.default_rng(5)
    values = np.column_stack([rng.integers(0, 900, 480) / 10.0, rng.normal(size=480), rng.integers(0, 3, 480) * 1.0])
    values[7, 0] = values[9:20, 1] = values[:, 2] = np.nan
    values[30:33, 1] = -0.0, 1e308, 5e-324
    raw = block(0, 480, signals=values)
    packed = pack_block(raw)
    assert (is_raw(raw), is_raw(packed)) == (True, False)
    names, records = read_block(packed)
    assert names == NAMES
    assert records["signals"].tobytes() == read_block(raw)[1]["signals"].tobytes()
    assert (records["ts_ms"] == samples(0, 480).ts_ms).all()
    assert len(packed) < 0.3 * len(raw)
    assert len(pack_block(block(0, 480))) < 0.05 * len(raw)


@pytest.mark.parametrize("damaged", [slice(40, 41), slice(0, 1), slice(8, 9), slice(-9, -8)], ids=str)
@pytest.mark.parametrize("packed", [False, True])
def test_damage_is_an_error(damaged: slice, packed: bool) -> None:
    """A flipped bit anywhere in names or values, or a block that was cut, is never read as samples."""
    data = bytearray(pack_block(block(0, 50)) if packed else block(0, 50))
    for broken in (bytes(data[:-3]), data):
        if broken is data:
            data[damaged] = bytes(byte ^ 0x41 for byte in data[damaged])
        with pytest.raises(HistoryError):
            HistoryLayout(NAMES).retained([bytes(broken)], 1, 50, 0)


def test_only_what_leads_to_the_last_sample_is_taken() -> None:
    """Blocks in two places, other sessions, gaps, samples that came later, old ones: what remains has no gap."""
    layout = HistoryLayout(NAMES)
    earlier, first, second = block(0, 9, epoch=1), block(0, 300, epoch=2), block(300, 420, epoch=2)
    whole = layout.retained([earlier, pack_block(first), second, block(410, 450, epoch=2)], 2, 430, 0)
    assert (whole.first, len(whole.ts_ms)) == (0, 430)
    assert (whole.signals == samples(0, 430).signals).all()
    after_a_gap = layout.retained([first, block(302, 320, epoch=2)], 2, 320, 0)
    assert (after_a_gap.first, len(after_a_gap.ts_ms)) == (302, 18)
    assert len(layout.retained([first], 2, 301, 0).ts_ms) == 0
    assert len(layout.retained([earlier], 2, 9, 0).ts_ms) == 0
    assert layout.retained([first], 2, 300, START_MS + 5_000 * 200).first == 200


def test_another_schema_reads_signals_by_name() -> None:
    """What it does not know is left out, what was not kept is absent."""
    found = HistoryLayout(("c", "d", "a")).retained([block(0, 5)], 1, 5, 0)
    assert np.array_equal(found.signals[:, [0, 2]], samples(0, 5).signals[:, [2, 0]])
    assert np.isnan(found.signals[:, 1]).all()


def retention(checkpoint: Checkpoint, max_bytes: int = 1_000_000, hours: float = 48.0) -> Retention:
    """Of this checkpoint's signals."""
    return Retention(HistoryLayout(checkpoint.schema.signal_names), max_bytes, int(3_600_000 * hours))


def another(checkpoint: Checkpoint) -> Checkpoint:
    """A model with another normaliser: what the old one's network saw is of no use to it."""
    prior = replace(checkpoint.prior, prior_weight=1.0, mean=tuple(0.5 + mean for mean in checkpoint.prior.mean))
    return replace(checkpoint, prior=prior)


async def until_applied(under_test: Worker, vehicle: str, i: int) -> None:
    """Send a sample until its vehicle's state is there."""
    for _ in range(400):
        answers = await under_test.apply((vehicle, i))
        if answers.status[0] == Status.APPLIED:
            return
        assert words(answers) == ["deferred"]
        assert "rebuilt from its history" in answers.reasons[0]
        await asyncio.sleep(0.05)
    raise AssertionError("the state was never rebuilt")


def test_a_new_model_scans_the_history(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """Its state is that of the offline scan; others of the batch are not held up; what it wrote, the next worker reads."""
    kept = retention(checkpoint)
    old = worker(valkey.url, checkpoint, snapshot_every=20, backend="cpu", retention=kept)
    new, third = (worker(valkey.url, another(checkpoint), backend="cpu", retention=kept) for _ in range(2))
    n = 3 * ROTATED_AT + 37

    async def scenario() -> None:
        await old.run(vehicle, 0, ROTATED_AT + 100)
        await old.stream(vehicle, ROTATED_AT + 100, ROTATED_AT + 140)
        await old.run(vehicle, ROTATED_AT + 140, n)
        assert words(await old.apply((vehicle, n - 1), (vehicle, n - 7))) == ["duplicate"] * 2
        await old.engine.close()
        answers = await new.apply((vehicle, n), (f"{vehicle}.new", 0))
        assert words(answers) == ["deferred", "applied"]
        await until_applied(new, vehicle, n)
        assert close_to(await new.state(vehicle), new.offline(n + 1))
        assert count(new.metrics.rehydrations, "history") == 1
        assert count(new.metrics.state_resets, "model") == 0
        await new.stream(vehicle, n + 1, n + 4)
        assert words(await third.apply((vehicle, n + 2))) == ["duplicate"]
        assert close_to(await third.state(vehicle), third.offline(n + 4))
        assert int((await third.head(vehicle))[0]["samples"]) == n + 4

    run([old, new, third], scenario)


def test_the_history_has_bounds(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """Of bytes, or of time: the oldest blocks go, the list stays within its bound, the state is that of what is left."""
    narrow, short = retention(checkpoint, max_bytes=43_000), retention(checkpoint, hours=0.5)
    names = {f"{vehicle}.narrow": narrow, f"{vehicle}.short": short}

    async def scenario(name: str, old: Worker, new: Worker) -> int:
        for first in range(0, 2_000, 400):
            await old.run(name, first, first + 400)
        with valkey.client as client:
            (key,) = client.keys(f"*v:{name}:history")
            used = int(client.memory_usage(key) or 0)
        assert used <= names[name].max_bytes
        await until_applied(new, name, 2_000)
        first = 2_001 - int((await new.head(name))[0]["samples"])
        assert close_to(await new.state(name), new.offline(2_001, first=first))
        return first

    for name, kept in names.items():
        pair = [worker(valkey.url, model, backend="cpu", retention=kept) for model in (checkpoint, another(checkpoint))]
        first = run(pair, lambda name=name, pair=pair: scenario(name, *pair))  # type: ignore[misc]
        assert 0 < first < 1_800
        assert kept is narrow or first == 2_000 - 1 - 360


def test_what_has_no_history_starts_cold(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """Retention came too late, or the history is damaged: deferred, then cold, counted. A lost snapshot is healed by it."""
    kept = retention(checkpoint)
    without = worker(valkey.url, checkpoint, backend="cpu")
    old = worker(valkey.url, checkpoint, backend="cpu", retention=kept, snapshot_every=1)
    new = worker(valkey.url, another(checkpoint), backend="cpu", retention=kept)
    same = worker(valkey.url, checkpoint, backend="cpu", retention=kept)
    damaged, healed = f"{vehicle}.damaged", f"{vehicle}.healed"

    async def scenario() -> None:
        await without.run(vehicle, 0, 9)
        for name in (damaged, healed):
            await old.run(name, 0, 9)
        with valkey.client as client:
            (tail,) = client.keys(f"*v:{damaged}:tail")
            client.setrange(tail, 300, b"\x55\xaa")
            (snapshot,) = client.keys(f"*v:{healed}:snap:*")
            client.delete(snapshot)
        for name in (vehicle, damaged):
            await until_applied(new, name, 9)
            assert close_to(await new.state(name), new.offline(10, first=9))
        assert count(new.metrics.state_resets, "model") == 2
        await until_applied(same, healed, 9)
        assert close_to(await same.state(healed), same.offline(10))
        assert count(same.metrics.rehydrations, "history") == 1
        assert count(same.metrics.state_resets, "unusable") == 0

    run([without, old, new, same], scenario)


def test_a_history_ends_with_its_session(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """A reset forgets it, and so does a deletion, whether or not any is kept any more."""
    kept = worker(valkey.url, checkpoint, backend="cpu", retention=retention(checkpoint))
    off = worker(valkey.url, checkpoint, backend="cpu")

    def keys(name: str) -> list[str]:
        with valkey.client as client:
            found = {key.decode().rsplit(":", 1)[1] for key in client.keys(f"*v:{name}:*")}
        return sorted(found & {"head", "tail", "history"})

    async def scenario() -> None:
        for name, resetting in ((f"{vehicle}.a", kept), (f"{vehicle}.b", off)):
            await kept.run(name, 0, ROTATED_AT)
            await kept.run(name, ROTATED_AT, ROTATED_AT + 5)
            assert keys(name) == ["head", "history", "tail"]
            await resetting.engine.reset(name)
            assert keys(name) == ["head"]
            await kept.run(name, ROTATED_AT + 5, 2 * ROTATED_AT + 5)
            await resetting.engine.transfer.erase(name, Precondition())
            assert keys(name) == []

    run([kept, off], scenario)


def test_a_service_with_a_new_model(tmp_path: Path, checkpoint: Checkpoint) -> None:
    """Killed and started again with another checkpoint, it rebuilds what was acknowledged, and /v1/model states the bound."""
    n, folder = 2 * ROTATED_AT + 50, tmp_path / "model"
    model = another(checkpoint)
    save_checkpoint(model, folder)
    rows = [sample(i) for i in range(n + 1)]
    settings = {"retain_history": "true", "history_bytes": 300_000}
    service = ServiceProcess(tmp_path, **settings).start()  # type: ignore[arg-type]
    path = f"{service.url}/v1/vehicles/van/telemetry"
    try:
        for first in range(0, n, 130):
            assert httpx.post(path, json=rows[first : min(first + 130, n)], timeout=60).status_code == 200
        assert 300_000 < httpx.get(f"{service.url}/v1/model").json()["bytes_per_vehicle"]["history"] < 400_000
        service.kill()
        service = ServiceProcess(tmp_path, checkpoint=folder, **settings)  # type: ignore[arg-type]
        path = f"{service.start().url}/v1/vehicles/van/telemetry"
        answers: list[httpx.Response] = []

        def applied() -> bool:
            time.sleep(0.2)
            answers.append(httpx.post(path, json=rows[n], timeout=60))
            return answers[-1].status_code == 200

        wait_until(applied, "the state to be rebuilt")
        assert {answer.status_code for answer in answers[:-1]} == {503}
        assert answers[0].json()["verdict"] == "deferred"
        exported = unpack_export(httpx.get(f"{service.url}/v1/vehicles/van/state").content)
        metrics = httpx.get(f"{service.url}/metrics").text
    finally:
        service.stop_if_running()
    names = model.schema.signal_names
    signals = np.array([[row["signals"].get(name, np.nan) for name in names] for row in rows])
    truth = recompute(model, np.array([row["ts"] for row in rows]), signals)
    assert close_to(unpack_snapshot(exported.state), truth)
    assert 'emberwatch_rehydrations_total{source="history"} 1.0' in metrics
    assert 'emberwatch_state_resets_total{reason="model"} 0.0' in metrics
