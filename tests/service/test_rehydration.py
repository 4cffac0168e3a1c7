"""From the store back into a cache: what streaming gave, or a cold start that says so."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from model.checkpoint import Checkpoint
from model.network import RiskNetwork
from service.engine.vehicle_bytes import vehicle_bytes
from service.records.head import VERSION
from service.store.store_keys import partition_of
from tests.processes import ValkeyProcess
from tests.service.workers import PARTITIONS, close_to, count, run, words, worker


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("n", [1, 5, 6, 64, 131])
def test_rehydration_equals_streaming(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str, backend: str, n: int
) -> None:
    """After any number of samples another worker has the state of the float64 scan, and goes on from it."""
    writer, reader = (worker(valkey.url, checkpoint, snapshot_every=50, backend=backend) for _ in range(2))

    async def scenario() -> None:
        await writer.stream(vehicle, 0, n)
        await writer.written()
        assert close_to(await reader.state(vehicle), reader.offline(n))
        await reader.stream(vehicle, n, n + 3)
        assert close_to(await reader.state(vehicle), reader.offline(n + 3))
        source = "snapshot" if (await reader.store.bases([vehicle]))[0][4:8] == n.to_bytes(4, "little") else "journal"
        assert count(reader.metrics.rehydrations, source) == 1

    run([writer, reader], scenario)


def test_a_network_of_mamba_2_blocks_is_served(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """`auto` finds a backend for it; snapshots of its wider convolution, a takeover and the stated sizes are right."""
    config = replace(checkpoint.config, d_model=16, n_layer=2, d_state=8, block="mamba2", head_dim=8)
    network = RiskNetwork(config).requires_grad_(requires_grad=False)
    other = replace(checkpoint, network=network)
    writer, reader = (worker(valkey.url, other, snapshot_every=20, backend="auto") for _ in range(2))

    async def scenario() -> None:
        await writer.run(vehicle, 0, 30)
        await writer.stream(vehicle, 30, 45)
        await writer.written()
        assert close_to(await reader.state(vehicle), reader.offline(45))
        await reader.stream(vehicle, 45, 48)
        assert close_to(await reader.state(vehicle), reader.offline(48))
        held = await reader.state(vehicle)
        assert held.conv.nbytes + held.ssm.nbytes == vehicle_bytes(other, 20, "fp32")["state"]

    run([writer, reader], scenario)


def test_many_vans_are_replayed_together(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """Vans with snapshots and journals of different lengths, some new, one foreign: one batch, every state right."""
    writer = worker(valkey.url, checkpoint, n_slots=80, snapshot_every=7, backend="cpu")
    reader = worker(valkey.url, checkpoint, n_slots=80, backend="cpu")
    lengths = {f"{vehicle}.{i}": i for i in range(40)}

    async def scenario() -> None:
        for name, n in lengths.items():
            if n:
                await writer.run(name, 0, n)
        await writer.written()
        answers = await reader.apply(*lengths.items())
        assert words(answers) == ["applied"] * 40
        for name, n in lengths.items():
            assert close_to(await reader.state(name), reader.offline(n + 1))

    run([writer, reader], scenario)


DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes | None]]] = {
    "a damaged snapshot": ("snap:*", lambda data: data[:1_000] + b"\x55\x55\x55\x55" + data[1_004:]),
    "a snapshot that is gone": ("snap:*", lambda _: None),
    "a damaged journal": ("journal", lambda data: data[:-9] + b"\x55" + data[-8:]),
    "a journal that is gone": ("journal", lambda _: None),
    "a damaged head": ("head", lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:]),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_starts_cold_and_is_counted(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str, name: str
) -> None:
    """What is gone or damaged is never loaded: zero state, warm-up, a counter; the session goes on and heals."""
    writer, reader, third = (worker(valkey.url, checkpoint, snapshot_every=4) for _ in range(3))
    pattern, damage = DAMAGE[name]

    async def scenario() -> None:
        for i in range(10):
            await writer.stream(vehicle, i, i + 1)
            await writer.written()
        with valkey.client as client:
            (key,) = client.keys(f"*v:{vehicle}:{pattern}")
            data = damage(client.get(key))
            client.delete(key) if data is None else client.set(key, data)
        assert words(await reader.apply((vehicle, 9))) == ["duplicate"]
        answers = await reader.apply((vehicle, 10))
        assert (words(answers), answers.warming_up[0]) == (["applied"], 0)  # the test's policy has no warm-up
        assert count(reader.metrics.state_resets, "unusable") == 1
        late = reader.samples((vehicle, 11))
        late = replace(late, ts_ms=late.ts_ms - 60_000)
        assert words(await reader.engine.apply(late)) == ["late"]
        head = (await reader.head(vehicle))[0]
        assert (int(head["samples"]), int(head["seq"])) == (1, 10)
        for i in range(11, 20):
            await reader.stream(vehicle, i, i + 1)
            await reader.written()
        assert close_to(await third.state(vehicle), third.offline(20, first=10))
        assert count(third.metrics.state_resets, "unusable") == 0

    run([writer, reader, third], scenario)


def test_another_models_state_starts_cold(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """A new model version finds the old one's heads: session, answers and numbers stay, the state begins anew."""
    other_model = replace(checkpoint, prior=replace(checkpoint.prior, prior_weight=1.0))
    old, new, third = (worker(valkey.url, model) for model in (checkpoint, other_model, other_model))

    async def scenario() -> None:
        before = await old.run(vehicle, 0, 5)
        retried = await new.apply((vehicle, 4))
        assert words(retried) == ["duplicate"]
        assert retried.risk[0] == before.risk[4]
        assert words(await new.run(vehicle, 5, 9)) == ["applied"] * 4
        assert count(new.metrics.state_resets, "model") == 1
        assert words(await third.apply((vehicle, 3))) == ["duplicate"]
        assert close_to(await third.state(vehicle), third.offline(9, first=5))
        assert count(third.metrics.state_resets, "model") == 0

    run([old, new, third], scenario)


def test_a_head_of_another_layout_goes_on_where_it_was(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """What another version wrote, or rubbish, is salvaged and committed over; the rest of the batch does not notice."""
    under_test = worker(valkey.url, checkpoint)
    other, short = f"{vehicle}.other", f"{vehicle}.short"

    def key(name: str, kind: str) -> str:
        return f"{{ew:{partition_of(name, PARTITIONS)}}}:v:{name}:{kind}"

    async def scenario() -> None:
        with valkey.client as client:
            earlier = VERSION.pack(4, 1, 0, 20, 77, 1_760_000_000_000) + b"the first layout"
            client.set(key(vehicle, "head"), earlier)
            client.set(key(vehicle, f"snap:4:20:{77:016x}"), b"to which that head pointed")
            client.set(key(short, "head"), b"rubbish")
        answers = await under_test.apply((vehicle, 20), (other, 0), (short, 0))
        assert words(answers) == ["duplicate", "applied", "applied"]
        answers = await under_test.apply((vehicle, 21), (other, 1), (short, 1))
        assert words(answers) == ["applied"] * 3
        state = await under_test.state(vehicle)
        assert (state.epoch, state.seq) == (4, 21)
        assert count(under_test.metrics.commit_conflicts) == 0
        with valkey.client as client:
            assert not client.exists(key(vehicle, f"snap:4:20:{77:016x}"))

    run([under_test], scenario)


@pytest.mark.slow
def test_a_fleet_comes_back_fast(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """A thousand vans with thirty samples to replay each take a tenth of half the time of two cores that 10,000 may."""
    n = 1_000
    writer, reader = (worker(valkey.url, checkpoint, n_slots=n + 20, backend="cpu") for _ in range(2))
    names = [f"{vehicle}.{i}" for i in range(n)]

    async def scenario() -> None:
        for first in range(0, n, 100):
            await writer.apply(*((name, i) for name in names[first : first + 100] for i in range(200)))
            await writer.apply(*((name, i) for name in names[first : first + 100] for i in range(200, 230)))
        started = time.process_time()
        for first in range(0, n, 250):
            answers = await reader.apply(*((name, 230) for name in names[first : first + 250]))
            assert answers.all_accepted()
        took = time.process_time() - started
        assert count(reader.metrics.rehydrations, "journal") == n
        assert took < 3.0
        assert close_to(await reader.state(names[-1]), reader.offline(231))

    run([writer, reader], scenario)
