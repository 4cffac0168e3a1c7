"""The micro-batcher: whole submissions in, batches of many vehicles out, each vehicle's order kept.

The clock of a batch starts at its first sample. A vehicle is in one batch at a time, with a run of its samples if
several wait; up to BATCHES_UNDER_WAY batches are with the engine at once, so that one is stepped while another waits for the
store. They are of different vehicles, or the second follows the first (service/engine/turn.py): the same vans come again and again.
"""

import asyncio
import itertools
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from prometheus_client import Gauge

from service.engine.turn import Turn
from service.errors import NotReady, QueueFull
from service.observe.correlation import BatchNames, BatchWatch
from service.samples import RETRYABLE, Answers, Samples, Status, join_samples

logger = structlog.get_logger(__name__)

MAX_RUN = 512  # samples of one vehicle in a batch: the others of its batch wait for them
BATCHES_UNDER_WAY = 2
LARGE = 64  # vehicles: smaller batches cost more for being two than is gained by overlapping them
FOLLOWED_SHARE = 0.5  # of a batch's vehicles have to wait before one that follows it is worth its price

Apply = Callable[[Samples, Turn], Awaitable[Answers]]
Rows = NDArray[np.int64]


@dataclass(slots=True, eq=False)
class Submission:
    """Samples of one sender and their answers so far."""

    number: int  # in order of arrival
    samples: Samples
    enqueued: float  # loop time, seconds
    answers: Answers | None
    left: int  # rows without an answer
    origin: Any  # as the watch knows it
    done: "asyncio.Future[Answers]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def settle(self, rows: Rows, answers: Answers) -> None:
        """Note the answers to these rows; the sender gets all of them with the last."""
        if len(rows) == len(self.samples):  # all at once, and then in order
            so_far = answers
        else:
            so_far = Answers.blank(len(self.samples), Status.DEFERRED) if self.answers is None else self.answers
            so_far.put(rows, answers)
        self.answers = so_far
        self.left -= len(rows)
        if self.left == 0 and not self.done.done():  # done: the sender has gone away
            self.done.set_result(so_far)


@dataclass(slots=True, eq=False)
class Run:
    """Rows of one vehicle in one submission that wait, in order."""

    submission: Submission
    rows: list[int]


@dataclass(slots=True, eq=False)
class Part:
    """What a batch takes from one submission."""

    submission: Submission
    rows: list[int] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Batch:
    """What is with the engine.

    Attributes:
        vehicle_ids: its vehicles.
        parts: of which submissions.
        follows: the batch before, of which its vehicles are a part, and which is not committed yet.
        turn: as the engine knows it.
        follower: the batch that follows this one.
    """

    vehicle_ids: list[str]
    parts: list[Part]
    follows: "Batch | None"
    turn: Turn = field(default_factory=Turn)
    follower: "Batch | None" = None


class MicroBatcher:
    """Gathers submissions into batches for `apply` and hands each sender its own answers."""

    def __init__(
        self,
        apply: Apply,
        *,
        max_batch_size: int,
        max_wait_s: float,
        max_queue: int,
        depth: Gauge,
        follow: bool = False,
        watch: BatchWatch | None = None,
    ) -> None:
        self._apply = apply
        self._watch = watch or BatchNames()
        self._max_batch_size = max_batch_size
        self._max_wait_s = max_wait_s
        self._max_queue = max_queue
        self._follow = follow
        self._depth = depth
        self._ready: OrderedDict[str, deque[Run]] = OrderedDict()  # vehicles in the order they are served
        self._under_way: dict[str, deque[Run]] = {}  # vehicles in a batch, with what came meanwhile
        self._batches: set[asyncio.Task[None]] = set()
        self._lead: Batch | None = None  # a batch that may be followed
        self._behind = False  # something was queued for a vehicle in a batch since we last looked
        self._numbers = itertools.count()
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

    async def submit(self, samples: Samples) -> Answers:
        """Queue samples, each vehicle's in order, and wait for their answers.

        Raises:
            QueueFull: they do not all fit; none was queued.
            NotReady: the service is shutting down; none was queued.
        """
        n = len(samples)
        if self._closing:
            raise NotReady("the service is shutting down; send again in a moment")
        if self._queued + n > self._max_queue:
            raise QueueFull(f"{self._queued} of {self._max_queue} places are taken; {n} more do not fit")
        if not n:
            return Answers.blank(0, Status.DEFERRED)
        now = asyncio.get_running_loop().time()
        submission = Submission(next(self._numbers), samples, now, None, n, self._watch.origin())
        self._enqueue(submission)
        self._changed.set()
        return await submission.done

    def _enqueue(self, submission: Submission) -> None:
        """One run per vehicle, behind whatever waits for it."""
        rows_of: dict[str, list[int]] = {}
        for row, vehicle_id in enumerate(submission.samples.vehicle_ids):
            if vehicle_id in rows_of:
                rows_of[vehicle_id].append(row)
            else:
                rows_of[vehicle_id] = [row]
        for vehicle_id, rows in rows_of.items():
            lane = self._under_way.get(vehicle_id)
            if lane is not None:
                self._behind = True
            else:
                lane = self._ready.get(vehicle_id)
                if lane is None:
                    lane = self._ready[vehicle_id] = deque()
            lane.append(Run(submission, rows))
        self._count(len(submission.samples))

    async def _run(self) -> None:
        """Batch after batch until closed and empty."""
        while True:
            self._changed.clear()
            if following := self._following():
                self._start(following, self._lead)
            elif self._ready and len(self._batches) < BATCHES_UNDER_WAY:
                await self._gather()
                vehicles = [self._ready.popitem(last=False) for _ in range(min(len(self._ready), self._max_batch_size))]
                self._under_way.update(vehicles)
                self._start(vehicles, None)
            elif self._closing and not self._ready and not self._batches:
                return
            else:
                await self._changed.wait()

    def _following(self) -> list[tuple[str, deque[Run]]]:
        """The vehicles of the batch that may be followed for which something waits, if they are worth a batch now."""
        lead = self._lead
        if lead is None or not self._behind or len(self._batches) >= BATCHES_UNDER_WAY:
            return []
        self._behind = False
        waiting = [(vehicle_id, lane) for vehicle_id in lead.vehicle_ids if (lane := self._under_way[vehicle_id])]
        return waiting if len(waiting) >= FOLLOWED_SHARE * len(lead.vehicle_ids) else []

    def _start(self, vehicles: list[tuple[str, deque[Run]]], follows: Batch | None) -> None:
        """Give a batch of these vehicles to the engine."""
        batch = Batch([vehicle_id for vehicle_id, _ in vehicles], self._take([lane for _, lane in vehicles]), follows)
        batch.turn = Turn(None if follows is None else follows.turn, partial(self._may_follow, batch))
        if follows is not None:
            follows.follower, self._lead = batch, None
        self._batches.add(asyncio.create_task(self._serve(batch), name="batch"))

    def _may_follow(self, batch: Batch) -> None:
        """The commit of a batch is on its way."""
        if self._follow:
            self._lead, self._behind = batch, True
            self._changed.set()

    async def _gather(self) -> None:
        """Wait until the batch is full, or its first sample has waited long enough, or we are closing."""
        if len(self._ready) >= self._max_batch_size:
            return
        deadline = min(lane[0].submission.enqueued for lane in self._ready.values()) + self._max_wait_s
        loop = asyncio.get_running_loop()
        while len(self._ready) < self._max_batch_size and not self._closing and loop.time() < deadline:
            self._changed.clear()
            try:
                async with asyncio.timeout_at(deadline):
                    await self._changed.wait()
            except TimeoutError:
                return

    def _take(self, lanes: Sequence[deque[Run]]) -> list[Part]:
        """What the next batch takes of vehicles' lanes, by submission.

        With nothing under way and followers a large batch takes only what came first of each: the rest follows, computed while that is committed.
        """
        only_first = self._follow and not self._batches and len(lanes) >= LARGE
        parts: dict[int, Part] = {}
        taken = 0
        for lane in lanes:
            room = MAX_RUN
            while lane and room:
                run = lane[0]
                part = parts.get(run.submission.number)
                if part is None:
                    part = parts[run.submission.number] = Part(run.submission)
                rows = run.rows
                if len(rows) <= room:
                    lane.popleft()
                else:
                    rows, run.rows = rows[:room], rows[room:]
                part.rows += rows
                room -= len(rows)
                taken += len(rows)
                if only_first:
                    break
        self._count(-taken)
        # In order of arrival, as each lane is: a vehicle's rows of two submissions stay in theirs.
        return [parts[number] for number in sorted(parts)]

    async def _serve(self, batch: Batch) -> None:
        """Apply one batch; a failure of the whole batch is each sample's `deferred`, never a lost answer."""
        parts = batch.parts
        samples = join_samples([whole_or_part(part) for part in parts])
        try:
            with self._watch.batch([part.submission.origin for part in parts], len(samples)):
                answers = await self._apply(samples, batch.turn)
        except Exception:
            logger.exception("a batch failed", size=len(samples))
            answers = Answers.blank(0, Status.DEFERRED)
        if len(answers) != len(samples):
            logger.error("a batch was not answered", size=len(samples), answers=len(answers))
            answers = Answers.blank(len(samples), Status.DEFERRED)
            answers.refuse(range(len(samples)), Status.DEFERRED, "the batch failed")
        if batch.follows is not None:
            await batch.follows.turn.over()  # it puts its vehicles back first
        failed = {samples.vehicle_ids[row] for row in np.flatnonzero(np.isin(answers.status, RETRYABLE)).tolist()}
        self._release(batch, failed)
        first = 0
        for part in parts:
            end = first + len(part.rows)
            part.submission.settle(np.array(part.rows), answers.part(first, end))
            first = end
        task = asyncio.current_task()
        if task is not None:
            self._batches.discard(task)
        self._changed.set()

    def _release(self, batch: Batch, failed: set[str]) -> None:
        """Put vehicles back in line with what came meanwhile; those in a batch that follows stay with it.

        After a vehicle's retryable failure, what it has queued must not overtake the sample that failed.
        """
        if self._lead is batch:
            self._lead = None
        kept = set() if batch.follower is None else set(batch.follower.vehicle_ids)
        for vehicle_id in batch.vehicle_ids:
            lane = self._under_way[vehicle_id] if vehicle_id in kept else self._under_way.pop(vehicle_id)
            if vehicle_id in failed:
                waiting = list(lane)
                lane.clear()
                for run in waiting:
                    answers = Answers.blank(len(run.rows), Status.DEFERRED)
                    answers.seq[:] = run.submission.samples.seq[run.rows]
                    answers.refuse(range(len(run.rows)), Status.DEFERRED, "an earlier sample was deferred")
                    run.submission.settle(np.array(run.rows), answers)
                    self._count(-len(run.rows))
            elif lane and vehicle_id not in kept:
                self._ready[vehicle_id] = lane

    def _count(self, change: int) -> None:
        self._queued += change
        self._depth.set(self._queued)


def whole_or_part(part: Part) -> Samples:
    """The samples that a batch takes from a submission; without a copy when it takes all of them in order."""
    samples = part.submission.samples
    if len(part.rows) == len(samples):
        part.rows.sort()  # a vehicle's rows were in order; between vehicles no order is owed
        return samples
    return samples.take(part.rows)
