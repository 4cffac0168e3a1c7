"""The reorder window: what overtook on the way is applied in order, and everybody gets his own answers."""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest

from service.engine.reorder import ReorderWindow
from service.errors import QueueFull
from service.samples import CURRENT_EPOCH, Answers, Samples, Status
from tests.processes import ServiceProcess
from tests.service.conftest import START_MS, sample

WINDOW_S = 0.05


def samples(*rows: tuple[str, int]) -> Samples:
    """(vehicle, number) pairs; the number tells the time too."""
    seq = np.array([number for _, number in rows], np.int64)
    return Samples.of(
        [vehicle for vehicle, _ in rows],
        START_MS + 5_000 * seq,
        seq,
        np.full(len(rows), CURRENT_EPOCH, np.int64),
        np.full((len(rows), 1), 1.0),
    )


class Recorder:
    """Stands where the batcher does, and tells each sample's number as its risk."""

    def __init__(self) -> None:
        self.seen: list[list[tuple[str, int]]] = []
        self.full = False
        self.called = asyncio.Event()

    async def submit(self, given: Samples) -> Answers:
        """Note what came in which order."""
        if self.full:
            raise QueueFull("full")
        self.called.set()
        self.seen.append(list(zip(given.vehicle_ids, given.seq.tolist(), strict=True)))
        await asyncio.sleep(0.001)
        answers = Answers.blank(len(given), Status.APPLIED)
        answers.seq[:], answers.risk[:] = given.seq, given.seq
        answers.reasons |= {row: f"number {seq}" for row, seq in enumerate(given.seq.tolist())}
        return answers


def with_window(test: Callable[[ReorderWindow, Recorder], Awaitable[None]], most: int = 100) -> None:
    """Run a test with a window before a recorder."""

    async def run() -> None:
        recorder = Recorder()
        window = ReorderWindow(recorder.submit, WINDOW_S, most)
        await test(window, recorder)
        assert window._waiting == 0
        assert window._by_vehicle == {}

    asyncio.run(run())


def test_what_came_late_within_the_window_goes_first() -> None:
    """Three senders, two vans, wrong order: submitted by time, each sender answered for its own rows in its own order."""

    async def test(window: ReorderWindow, recorder: Recorder) -> None:
        calls = [
            asyncio.create_task(window.submit(samples(("a", 5), ("b", 1)))),
            asyncio.create_task(window.submit(samples(("a", 4), ("a", 3), ("a", 7)))),
            asyncio.create_task(window.submit(samples(("b", 0)))),
        ]
        answers = await asyncio.gather(*calls)
        assert sorted(recorder.seen[0]) == [("a", 3), ("a", 4), ("a", 5), ("b", 0), ("b", 1)]
        for van in "ab":
            order = [seq for part in recorder.seen for vehicle, seq in part if vehicle == van]
            assert order == sorted(order)
        assert [answer.risk.tolist() for answer in answers] == [[5.0, 1.0], [4.0, 3.0, 7.0], [0.0]]
        assert answers[1].reasons == {0: "number 4", 1: "number 3", 2: "number 7"}

    with_window(test)


def test_a_full_queue_behind_refuses_the_request() -> None:
    """Nothing was applied: the sender hears it as without a window."""

    async def test(window: ReorderWindow, recorder: Recorder) -> None:
        recorder.full = True
        with pytest.raises(QueueFull, match="full"):
            await window.submit(samples(("a", 1)))

    with_window(test)


def test_what_waits_is_bounded() -> None:
    """More than the queue holds is refused at once."""

    async def test(window: ReorderWindow, recorder: Recorder) -> None:
        first = asyncio.create_task(window.submit(samples(("a", 1), ("a", 2))))
        await asyncio.sleep(0)
        with pytest.raises(QueueFull, match="reorder window"):
            await window.submit(samples(("b", 1), ("b", 2)))
        assert (await first).all_accepted()
        assert (await window.submit(samples())).all_accepted()
        assert recorder.seen == [[("a", 1), ("a", 2)]]

    with_window(test, most=3)


def test_others_are_answered_when_a_sender_goes_away() -> None:
    """A cancelled request takes nobody's answers with it."""

    async def test(window: ReorderWindow, recorder: Recorder) -> None:
        leaving = asyncio.create_task(window.submit(samples(("a", 2))))
        await asyncio.sleep(WINDOW_S / 2)
        staying = asyncio.create_task(window.submit(samples(("a", 1))))
        await recorder.called.wait()
        leaving.cancel()
        assert (await staying).risk.tolist() == [1.0]
        assert recorder.seen == [[("a", 1), ("a", 2)]]
        await asyncio.gather(leaving, return_exceptions=True)

    with_window(test)


def test_overtaking_requests_through_the_service(tmp_path: Path, vehicle: str) -> None:
    """With the window both are applied, without it the earlier sample is late."""
    for window_ms, verdicts in ((400, [200, 200]), (0, [200, 409])):
        folder = tmp_path / str(window_ms)
        folder.mkdir()
        service = ServiceProcess(folder, reorder_window_ms=window_ms).start()
        try:
            path = f"{service.url}/v1/vehicles/{vehicle}/telemetry"

            def post(i: int, path: str = path) -> int:
                return httpx.post(path, json=sample(i), timeout=30.0).status_code

            with ThreadPoolExecutor(2) as pool:
                later = pool.submit(post, 1)
                httpx.get(f"{service.url}/livez")  # the later sample is on its way
                if not window_ms:
                    later.result()
                earlier = pool.submit(post, 0)
                assert [later.result(), earlier.result()] == verdicts
        finally:
            service.stop_if_running()
