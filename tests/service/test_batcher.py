"""The micro-batcher: who shares a batch, in what order, and when the clock starts."""

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, Gauge

from service.batcher import MicroBatcher
from service.errors import NotReady, QueueFull
from service.verdict import Answer, Status
from service.wire import Sample

Apply = Callable[[list[Sample]], Awaitable[list[Answer]]]


def numbered(vehicle_id: str, seq: int) -> Sample:
    """A sample that only its number matters of."""
    return Sample(vehicle_id, 1_760_000_000_000 + seq, seq, None, np.zeros(1))


class Recorder:
    """Stands in for the engine: remembers batches, answers `applied`, or what it is told for a sample."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[str, int | None]]] = []
        self.status: dict[tuple[str, int | None], Status] = {}
        self.gate = asyncio.Event()
        self.gate.set()

    async def apply(self, samples: list[Sample]) -> list[Answer]:
        """One batch."""
        names = [(sample.vehicle_id, sample.seq) for sample in samples]
        self.batches.append(names)
        await self.gate.wait()
        return [Answer(self.status.get(name, Status.APPLIED), seq=name[1]) for name in names]


def batcher(apply: Apply, *, size: int = 4, wait_s: float = 0.0, queue: int = 100) -> MicroBatcher:
    """A running batcher."""
    depth = Gauge("depth", "for the test", registry=CollectorRegistry())
    made = MicroBatcher(apply, max_batch_size=size, max_wait_s=wait_s, max_queue=queue, depth=depth)
    made.start()
    return made


def test_same_vehicle_waits_for_the_next_batch() -> None:
    """Two samples of one vehicle never share a batch, and keep their order."""

    async def scenario() -> None:
        engine = Recorder()
        under_test = batcher(engine.apply, wait_s=0.02)
        await asyncio.gather(
            under_test.submit([numbered("a", 0), numbered("a", 1), numbered("a", 2)]),
            under_test.submit([numbered("b", 0), numbered("b", 1)]),
        )
        await under_test.close()
        assert engine.batches == [[("a", 0), ("b", 0)], [("a", 1), ("b", 1)], [("a", 2)]]

    asyncio.run(scenario())


def test_the_clock_starts_at_the_first_sample() -> None:
    """A batch leaves max_wait after its first sample, not after its last."""

    async def scenario() -> None:
        engine = Recorder()
        under_test = batcher(engine.apply, size=100, wait_s=0.2)
        loop = asyncio.get_running_loop()
        started = loop.time()
        trickle = [asyncio.create_task(under_test.submit([numbered("v0", 0)]))]
        for i in range(1, 8):
            await asyncio.sleep(0.05)
            trickle.append(asyncio.create_task(under_test.submit([numbered(f"v{i}", 0)])))
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
            await asyncio.gather(*(under_test.submit([numbered(f"v{i}", 0)]) for i in range(4)))
        await under_test.close()
        assert [len(batch) for batch in engine.batches] == [2, 2]

    asyncio.run(scenario())


def test_no_vehicle_starves_behind_a_long_array() -> None:
    """With more vehicles than places, those that waited longest go first."""

    async def scenario() -> None:
        engine = Recorder()
        under_test = batcher(engine.apply, size=1)
        long = asyncio.create_task(under_test.submit([numbered("long", i) for i in range(20)]))
        await asyncio.sleep(0)
        await under_test.submit([numbered("short", 0)])
        position = engine.batches.index([("short", 0)])
        await long
        await under_test.close()
        assert position <= 2

    asyncio.run(scenario())


def test_a_full_queue_refuses_the_whole_request() -> None:
    """What does not fit is not queued at all, and what fits is unharmed."""

    async def scenario() -> None:
        engine = Recorder()
        engine.gate.clear()
        under_test = batcher(engine.apply, queue=3)
        held = asyncio.create_task(under_test.submit([numbered("a", i) for i in range(3)]))
        await asyncio.sleep(0.01)
        with pytest.raises(QueueFull, match="2 of 3 places are taken; 2 more do not fit"):
            await under_test.submit([numbered("b", 0), numbered("b", 1)])
        engine.gate.set()
        assert len(await held) == 3
        await under_test.close()
        assert all(name[0] == "a" for batch in engine.batches for name in batch)

    asyncio.run(scenario())


def test_close_finishes_what_is_in_hand() -> None:
    """Shutting down answers every queued sample and takes no new one."""

    async def scenario() -> None:
        engine = Recorder()
        engine.gate.clear()
        under_test = batcher(engine.apply, wait_s=10.0)
        held = asyncio.create_task(under_test.submit([numbered("a", i) for i in range(5)]))
        await asyncio.sleep(0.01)
        closing = asyncio.create_task(under_test.close())
        await asyncio.sleep(0.01)
        with pytest.raises(NotReady):
            await under_test.submit([numbered("b", 0)])
        engine.gate.set()
        await closing
        assert [answer.status for answer in await held] == [Status.APPLIED] * 5

    asyncio.run(scenario())


def test_after_a_retryable_failure_the_vehicle_is_deferred_and_others_go_on() -> None:
    """A later sample of the vehicle must not overtake the one that failed, or that one would be late for ever."""

    async def scenario() -> None:
        engine = Recorder()
        engine.status["a", 1] = Status.DEFERRED
        under_test = batcher(engine.apply, wait_s=0.02)
        a, b = await asyncio.gather(
            under_test.submit([numbered("a", i) for i in range(4)]),
            under_test.submit([numbered("b", i) for i in range(4)]),
        )
        await under_test.close()
        assert [answer.status.value for answer in a] == ["applied", "deferred", "deferred", "deferred"]
        assert {answer.status for answer in b} == {Status.APPLIED}
        assert ("a", 2) not in [name for batch in engine.batches for name in batch]

    asyncio.run(scenario())


def test_an_engine_that_throws_loses_no_answer() -> None:
    """A failure of the whole batch is each sample's `deferred`, and the next batch is served."""

    async def scenario() -> None:
        calls = 0

        async def apply(samples: list[Sample]) -> list[Answer]:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise RuntimeError("out of memory")
            return [Answer(Status.APPLIED) for _ in samples]

        under_test = batcher(apply)
        (first,) = await under_test.submit([numbered("a", 0)])
        (second,) = await under_test.submit([numbered("a", 0)])
        await under_test.close()
        assert (first.status, second.status) == (Status.DEFERRED, Status.APPLIED)

    asyncio.run(scenario())
