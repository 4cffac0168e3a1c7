"""Sessions that begin from outside: an imported state, and a vehicle that is erased."""

from dataclasses import replace

import numpy as np
import pytest

from model.checkpoint import Checkpoint
from service.errors import StateChanged
from service.sessions import StateVersion
from service.state_codec import StateCodecError
from tests.processes import ValkeyProcess
from tests.service.workers import count, run, words, worker


def test_an_imported_state_goes_on_where_it_was(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """Bit for bit, in this worker and the next; numbers up to its seq are known, the next one is applied on top."""
    one, two = (worker(valkey.url, checkpoint, snapshot_every=3) for _ in range(2))
    source = f"{vehicle}.source"

    async def scenario() -> None:
        await one.stream(source, 0, 9)
        state = await one.state(source)
        await one.stream(vehicle, 0, 2)
        assert await one.engine.install(vehicle, state) == 2
        assert await one.engine.install(f"{vehicle}.new", state) == 1
        for name, epoch in ((vehicle, 2), (f"{vehicle}.new", 1)):
            held = await two.state(name)
            assert (held.epoch, held.seq) == (epoch, 8)
            assert np.array_equal(held.ssm, state.ssm)
            assert np.array_equal(held.conv, state.conv)
        assert words(await two.run(vehicle, 8, 15)) == ["duplicate"] + ["applied"] * 6
        await two.written()
        assert (await one.state(vehicle)).seq == 14
        with valkey.client as client:
            assert len(client.keys(f"*v:{vehicle}:snap:*")) == 1

    run([one, two], scenario)


def test_an_import_that_does_not_fit_is_refused(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """Another model's state, and one for a version that is no longer there."""
    under_test = worker(valkey.url, checkpoint)

    async def scenario() -> None:
        await under_test.stream(vehicle, 0, 3)
        exported = await under_test.engine.state(vehicle)
        assert exported is not None
        state, nonce = exported
        assert state is not None
        with pytest.raises(StateCodecError, match="model"):
            await under_test.engine.install(vehicle, replace(state, fingerprint="00" * 16))
        await under_test.stream(vehicle, 3, 4)
        with pytest.raises(StateChanged):
            await under_test.engine.install(vehicle, state, StateVersion(state.epoch, state.seq, nonce))
        with pytest.raises(StateChanged):
            await under_test.engine.install(f"{vehicle}.new", state, StateVersion(1, 0, 0))
        assert (await under_test.state(vehicle)).seq == 3

    run([under_test], scenario)


def test_an_erased_vehicle_leaves_nothing(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """Its keys, its place in the lists and its alert go; what it sends next is a new vehicle's first sample."""
    one, two = (worker(valkey.url, checkpoint, snapshot_every=2) for _ in range(2))

    async def scenario() -> None:
        await one.stream(vehicle, 0, 7)
        await one.written()
        await two.state(vehicle)
        assert await one.engine.erase(vehicle)
        assert not await one.engine.erase(vehicle)
        with valkey.client as client:
            assert not client.keys(f"*v:{vehicle}:*")
        assert vehicle not in [ranked.vehicle_id for ranked in await one.store.vehicles_by_risk(1_000, None)]
        assert await two.engine.state(vehicle) is None
        assert words(await two.run(vehicle, 0, 3)) == ["applied"] * 3
        assert int((await one.head(vehicle))[0]["epoch"]) == 1
        assert count(two.metrics.state_resets, "unusable") == 0

    run([one, two], scenario)
