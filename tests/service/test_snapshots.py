"""Snapshots and journals in a real Valkey: what is written when, what a crash at each point leaves, what is trimmed."""

import asyncio
import itertools

import pytest

from model.checkpoint import Checkpoint
from service.engine.snapshots import fresh_nonce
from service.records.journal import KEEP
from service.records.state_codec import pack_snapshot, unpack_snapshot
from service.store.changes import Flip, Outcome
from service.store.store import ORPHAN_EXPIRY_S
from tests.processes import ValkeyProcess
from tests.service.workers import Worker, close_to, count, run, words, worker


async def journal_of(under_test: Worker, vehicle: str) -> tuple[int, int, int]:
    """Samples in the snapshot, entries in the journal, samples in all, as stored."""
    stored = await under_test.store.peek(vehicle)
    assert stored is not None
    head = under_test.engine.context.layout.unpack(stored.head)
    journal = under_test.engine.context.journals.unpack(stored.journal, head)
    return int(journal.base["accepted"][0]), len(journal.entries), int(head["accepted"][0])


@pytest.mark.parametrize("snapshot_every", [1, 2, 7, 60])
def test_a_snapshot_is_never_far_behind(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str, snapshot_every: int
) -> None:
    """However many samples: one head, one journal, one snapshot that never expire, and a bounded replay."""
    under_test = worker(valkey.url, checkpoint, snapshot_every=snapshot_every)
    fresh = worker(valkey.url, checkpoint)
    n = 2 * snapshot_every + 20

    async def scenario() -> None:
        for i in range(n):
            await under_test.stream(vehicle, i, i + 1)
            await under_test.written()
            base, entries, accepted = await journal_of(under_test, vehicle)
            assert accepted == i + 1
            assert accepted - base <= (0 if snapshot_every == 1 else snapshot_every)
            assert entries <= KEEP + 2 * snapshot_every
            assert entries >= min(accepted, KEEP)
        with valkey.client as client:
            keys = client.keys(f"*v:{vehicle}:*")
            assert len(keys) == 4  # head, journal, snapshot and trend
            assert [client.ttl(key) for key in keys] == [-1] * 4
        assert close_to(await under_test.state(vehicle), under_test.offline(n))
        assert close_to(await fresh.state(vehicle), fresh.offline(n))
        written = count(under_test.metrics.snapshots, "written")
        assert written == 0 if snapshot_every == 1 else written >= 2

    run([under_test, fresh], scenario)


def test_a_fleets_snapshots_do_not_come_at_once(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """Vehicles that began in one batch have their first snapshots at different samples, and all within the period."""
    under_test = worker(valkey.url, checkpoint, n_slots=40, snapshot_every=10)
    names = [f"{vehicle}.{i}" for i in range(30)]

    async def scenario() -> None:
        written = []
        for i in range(12):
            await under_test.apply(*((name, i) for name in names))
            await under_test.written()
            written.append(count(under_test.metrics.snapshots, "written"))
        assert max(b - a for a, b in itertools.pairwise(written)) < 12
        assert written[-1] >= 30

    run([under_test], scenario)


def test_a_crash_between_write_and_flip_loses_nothing(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """A snapshot that was written and not pointed to expires; the journal leads from the old one."""
    under_test, fresh = (worker(valkey.url, checkpoint, snapshot_every=4) for _ in range(2))

    async def scenario() -> None:
        await under_test.stream(vehicle, 0, 11)
        await under_test.written()
        state = await under_test.state(vehicle)
        key = under_test.store._keys(vehicle).snapshot_named(state.epoch, state.seq, fresh_nonce())
        with valkey.client as client:
            client.set(key, pack_snapshot(state), ex=ORPHAN_EXPIRY_S)  # and here the worker dies
            assert 0 < client.ttl(key) <= ORPHAN_EXPIRY_S
        assert close_to(await fresh.state(vehicle), fresh.offline(11))
        await fresh.stream(vehicle, 11, 20)
        assert close_to(await fresh.state(vehicle), fresh.offline(20))

    run([under_test, fresh], scenario)


async def flip_of(under_test: Worker, vehicle: str) -> Flip:
    """The snapshot of the state as it is, ready to be written."""
    state = await under_test.state(vehicle)
    head = (await under_test.head(vehicle))[0]
    stored = await under_test.store.peek(vehicle)
    assert stored is not None
    base = under_test.engine.context.journals.base(state.epoch, int(head["accepted"]), state.seq, fresh_nonce())
    return Flip(vehicle, stored.base, base.tobytes(), pack_snapshot(state), head["nonce"].tobytes())


def test_of_two_writers_one_flips_and_neither_harms_the_other(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """Two workers write the snapshot of the same state: the second is told, its bytes go, the first one's stay."""
    one, two, fresh = (worker(valkey.url, checkpoint, snapshot_every=10_000) for _ in range(3))

    async def scenario() -> None:
        await one.stream(vehicle, 0, 6)
        first, second = await flip_of(one, vehicle), await flip_of(two, vehicle)
        assert await one.store.flip([first]) == [Outcome.WON]
        assert await two.store.flip([second]) == [Outcome.LOST]
        with valkey.client as client:
            (key,) = client.keys(f"*v:{vehicle}:snap:*")
            assert client.ttl(key) == -1
            assert unpack_snapshot(client.get(key)).seq == 5
        assert await journal_of(one, vehicle) == (6, 6, 6)
        await two.stream(vehicle, 6, 9)
        assert close_to(await fresh.state(vehicle), fresh.offline(9))
        assert count(fresh.metrics.rehydrations, "journal") == 1

    run([one, two, fresh], scenario)


def test_a_flip_trims_what_neither_retries_nor_replay_need(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """After the flip the journal holds what came after the snapshot, and the last sixty-four answers."""
    under_test = worker(valkey.url, checkpoint, snapshot_every=10_000)

    async def scenario() -> None:
        await under_test.stream(vehicle, 0, 70)
        flip = await flip_of(under_test, vehicle)
        await under_test.stream(vehicle, 70, 75)
        assert await under_test.store.flip([flip]) == [Outcome.WON]
        assert await journal_of(under_test, vehicle) == (70, KEEP, 75)
        assert words(await under_test.run(vehicle, 75 - KEEP, 75)) == ["duplicate"] * KEEP

    run([under_test], scenario)


@pytest.mark.parametrize("change", ["reset", "another lineage"])
def test_a_snapshot_that_is_no_longer_part_of_the_history_is_refused(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str, change: str
) -> None:
    """After a reset, or when a store went back and came to the same number by other samples, the flip is refused."""
    under_test, other = (worker(valkey.url, checkpoint, snapshot_every=10_000) for _ in range(2))

    async def scenario() -> None:
        await under_test.stream(vehicle, 0, 3)
        with valkey.client as client:
            keys = client.keys(f"*v:{vehicle}:*")
            back_then = [(key, client.get(key)) for key in keys]
            await under_test.stream(vehicle, 3, 6)
            flip = await flip_of(under_test, vehicle)
            if change == "reset":
                await under_test.engine.reset(vehicle)
            else:
                for key, value in back_then:
                    client.set(key, value)
                await other.stream(vehicle, 3, 6)
            assert await under_test.store.flip([flip]) == [Outcome.LOST]
            assert not client.keys(f"*v:{vehicle}:snap:*")

    run([under_test, other], scenario)


def test_a_worker_that_was_overtaken_learns_the_new_base(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """When another worker's snapshot came first, the next one of ours continues from it."""
    one, two = (worker(valkey.url, checkpoint, snapshot_every=6) for _ in range(2))

    async def scenario() -> None:
        await one.stream(vehicle, 0, 3)
        flip = await flip_of(two, vehicle)
        assert await two.store.flip([flip]) == [Outcome.WON]
        for i in range(3, 30):
            await one.stream(vehicle, i, i + 1)
            await one.written()
        assert count(one.metrics.snapshots, "overtaken") == 1
        assert count(one.metrics.snapshots, "written") >= 3
        assert count(one.metrics.commit_conflicts) == 0  # a flip takes no cached version away
        assert close_to(await two.state(vehicle), two.offline(30))

    run([one, two], scenario)


def test_a_journal_that_vanishes_is_written_again_with_the_state(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """Somebody deleted the journal under a running worker: the sample is accepted, the next commit brings the state."""
    one, fresh = (worker(valkey.url, checkpoint) for _ in range(2))

    async def scenario() -> None:
        await one.stream(vehicle, 0, 5)
        with valkey.client as client:
            client.delete(*client.keys(f"*v:{vehicle}:journal"))
        await one.stream(vehicle, 5, 9)
        assert close_to(await one.state(vehicle), one.offline(9))
        assert close_to(await fresh.state(vehicle), fresh.offline(9))
        assert (await journal_of(one, vehicle))[0] == 7

    run([one, fresh], scenario)


def test_snapshots_that_cannot_be_written_do_not_stop_the_samples(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While flips fail the journal grows to its bound and no further: then the commit itself writes the state."""
    under_test, fresh = (worker(valkey.url, checkpoint, snapshot_every=5) for _ in range(2))

    async def nothing_arrives(flips: list[Flip]) -> list[int]:
        await asyncio.sleep(0)
        return [Outcome.NO_SNAPSHOT] * len(flips)

    monkeypatch.setattr(under_test.store, "flip", nothing_arrives)

    async def scenario() -> None:
        for i in range(40):
            await under_test.stream(vehicle, i, i + 1)
            base, _, accepted = await journal_of(under_test, vehicle)
            assert accepted - base <= 10
        assert count(under_test.metrics.snapshots, "failed") > 0
        assert close_to(await fresh.state(vehicle), fresh.offline(40))

    run([under_test, fresh], scenario)


def test_the_script_is_sent_again_after_the_store_forgot_it(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """SCRIPT FLUSH, or a store that was restarted, is not noticed by anybody."""
    under_test = worker(valkey.url, checkpoint, snapshot_every=2)

    async def scenario() -> None:
        for i in range(6):
            with valkey.client as client:
                client.script_flush()
            await under_test.stream(vehicle, i, i + 1)
        await under_test.written()
        assert count(under_test.metrics.snapshots, "written") >= 2

    run([under_test], scenario)
