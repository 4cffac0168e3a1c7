"""A batch computed before the one that it follows is committed: right in every case, or thrown away."""

import asyncio
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Gauge

from model.checkpoint import Checkpoint
from service.engine.batcher import MicroBatcher
from service.engine.claims import Claims
from service.errors import StoreUnavailable
from service.samples import Answers
from service.store.changes import Commit
from tests.processes import ValkeyProcess
from tests.service.workers import Worker, close_to, count, run, words, worker

SEED = int(os.environ.get("EMBERWATCH_TEST_SEED", "0"))


@dataclass
class Line:
    """A worker with its batcher, whose commits can be held up and made to fail."""

    worker: Worker
    batcher: MicroBatcher
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    commits: int = 0
    steps: int = 0
    fail: list[str] = field(
        default_factory=list
    )  # of the next commits: "lost" on the way there, "unheard" on the way back

    async def apply(self, *named: tuple[str, int]) -> Answers:
        """Through the batcher."""
        return await self.batcher.submit(self.worker.samples(*named))

    async def sent_or(self, task: "asyncio.Task[Any]") -> None:
        """Wait for one more commit sent, or for the end of this task."""
        before = self.commits
        while self.commits == before and not task.done():  # noqa: ASYNC110
            await asyncio.sleep(0.001)

    async def reach(self, *, commits: int, steps: int) -> None:
        """Wait for so many commits sent and steps ended."""
        while (self.commits, self.steps) < (commits, steps):  # noqa: ASYNC110  (two counters, polled)
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.02)  # what must not happen would have happened by now
        assert (self.commits, self.steps) == (commits, steps)


def line(made: Worker) -> Line:
    """A running one, its gate open."""
    depth = Gauge("depth", "for the test", registry=CollectorRegistry())
    batcher = MicroBatcher(
        made.engine.apply, max_batch_size=64, max_wait_s=0.0, max_queue=1_000, depth=depth, follow=True
    )
    under_test = Line(made, batcher)
    under_test.gate.set()
    commit, step = made.store.commit, made.engine._advance._step

    async def gated(commits: Sequence[Commit]) -> list[int]:
        under_test.commits += 1
        await under_test.gate.wait()
        how = under_test.fail.pop(0) if under_test.fail else ""
        if how == "lost":
            raise StoreUnavailable("on the way there")
        outcomes = await commit(commits)
        if how == "unheard":
            raise StoreUnavailable("on the way back")
        return outcomes

    def counted(*arguments: Any) -> Any:
        scores = step(*arguments)
        under_test.steps += 1
        return scores

    made.store.commit = gated  # type: ignore[method-assign]
    made.engine._advance._step = counted  # type: ignore[method-assign,assignment]
    batcher.start()
    return under_test


async def two_in_a_row(under_test: Line, names: Sequence[str], first: int) -> tuple[Any, Any]:
    """Two batches of these vehicles: the second is computed while the first one's commit is held at the gate."""
    under_test.gate.clear()
    commits, steps = under_test.commits, under_test.steps
    one = asyncio.create_task(under_test.apply(*((name, first) for name in names)))
    await under_test.reach(commits=commits + 1, steps=steps + 1)
    two = asyncio.create_task(under_test.apply(*((name, first + 1) for name in names)))
    await under_test.reach(commits=commits + 1, steps=steps + 2)
    return one, two


@pytest.mark.parametrize("snapshot_every", [2, 60])
def test_a_batch_is_computed_while_the_one_before_is_committed(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str, snapshot_every: int
) -> None:
    """Nothing of it is committed or answered before the first has won; then both are, and the states are the scan's."""
    made = worker(valkey.url, checkpoint, snapshot_every=snapshot_every, backend="cpu")
    names = [f"{vehicle}.{i}" for i in range(3)]

    async def scenario() -> None:
        under_test = line(made)
        await under_test.apply(*((name, 0) for name in names))
        for first in (1, 3, 5):
            one, two = await two_in_a_row(under_test, names, first)
            assert not one.done()
            assert not two.done()
            under_test.gate.set()
            assert words(await one) + words(await two) == ["applied"] * 6
        await made.written()
        for name in names:
            assert close_to(await made.state(name), made.offline(7))
            assert close_to(await fresh.state(name), made.offline(7))
        assert (count(made.metrics.batches_ahead, "kept"), count(made.metrics.batches_ahead, "again")) == (3, 0)
        await under_test.batcher.close()

    fresh = worker(valkey.url, checkpoint)
    run([made, fresh], scenario)


def test_what_followed_a_loser_is_thrown_away(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """Another worker was faster with one vehicle of three: all of the second batch begins again, from what is in the store."""
    made, other = worker(valkey.url, checkpoint, backend="cpu"), worker(valkey.url, checkpoint)
    names = [f"{vehicle}.{i}" for i in range(3)]

    async def scenario() -> None:
        under_test = line(made)
        await under_test.apply(*((name, 0) for name in names))
        one, two = await two_in_a_row(under_test, names, 1)
        assert words(await other.apply((names[1], 1))) == ["applied"]
        under_test.gate.set()
        assert words(await one) == ["applied", "duplicate", "applied"]
        assert words(await two) == ["applied"] * 3
        assert count(made.metrics.batches_ahead, "again") == 1
        for name in names:
            assert close_to(await made.state(name), made.offline(3))
            assert close_to(await other.state(name), made.offline(3))
        await under_test.batcher.close()

    run([made, other], scenario)


@pytest.mark.parametrize("how", ["lost", "unheard"])
def test_what_followed_a_commit_without_answer_is_deferred(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str, how: str
) -> None:
    """It must not overtake samples of which nobody knows; both come again and count once."""
    made = worker(valkey.url, checkpoint, backend="cpu")
    names = [f"{vehicle}.{i}" for i in range(2)]

    async def scenario() -> None:
        under_test = line(made)
        await under_test.apply(*((name, 0) for name in names))
        one, two = await two_in_a_row(under_test, names, 1)
        under_test.fail = [how]
        under_test.gate.set()
        assert words(await one) + words(await two) == ["deferred"] * 4
        again = ["applied" if how == "lost" else "duplicate"] * 2
        assert words(await under_test.apply(*((name, 1) for name in names))) == again
        assert words(await under_test.apply(*((name, 2) for name in names))) == ["applied"] * 2
        for name in names:
            assert close_to(await made.state(name), made.offline(3))
        await under_test.batcher.close()

    run([made], scenario)


def test_a_retry_waits_for_the_commit_before(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """A sample that repeats one whose commit is under way is answered after it, as that one was, and nothing is computed."""
    made = worker(valkey.url, checkpoint, backend="cpu")

    async def scenario() -> None:
        under_test = line(made)
        await under_test.apply((vehicle, 0))
        under_test.gate.clear()
        one = asyncio.create_task(under_test.apply((vehicle, 1)))
        await under_test.reach(commits=2, steps=2)
        two = asyncio.create_task(under_test.apply((vehicle, 1)))
        await under_test.reach(commits=2, steps=2)
        assert not two.done()
        under_test.gate.set()
        first, second = await one, await two
        assert words(first) + words(second) == ["applied", "duplicate"]
        assert first.risk[0] == pytest.approx(second.risk[0])
        await under_test.batcher.close()

    run([made], scenario)


def test_a_follower_that_fails_takes_nothing_along(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its step throws after it has changed states: the batch before is applied all the same, and the next begins from the store."""
    made = worker(valkey.url, checkpoint, backend="cpu")

    async def scenario() -> None:
        under_test = line(made)
        await under_test.apply((vehicle, 0))
        under_test.gate.clear()
        one = asyncio.create_task(under_test.apply((vehicle, 1)))
        await under_test.reach(commits=2, steps=2)
        step = made.engine._advance._step

        def broken(*arguments: Any) -> Any:
            step(*arguments)
            monkeypatch.undo()
            raise RuntimeError("out of memory")

        monkeypatch.setattr(made.engine._advance, "_step", broken)
        two = asyncio.create_task(under_test.apply((vehicle, 2)))
        await under_test.reach(commits=2, steps=3)
        under_test.gate.set()
        assert words(await one) + words(await two) == ["applied", "deferred"]
        assert words(await under_test.apply((vehicle, 2))) == ["applied"]
        assert close_to(await made.state(vehicle), made.offline(3))
        await under_test.batcher.close()

    run([made], scenario)


def test_a_reset_gets_its_turn_between_batches_that_follow_each_other(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """Who waits for a vehicle is served after the batch that follows, and no further batch comes between."""
    made = worker(valkey.url, checkpoint, backend="cpu")

    async def scenario() -> None:
        under_test = line(made)
        await under_test.apply((vehicle, 0))
        one, two = await two_in_a_row(under_test, [vehicle], 1)
        reset = asyncio.create_task(made.engine.reset(vehicle))
        await asyncio.sleep(0.01)
        three = asyncio.create_task(under_test.apply((vehicle, 3)))
        under_test.gate.set()
        assert words(await one) + words(await two) == ["applied"] * 2
        assert await reset == 2
        assert words(await three) == ["applied"]
        assert ((await made.state(vehicle)).epoch, (await made.state(vehicle)).seq) == (2, 3)
        await under_test.batcher.close()

    run([made], scenario)


def test_batches_in_a_row_and_failing_commits_leave_every_sample_once(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """Commits are lost, unheard, slow or overtaken at random; each sample counts once and in order, states are the scan's."""
    made, other = worker(valkey.url, checkpoint, snapshot_every=3, backend="cpu"), worker(valkey.url, checkpoint)
    rng = np.random.default_rng(SEED)
    names = [f"{vehicle}.{i}" for i in range(4)]
    n = 24

    async def scenario() -> None:
        under_test = line(made)

        async def send(i: int) -> list[str]:
            answers = words(await under_test.apply(*((name, i) for name in names)))
            assert set(answers) <= {"applied", "duplicate", "deferred"}, answers
            return answers

        done = 0
        while done < n:
            under_test.fail = rng.choice(["", "", "", "lost", "unheard"], 2).tolist()
            under_test.gate.clear()
            sent = [asyncio.create_task(send(done))]
            await under_test.sent_or(sent[0])
            if rng.random() < 0.3:
                await other.apply((names[rng.integers(len(names))], done))
            sent += [asyncio.create_task(send(i)) for i in range(done + 1, min(done + 2, n))]
            await asyncio.sleep(rng.choice([0.0, 0.005]))
            under_test.gate.set()
            for answers in await asyncio.gather(*sent):
                if "deferred" in answers:
                    break
                done += 1
        for name in names:
            assert ((await made.state(name)).seq, (await other.state(name)).seq) == (n - 1, n - 1)
            assert close_to(await made.state(name), made.offline(n))
            assert close_to(await other.state(name), made.offline(n))
        assert count(made.metrics.batches_ahead, "kept") + count(made.metrics.batches_ahead, "again") > 0
        await under_test.batcher.close()

    run([made, other], scenario)


def test_an_heir_comes_before_those_who_wait() -> None:
    """What is inherited is never free between; it is once both holder and heir have let go, in whatever order."""

    async def scenario(*, heir_goes_first: bool) -> list[str]:
        claims, order = Claims(), list[str]()
        holder, heir = claims.hold(["a", "b"]), claims.inherit(["a"])
        await holder.__aenter__()
        await heir.__aenter__()
        with pytest.raises(ValueError, match="inherited"):
            await claims.inherit(["a"]).__aenter__()
        with pytest.raises(ValueError, match="inherited"):
            await claims.inherit(["c"]).__aenter__()

        async def wait(vehicle_id: str) -> None:
            async with claims.hold([vehicle_id]):
                order.append(vehicle_id)

        waiting = [asyncio.create_task(wait(name)) for name in ("a", "b")]
        await asyncio.sleep(0)
        assert claims.contended
        first, second = (heir, holder) if heir_goes_first else (holder, heir)
        await first.__aexit__(None, None, None)
        await asyncio.sleep(0.001)
        order.append("|")
        await second.__aexit__(None, None, None)
        await asyncio.gather(*waiting)
        assert "a" not in claims
        assert "b" not in claims
        return order

    assert asyncio.run(scenario(heir_goes_first=False)) == ["b", "|", "a"]
    assert asyncio.run(scenario(heir_goes_first=True)) == ["|", "a", "b"]
