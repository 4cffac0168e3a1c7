"""The micro-batcher: one sample per vehicle per batch, order kept per vehicle, the clock starts at the first sample."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import structlog
from prometheus_client import Gauge

from service.errors import NotReady, QueueFull
from service.verdict import RETRYABLE, Answer, Status
from service.wire import Sample

logger = structlog.get_logger(__name__)

Apply = Callable[[list[Sample]], Awaitable[list[Answer]]]


@dataclass(slots=True)
class Waiting:
    """One queued sample and where its answer goes."""

    sample: Sample
    enqueued: float  # loop time, seconds
    answer: "asyncio.Future[Answer]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class MicroBatcher:
    """Gathers samples into batches for `apply` and hands each sender its own answers."""

    def __init__(self, apply: Apply, *, max_batch_size: int, max_wait_s: float, max_queue: int, depth: Gauge) -> None:
        self._apply = apply
        self._max_batch_size = max_batch_size
        self._max_wait_s = max_wait_s
        self._max_queue = max_queue
        self._depth = depth
        self._lanes: OrderedDict[str, deque[Waiting]] = OrderedDict()  # vehicles in the order they are served
        self._queued = 0
        self._changed = asyncio.Event()
        self._closing = False
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to serve."""
        self._task = asyncio.create_task(self._run(), name="micro-batcher")

    async def close(self) -> None:
        """Take no more samples, finish those in hand, then return."""
        self._closing = True
        self._changed.set()
        if self._task is not None:
            await self._task

    def check(self) -> None:
        """Raise NotReady unless samples are being served."""
        if self._closing or self._task is None or self._task.done():
            raise NotReady("the service is shutting down or its batcher has ended")

    async def submit(self, samples: Sequence[Sample]) -> list[Answer]:
        """Queue samples, each vehicle's in order, and wait for their answers.

        Raises:
            QueueFull: they do not all fit; none was queued.
            NotReady: the service is shutting down; none was queued.
        """
        if self._closing:
            raise NotReady("the service is shutting down; send again in a moment")
        if self._queued + len(samples) > self._max_queue:
            raise QueueFull(f"{self._queued} of {self._max_queue} places are taken; {len(samples)} more do not fit")
        now = asyncio.get_running_loop().time()
        items = [Waiting(sample, now) for sample in samples]
        for item in items:
            self._lanes.setdefault(item.sample.vehicle_id, deque()).append(item)
        self._count(len(items))
        self._changed.set()
        return [await item.answer for item in items]

    async def _run(self) -> None:
        """Batch after batch until closed and empty."""
        while True:
            self._changed.clear()
            if self._lanes:
                await self._gather()
                await self._serve(self._take())
            elif self._closing:
                return
            else:
                await self._changed.wait()

    async def _gather(self) -> None:
        """Wait until the batch is full, or its first sample has waited long enough, or we are closing."""
        first = min(lane[0].enqueued for lane in self._lanes.values())
        deadline = first + self._max_wait_s
        loop = asyncio.get_running_loop()
        while len(self._lanes) < self._max_batch_size and not self._closing and loop.time() < deadline:
            self._changed.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
            except TimeoutError:
                return

    def _take(self) -> list[Waiting]:
        """The head of each lane, longest-waiting vehicles first; lanes with more go to the end of the line."""
        batch = []
        for vehicle_id in list(self._lanes)[: self._max_batch_size]:
            lane = self._lanes[vehicle_id]
            batch.append(lane.popleft())
            if lane:
                self._lanes.move_to_end(vehicle_id)
            else:
                del self._lanes[vehicle_id]
        self._count(-len(batch))
        return batch

    async def _serve(self, batch: list[Waiting]) -> None:
        """Apply one batch; a failure of the whole batch is each sample's `deferred`, never a lost answer."""
        try:
            answers = await self._apply([item.sample for item in batch])
        except Exception:
            logger.exception("a batch failed", size=len(batch))
            answers = []
        if len(answers) != len(batch):
            logger.error("a batch was not answered", size=len(batch), answers=len(answers))
            answers = [Answer(Status.DEFERRED, seq=item.sample.seq, reason="the batch failed") for item in batch]
        for item, answer in zip(batch, answers, strict=True):
            if answer.status in RETRYABLE:
                self._defer_lane(item.sample.vehicle_id)
            settle(item, answer)

    def _defer_lane(self, vehicle_id: str) -> None:
        """After a vehicle's retryable failure, what it has queued must not overtake the sample that failed."""
        lane = self._lanes.pop(vehicle_id, deque())
        self._count(-len(lane))
        for item in lane:
            settle(item, Answer(Status.DEFERRED, seq=item.sample.seq, reason="an earlier sample was deferred"))

    def _count(self, change: int) -> None:
        self._queued += change
        self._depth.set(self._queued)


def settle(item: Waiting, answer: Answer) -> None:
    """Deliver an answer, unless its sender has gone away."""
    if not item.answer.done():
        item.answer.set_result(answer)
