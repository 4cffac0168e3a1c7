"""The micro-batcher: who shares a batch, in what order, and when the clock starts."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Gauge

from service.engine.batcher import LARGE, MAX_RUN, MicroBatcher
from service.engine.turn import Ahead, Turn
from service.errors import NotReady, QueueFull
from service.samples import Answers, Samples, Status
from tests.service.workers import words

Apply = Callable[[Samples, Turn], Awaitable[Answers]]


def numbered(*names: tuple[str, int]) -> Samples:
    """Samples that only their vehicles and numbers matter of."""
    n, seqs = len(names), np.array([seq for _, seq in names], np.int64)
    return Samples.of(
        [name for name, _ in names], 1_760_000_000_000 + seqs, seqs, np.zeros(n, np.int64), np.zeros((n, 1))
    )


def several(vehicle_id: str, n: int) -> Samples:
    """The first n samples of a vehicle."""
    return numbered(*((vehicle_id, i) for i in range(n)))


class Recorder:
    """Stands in for the engine: remembers batches, answers `applied`, or what it is told for a sample."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[str, int]]] = []
        self.status: dict[tuple[str, int], Status] = {}
        self.gate = asyncio.Event()
        self.gate.set()

    async def apply(self, samples: Samples, _: Turn) -> Answers:
        """One batch; the risk of an answer is the seq of its sample."""
        names = list(zip(samples.vehicle_ids, samples.seq.tolist(), strict=True))
        self.batches.append(names)
        await self.gate.wait()
        answers = Answers.blank(len(names), Status.APPLIED)
        answers.status[:] = [self.status.get(name, Status.APPLIED) for name in names]
        answers.seq[:] = answers.risk[:] = samples.seq
        return answers


def batcher(apply: Apply, *, size: int = 4, wait_s: float = 0.0, queue: int = 100) -> MicroBatcher:
    """A running batcher."""
    depth = Gauge("depth", "for the test", registry=CollectorRegistry())
    made = MicroBatcher(
        apply, max_batch_size=size, max_wait_s=wait_s, max_queue=queue, depth=depth, follow=size > LARGE
    )
    made.start()
    return made


def test_samples_of_one_vehicle_come_as_one_run() -> None:
    """What a vehicle has waiting is taken together, in order, across submissions; every sender gets its own answers."""

    async def scenario() -> None:
        engine = Recorder()
        under_test = batcher(engine.apply, wait_s=0.02)
        first, second = await asyncio.gather(
            under_test.submit(numbered(("a", 0), ("b", 0), ("a", 1))), under_test.submit(numbered(("b", 1), ("a", 2)))
        )
        await under_test.close()
        (batch,) = engine.batches
        assert [seq for name, seq in batch if name == "a"] == [0, 1, 2]
        assert [seq for name, seq in batch if name == "b"] == [0, 1]
        assert first.risk.tolist() == [0, 0, 1]
        assert second.risk.tolist() == [1, 2]

    asyncio.run(scenario())


def test_a_long_run_is_cut() -> None:
    """A vehicle's thousand samples are several batches, in order, and others are served between."""

    async def scenario() -> None:
        engine = Recorder()
        under_test = batcher(engine.apply, queue=5_000)
        long = asyncio.create_task(under_test.submit(several("long", 3 * MAX_RUN + 5)))
        await asyncio.sleep(0)
        await under_test.submit(numbered(("short", 0)))
        assert not long.done()
        answers = await long
        await under_test.close()
        runs = [batch for batch in engine.batches if batch[0][0] == "long"]
        assert [len([name for name, _ in run if name == "long"]) for run in runs] == [MAX_RUN] * 3 + [5]
        assert answers.risk.tolist() == list(range(3 * MAX_RUN + 5))

    asyncio.run(scenario())


def test_a_vehicle_is_in_one_batch_at_a_time() -> None:
    """While one batch is under way another one leaves, without the vehicles of the first."""

    async def scenario() -> None:
        engine = Recorder()
        engine.gate.clear()
        under_test = batcher(engine.apply)
        tasks = [asyncio.create_task(under_test.submit(numbered(("a", 0), ("b", 0))))]
        await asyncio.sleep(0.01)
        tasks += [asyncio.create_task(under_test.submit(numbered(("a", 1), ("c", 0))))]
        await asyncio.sleep(0.01)
        tasks += [asyncio.create_task(under_test.submit(numbered(("d", 0))))]
        await asyncio.sleep(0.01)
        assert engine.batches == [[("a", 0), ("b", 0)], [("c", 0)]]
        engine.gate.set()
        assert all(answers.all_accepted() for answers in await asyncio.gather(*tasks))
        await under_test.close()
        assert sorted(engine.batches[2]) == [("a", 1), ("d", 0)]

    asyncio.run(scenario())


def test_the_clock_starts_at_the_first_sample() -> None:
    """A batch leaves max_wait after its first sample, not after its last."""

    async def scenario() -> None:
        engine = Recorder()
        under_test = batcher(engine.apply, size=100, wait_s=0.2)
        loop = asyncio.get_running_loop()
        started = loop.time()
        trickle = [asyncio.create_task(under_test.submit(numbered(("v0", 0))))]
        for i in range(1, 8):
            await asyncio.sleep(0.05)
            trickle.append(asyncio.create_task(under_test.submit(numbered((f"v{i}", 0)))))
        await trickle[0]
        assert 0.19 < loop.time() - started < 2.0  # a clock that began at the last sample would never end before 0.55
        await asyncio.gather(*trickle)
        await under_test.close()
        assert engine.batches[0][0] == ("v0", 0)
        assert 1 <= len(engine.batches[0]) <= 6

    asyncio.run(scenario())


def test_a_full_batch_does_not_wait() -> None:
    """max_batch_size vehicles leave at once, the rest follow in turn."""

    async def scenario() -> None:
        engine = Recorder()
        under_test = batcher(engine.apply, size=2, wait_s=30.0)
        async with asyncio.timeout(5.0):
            await asyncio.gather(*(under_test.submit(numbered((f"v{i}", 0))) for i in range(4)))
        await under_test.close()
        assert [len(batch) for batch in engine.batches] == [2, 2]

    asyncio.run(scenario())


def test_a_full_queue_refuses_the_whole_request() -> None:
    """What does not fit is not queued at all, and what fits is unharmed."""

    async def scenario() -> None:
        engine = Recorder()
        engine.gate.clear()
        under_test = batcher(engine.apply, queue=3)
        held = asyncio.create_task(under_test.submit(several("a", 3)))
        await asyncio.sleep(0.01)
        waiting = asyncio.create_task(under_test.submit(several("a", 2)))
        await asyncio.sleep(0.01)
        with pytest.raises(QueueFull, match="2 of 3 places are taken; 2 more do not fit"):
            await under_test.submit(several("b", 2))
        engine.gate.set()
        assert len(await held) == 3
        assert len(await waiting) == 2
        await under_test.close()
        assert all(name[0] == "a" for batch in engine.batches for name in batch)

    asyncio.run(scenario())


def test_close_finishes_what_is_in_hand() -> None:
    """Shutting down answers every queued sample and takes no new one."""

    async def scenario() -> None:
        engine = Recorder()
        engine.gate.clear()
        under_test = batcher(engine.apply, wait_s=10.0)
        held = asyncio.create_task(under_test.submit(several("a", 5)))
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(under_test.close())
        await asyncio.sleep(0.01)
        with pytest.raises(NotReady):
            await under_test.submit(numbered(("b", 0)))
        engine.gate.set()
        await closing
        assert words(await held) == ["applied"] * 5

    asyncio.run(scenario())


def test_after_a_retryable_failure_the_vehicle_is_deferred_and_others_go_on() -> None:
    """What is queued must not overtake the sample that failed, or that one would be late for ever."""

    async def scenario() -> None:
        engine = Recorder()
        engine.gate.clear()
        engine.status["a", 1] = Status.DEFERRED
        under_test = batcher(engine.apply)
        under_way = asyncio.create_task(under_test.submit(numbered(("a", 0), ("a", 1), ("b", 0))))
        await asyncio.sleep(0.01)
        queued = asyncio.create_task(under_test.submit(numbered(("a", 2), ("a", 3), ("b", 1))))
        await asyncio.sleep(0.01)
        engine.gate.set()
        assert words(await under_way) == ["applied", "deferred", "applied"]
        answers = await queued
        assert words(answers) == ["deferred", "deferred", "applied"]
        assert answers.reasons == dict.fromkeys((0, 1), "an earlier sample was deferred")
        await under_test.close()
        assert ("a", 2) not in [name for batch in engine.batches for name in batch]

    asyncio.run(scenario())


def test_an_engine_that_throws_loses_no_answer() -> None:
    """A failure of the whole batch is each sample's `deferred`, and the next batch is served."""

    async def scenario() -> None:
        calls = 0

        async def apply(samples: Samples, _: Turn) -> Answers:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise RuntimeError("out of memory")
            return Answers.blank(len(samples), Status.APPLIED)

        under_test = batcher(apply)
        first = await under_test.submit(numbered(("a", 0)))
        second = await under_test.submit(numbered(("a", 0)))
        await under_test.close()
        assert words(first) + words(second) == ["deferred", "applied"]

    asyncio.run(scenario())


def test_a_sender_that_goes_away_takes_nobody_along() -> None:
    """Its samples are applied all the same, and the others get their answers."""

    async def scenario() -> None:
        engine = Recorder()
        engine.gate.clear()
        under_test = batcher(engine.apply)
        gone = asyncio.create_task(under_test.submit(numbered(("a", 0))))
        await asyncio.sleep(0.01)
        gone.cancel()
        stays = asyncio.create_task(under_test.submit(numbered(("a", 1), ("b", 0))))
        await asyncio.sleep(0.01)
        engine.gate.set()
        assert words(await stays) == ["applied"] * 2
        await under_test.close()

    asyncio.run(scenario())


def test_a_large_batch_leaves_a_second_round_of_its_vehicles_to_a_follower() -> None:
    """Two rounds of a fleet that arrive together are two batches, the second following the first; small ones are one."""

    async def scenario() -> None:
        engine, turns = Recorder(), list[Turn]()

        async def apply(samples: Samples, turn: Turn) -> Answers:
            turns.append(turn)
            if turn.follows is None:
                turn.leads(Ahead(samples.vehicle_ids, np.zeros(0, np.int64), np.zeros(0, np.void)))
                await asyncio.sleep(0.01)
            answers = await engine.apply(samples, turn)
            turn.end(())
            return answers

        for n, batches in ((LARGE, [LARGE, LARGE]), (LARGE - 1, [2 * (LARGE - 1)])):
            engine.batches.clear()
            turns.clear()
            under_test = batcher(apply, size=LARGE + 1, wait_s=0.02, queue=1_000)
            rounds = [numbered(*((f"v{v}", i) for v in range(n))) for i in range(2)]
            answers = await asyncio.gather(*map(under_test.submit, rounds))
            await under_test.close()
            assert [len(batch) for batch in engine.batches] == batches
            assert [turn.follows for turn in turns] == [None, *turns][: len(turns)]
            assert all(words(found) == ["applied"] * n for found in answers)

    asyncio.run(scenario())
