"""The state engine over a real Valkey: writers that fight, answers that come from the truth, runs and batches."""

import asyncio
import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from model.checkpoint import Checkpoint
from model.runtime import StepScores
from service.errors import StoreUnavailable
from service.samples import Answers, Status
from tests.processes import ValkeyProcess
from tests.service.workers import close_to, count, policy, run, told, words, worker


def test_a_conflict_recomputes_from_what_the_winner_wrote(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """Two workers take turns on one vehicle; the one whose cache is behind loses, reloads and applies on top."""
    one, two = (worker(valkey.url, checkpoint) for _ in range(2))

    async def scenario() -> None:
        for i in range(12):
            answers = await (one if i % 2 else two).apply((vehicle, i))
            assert words(answers) == ["applied"]
        state = await one.state(vehicle)
        assert (state.epoch, state.seq) == (1, 11)
        assert close_to(state, one.offline(12))
        assert sum(count(each.metrics.commit_conflicts) for each in (one, two)) == 10  # every turn after the first two

    run([one, two], scenario)


@pytest.mark.parametrize("snapshot_every", [1, 2, 60])
def test_two_workers_at_once_apply_each_sample_exactly_once(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str, snapshot_every: int
) -> None:
    """The same samples sent to both at the same moment: one applies, the other says duplicate; the state is right."""
    one, two = (worker(valkey.url, checkpoint, snapshot_every=snapshot_every) for _ in range(2))

    async def scenario() -> None:
        for i in range(25):
            answers = await asyncio.gather(one.apply((vehicle, i)), two.apply((vehicle, i)))
            assert sorted(words(answers[0]) + words(answers[1])) == ["applied", "duplicate"]
        await asyncio.gather(one.written(), two.written())
        for each in (one, two, fresh):
            assert (await each.state(vehicle)).seq == 24
            assert close_to(await each.state(vehicle), each.offline(25))

    fresh = worker(valkey.url, checkpoint)
    run([one, two, fresh], scenario)


def test_two_workers_fight_over_runs_of_many_vehicles(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """Runs of three samples of six vehicles sent to both at once, again and again, until all are accepted."""
    one, two = (worker(valkey.url, checkpoint, snapshot_every=5) for _ in range(2))
    names = [f"{vehicle}.{i}" for i in range(6)]

    async def scenario() -> None:
        for first in range(0, 18, 3):
            batch = [(name, i) for name in names for i in range(first, first + 3)]
            while True:
                sent = await asyncio.gather(one.apply(*batch), two.apply(*batch))
                assert set(words(sent[0]) + words(sent[1])) <= {"applied", "duplicate", "deferred"}
                if all(answers.all_accepted() for answers in sent):
                    break
        await asyncio.gather(one.written(), two.written())
        for name in names:
            state = await one.state(name)
            assert state.seq == 17
            assert close_to(state, one.offline(18))

    run([one, two], scenario)


def test_one_vehicles_conflict_does_not_fail_its_batch(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """In a batch of three where one was moved by another worker, all three are applied."""
    one, two = (worker(valkey.url, checkpoint) for _ in range(2))
    names = [f"{vehicle}.{i}" for i in range(3)]

    async def scenario() -> None:
        await one.apply(*((name, 0) for name in names))
        await two.apply((names[1], 1))
        answers = await one.apply((names[0], 1), (names[1], 2), (names[2], 1))
        assert words(answers) == ["applied"] * 3
        for name, n in zip(names, (2, 3, 2), strict=True):
            assert close_to(await one.state(name), one.offline(n))

    run([one, two], scenario)


def test_a_refusal_from_a_cached_head_is_confirmed(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """After another worker's reset, what our cache calls a duplicate is a new sample of the new session."""
    one, two = (worker(valkey.url, checkpoint) for _ in range(2))

    async def scenario() -> None:
        await one.run(vehicle, 0, 3)
        assert await two.engine.reset(vehicle) == 2
        assert words(await one.apply((vehicle, 0))) == ["applied"]
        state = await one.state(vehicle)
        assert (state.epoch, state.seq) == (2, 0)

    run([one, two], scenario)


def test_eviction_loses_nothing(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """Ten vehicles in turn through three slots end in the states of the offline scan."""
    small = worker(valkey.url, checkpoint, n_slots=4, snapshot_every=3)
    names = [f"{vehicle}.{i}" for i in range(10)]

    async def scenario() -> None:
        for i in range(8):
            for first in range(0, 10, 2):
                answers = await small.apply((names[first], i), (names[first + 1], i))
                assert words(answers) == ["applied"] * 2
        for name in names:
            assert close_to(await small.state(name), small.offline(8))
        assert count(small.metrics.slots_used) == 3

    run([small], scenario)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_long_runs_equal_single_samples(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str, backend: str
) -> None:
    """One van's samples one by one, in runs of odd lengths, and all at once: the same answers, state and head."""
    under_test = worker(valkey.url, checkpoint, backend=backend, snapshot_every=20)
    singles, runs, whole = (f"{vehicle}.{kind}" for kind in ("singles", "runs", "whole"))
    n = 90

    async def scenario() -> None:
        one_by_one = [await under_test.apply((singles, i)) for i in range(n)]
        cuts = [0, 1, 8, 9, 40, 71, n]
        in_runs = [await under_test.run(runs, a, b) for a, b in itertools.pairwise(cuts)]
        at_once = [await under_test.run(whole, 0, n)]
        truth = under_test.offline(n)
        for answers in (one_by_one, in_runs, at_once):
            assert {word for part in answers for word in words(part)} == {"applied"}
            assert column("risk", answers) == pytest.approx(truth.risk, rel=1e-3)  # fp32 against float64
            surprise = pytest.approx(column("surprise", one_by_one), rel=1e-3, abs=1e-4, nan_ok=True)
            assert column("surprise", answers) == surprise
            assert np.array_equal(column("seq", answers), np.arange(n))
        for name in (singles, runs, whole):
            assert close_to(await under_test.state(name), truth)
        heads = [(await under_test.head(name))[0] for name in (singles, runs, whole)]
        for field in ("epoch", "seq", "last_ts_ms", "accepted", "samples", "n_intervals"):
            assert len({int(head[field]) for head in heads}) == 1, field
        assert len({head["preprocess"].tobytes() for head in heads}) == 1

    run([under_test], scenario)


def column(name: str, answers: list[Answers]) -> np.ndarray:
    """One column of several answers."""
    return np.concatenate([getattr(part, name) for part in answers])


def test_a_batch_of_many_equals_one_by_one(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """Vehicles that share batches with others, shuffled, end in the state that each reaches alone."""
    under_test = worker(valkey.url, checkpoint)
    together, alone = ([f"{vehicle}.{kind}{i}" for i in range(5)] for kind in "ta")
    rng = np.random.default_rng()

    async def scenario() -> None:
        risks: dict[tuple[int, int], float] = {}
        for i in range(12):
            order = rng.permutation(5)
            answers = await under_test.apply(*((together[k], i) for k in order))
            risks |= {(k, i): answers.risk[place] for place, k in enumerate(order.tolist())}
        for k, name in enumerate(alone):
            for i in range(12):
                answers = await under_test.apply((name, i))
                assert answers.risk[0] == pytest.approx(risks[k, i], rel=1e-5)
        for one, other in zip(together, alone, strict=True):
            assert close_to(await under_test.state(one), under_test.offline(12))
            assert close_to(await under_test.state(other), under_test.offline(12))

    run([under_test], scenario)


def test_rows_of_one_batch_know_of_each_other(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """A sample repeated within its batch gets the answer of the first; a late one and another content are refused."""
    under_test = worker(valkey.url, checkpoint)
    other = f"{vehicle}.other"

    async def scenario() -> None:
        rows = under_test.samples((vehicle, 0), (other, 7), (vehicle, 2), (vehicle, 0), (vehicle, 1), (vehicle, 2))
        rows.digest[5] ^= np.uint64(1)
        answers = await under_test.engine.apply(rows)
        assert words(answers) == ["applied", "applied", "applied", "duplicate", "late", "conflict"]
        assert answers.risk[3] == answers.risk[0]
        assert answers.reasons[4] == "seq 1 comes after seq 2 was accepted"
        assert "other content" in answers.reasons[5]

    run([under_test], scenario)


def test_a_store_that_is_gone_defers_and_forgets(
    tmp_path_factory: pytest.TempPathFactory, checkpoint: Checkpoint, vehicle: str
) -> None:
    """While the store is down samples are deferred with the reason; afterwards the stream goes on where the truth is."""
    own = ValkeyProcess(tmp_path_factory.mktemp("own"))
    own.start()
    under_test = worker(own.url, checkpoint)

    async def scenario() -> None:
        await under_test.run(vehicle, 0, 3)
        own.kill()
        answers = await under_test.apply((vehicle, 3))
        assert words(answers) == ["deferred"]
        assert answers.seq[0] == 3
        assert "store" in answers.reasons[0]
        with pytest.raises(StoreUnavailable):
            await under_test.engine.reset(vehicle)
        own.start()
        assert words(await under_test.run(vehicle, 0, 5)) == ["duplicate"] * 3 + ["applied"] * 2
        assert close_to(await under_test.state(vehicle), under_test.offline(5))

    try:
        run([under_test], scenario)
    finally:
        own.stop_if_running()


def test_a_firing_alert_outlives_a_cold_start(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """When the state is lost, a firing alert goes on and resolves under the same id when risk is low."""
    alarmed = worker(valkey.url, checkpoint, alerts=policy(threshold=1e-9))
    calm = worker(valkey.url, checkpoint)

    async def scenario() -> None:
        await alarmed.apply((vehicle, 0))
        (firing,) = await calm.alerts(vehicle)
        with valkey.client as client:
            client.delete(*client.keys(f"*v:{vehicle}:journal"))
        await calm.apply((vehicle, 1))
        (resolved,) = await calm.alerts(vehicle)
        assert (resolved["phase"], resolved["id"]) == ("resolved", firing["id"])
        assert count(calm.metrics.alert_transitions, "thermal_risk", "resolved") == 1
        assert count(calm.metrics.state_resets, "unusable") == 1

    run([alarmed, calm], scenario)


def test_a_risk_that_is_not_finite_is_refused_and_stored_nowhere(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row's NaN is its own: it is refused with the reason, its neighbours of the run and of the batch are applied."""
    under_test = worker(valkey.url, checkpoint)
    other = f"{vehicle}.other"

    async def scenario() -> None:
        await under_test.apply((vehicle, 0), (other, 0))
        scan = under_test.engine._advance._runtime.scan

        def broken(slots: Any, lengths: Any, features: Any) -> StepScores:
            scores = scan(slots, lengths, features)
            scores.risk[1] = np.nan
            monkeypatch.undo()
            return scores

        monkeypatch.setattr(under_test.engine._advance._runtime, "scan", broken)
        answers = await under_test.apply((vehicle, 1), (vehicle, 2), (vehicle, 3), (other, 1))
        assert words(answers) == ["applied", "invalid", "applied", "applied"]
        assert "finite" in answers.reasons[1]
        state = await under_test.state(vehicle)
        assert state.seq == 3
        assert close_to(await under_test.state(other), under_test.offline(2))
        assert words(await under_test.apply((vehicle, 2))) == ["late"]

    run([under_test], scenario)


def test_a_resolved_alert_outlives_further_resets(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """The last alert of a vehicle stays on record when its next session is reset too."""
    under_test = worker(valkey.url, checkpoint, alerts=policy(threshold=1e-9))

    async def scenario() -> None:
        await under_test.apply((vehicle, 0))
        for _ in range(2):
            await under_test.engine.reset(vehicle)
        assert [a["phase"] for a in await under_test.alerts(vehicle)] == ["resolved"]

    run([under_test], scenario)


def test_many_lists_at_once_leave_the_store_to_telemetry(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """A hundred list requests at once neither fail nor make a sample fail."""
    under_test = worker(valkey.url, checkpoint)

    async def scenario() -> None:
        lists = [asyncio.create_task(under_test.store.roll.by_risk(10, None)) for _ in range(100)]
        await under_test.stream(vehicle, 0, 3)
        assert len(await asyncio.gather(*lists)) == 100

    run([under_test], scenario)


def test_alerts_commit_with_the_sample_and_end_with_the_session(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """A firing alert is in the store when its sample is answered; a reset resolves it; the stream has every change."""
    under_test = worker(valkey.url, checkpoint, alerts=policy(threshold=1e-9))

    async def scenario() -> None:
        await under_test.run(vehicle, 0, 4)  # fires at its first sample, and stays
        (alert,) = await under_test.alerts(vehicle)
        assert (alert["phase"], alert["seq"], alert["rule"]) == ("firing", 0, "thermal_risk")
        await under_test.engine.reset(vehicle)
        (resolved,) = await under_test.alerts(vehicle)
        assert (resolved["phase"], resolved["id"]) == ("resolved", alert["id"])
        with valkey.client as client:
            assert [r["transition"] for r in told(client, vehicle)] == ["pending", "firing", "resolved"]

    run([under_test], scenario)


def test_several_alerts_within_one_run_are_all_told(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run in which an alert fires, resolves and fires again puts every change on the stream, in order."""
    under_test = worker(valkey.url, checkpoint, alerts=policy(threshold=0.5))
    scan = under_test.engine._advance._runtime.scan

    def made_up(slots: Any, lengths: Any, features: Any) -> StepScores:
        return replace(scan(slots, lengths, features), risk=np.array([0.1, 0.9, 0.1, 0.8]))

    monkeypatch.setattr(under_test.engine._advance._runtime, "scan", made_up)

    async def scenario() -> None:
        answers = await under_test.run(vehicle, 0, 4)
        assert answers.phase.tolist() == [0, 2, 0, 2]
        with valkey.client as client:
            records = told(client, vehicle)
        changes = ["pending", "firing", "recovering", "resolved", "pending", "firing"]
        assert [record["transition"] for record in records] == changes
        assert [record["seq"] for record in records] == [1, 1, 2, 2, 3, 3]
        assert len({record["event_id"] for record in records}) == 6

    run([under_test], scenario)


def test_batches_of_other_vehicles_go_on_while_one_is_under_way(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """Forty batches at once over overlapping vehicles: each vehicle's samples are applied once and in order."""
    under_test = worker(valkey.url, checkpoint, snapshot_every=4)
    names = [f"{vehicle}.{i}" for i in range(6)]

    async def scenario() -> None:
        batches = [[(names[(i + k) % 6], i) for k in range(3)] for i in range(40)]
        answers = await asyncio.gather(*(under_test.apply(*batch) for batch in batches))
        assert {word for part in answers for word in words(part)} == {"applied"}
        for k, name in enumerate(names):
            seqs = [i for i in range(40) if (k - i) % 6 < 3]
            samples = under_test.samples(*((name, i) for i in seqs))
            truth = under_test.offline_of(samples)
            assert close_to(await under_test.state(name), truth)

    run([under_test], scenario)


def test_no_vehicle_gets_more_than_its_answer(valkey: ValkeyProcess, checkpoint: Checkpoint) -> None:
    """Nothing in, nothing out."""
    under_test = worker(valkey.url, checkpoint)

    async def scenario() -> None:
        assert len(await under_test.apply()) == 0
        assert Status.APPLIED not in (await under_test.apply()).status

    run([under_test], scenario)
