"""Notices on their way to one sink: in order within an alert, side by side between alerts, tried again until they are settled.

deliver -> delivered: settled | refused, or failed for too long: dead letter, then settled | failed: wait, again
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog
from redis.exceptions import RedisError

from service.delivery.notice import Notice
from service.delivery.sink_client import Result
from service.store.redis_wire import Command

logger = structlog.get_logger(__name__)

LEAST_ATTEMPTS = 3  # also for what is old when it is first seen
STORE_PAUSE_S = 0.5
POLL_S = 0.02
DOWN_AFTER = 3  # failures in a row, of whatever notice
STAGGER_S = 1.0  # over which those that waited try again when a sink is back


@dataclass(frozen=True, slots=True)
class Patience:
    """How long and how often a notice is tried."""

    retry_for_s: float
    first_retry_s: float
    longest_retry_s: float

    def pause(self, attempts: int, retry_after_s: float) -> float:
        """Seconds to wait after so many attempts: exponential with full jitter, and never less than was asked for.

        Source: Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015.
        """
        longest = min(self.longest_retry_s, self.first_retry_s * 2.0 ** min(attempts - 1, 30))
        return max(retry_after_s, longest * (0.1 + 0.9 * random.random()))  # noqa: S311

    def is_over(self, attempts: int, age_s: float) -> bool:
        """Whether a notice of this age has been tried enough."""
        return attempts >= LEAST_ATTEMPTS and age_s > self.retry_for_s


@dataclass(slots=True)
class Job:
    """One notice in hand.

    Attributes:
        token: by which it is known, so that nothing is in hand twice.
        settle: commands that take it off the store's lists.
        attempts: so far, by this worker.
    """

    token: str
    notice: Notice
    settle: tuple[Command, ...] = ()
    attempts: int = 0


class Desk(Protocol):
    """What is done with a job. `settle` and `bury` may raise RedisError, OSError, TimeoutError; then they are called again."""

    async def attempt(self, job: Job) -> Result | None:
        """One try; None: there is nothing to tell, and the job is settled."""

    async def settle(self, job: Job) -> None:
        """Take it off the store's lists."""

    async def bury(self, job: Job, reason: str) -> None:
        """Put it among the dead letters."""

    def note(self, word: str, job: Job) -> None:
        """Count a result."""

    def age_s(self, job: Job) -> float:
        """Since the change was committed."""

    def left(self) -> None:
        """A job is settled; there is room for another."""


@dataclass(slots=True)
class Health:
    """Whether a sink answers, as this worker has seen it, for all partitions together."""

    failures: int = 0
    back: asyncio.Event = field(default_factory=asyncio.Event)

    def failed(self) -> None:
        """One more failure in a row."""
        self.failures += 1

    def answered(self) -> None:
        """It answers: those that wait for a sink that was down need not wait any longer."""
        if self.failures >= DOWN_AFTER:
            self.back.set()
            self.back = asyncio.Event()
        self.failures = 0

    async def pause(self, seconds: float) -> None:
        """Wait, shorter if the sink comes back."""
        try:
            async with asyncio.timeout(seconds):
                await self.back.wait()
        except TimeoutError:
            return
        await asyncio.sleep(STAGGER_S * random.random())  # noqa: S311


class Lanes:
    """The notices in hand of one sink and partition; ends with the lease.

    Args:
        desk: who tries, settles and buries.
        patience: when to try again.
        slots: requests at once, shared by all partitions of the sink.
        health: likewise.
    """

    def __init__(self, desk: Desk, patience: Patience, slots: asyncio.Semaphore, health: Health) -> None:
        self._desk = desk
        self._patience = patience
        self._slots = slots
        self._health = health
        self._stopping = False
        self._busy = 0  # being sent, or settled
        self._queues: dict[str, deque[Job]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.tokens: set[str] = set()

    def __len__(self) -> int:
        return len(self.tokens)

    def put(self, job: Job) -> None:
        """Take a notice in hand, behind those of the same alert; once only."""
        if job.token in self.tokens:
            return
        self.tokens.add(job.token)
        queue = self._queues.get(job.notice.key)
        if queue is not None:
            queue.append(job)
            return
        self._queues[job.notice.key] = deque([job])
        self._start(job.notice.key)

    def occupy(self, keys: list[str]) -> list[str]:
        """Those of these alerts of which nothing is in hand; until `release`, what is put behind them waits."""
        free = [key for key in keys if key not in self._queues]
        self._queues |= {key: deque() for key in free}
        return free

    def release(self, keys: list[str]) -> None:
        """Let what came meanwhile go."""
        for key in keys:
            if self._queues.get(key):
                self._start(key)
            else:
                self._queues.pop(key, None)

    async def close(self, grace_s: float = 0.0) -> None:
        """Drop everything, after what is just being sent had its time; what was not settled stays on the store's lists."""
        self._stopping = True
        deadline = asyncio.get_running_loop().time() + grace_s
        while self._busy and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110  (once in a worker's life)
            await asyncio.sleep(POLL_S)
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, key: str) -> None:
        task = asyncio.create_task(self._run(key))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("a lane broke; its notices wait for the next lease", exc_info=task.exception())

    async def _run(self, key: str) -> None:
        queue = self._queues[key]
        while queue:
            await self._see_through(queue[0])
            self.tokens.discard(queue.popleft().token)
            self._desk.left()
        del self._queues[key]

    async def _see_through(self, job: Job) -> None:
        """Until the notice is settled."""
        while True:
            async with self._slots:
                if self._stopping:
                    raise asyncio.CancelledError
                self._busy += 1
                try:
                    result = await self._try(job)
                finally:
                    self._busy -= 1
            if result is None:
                return
            self._health.failed()
            if job.attempts == 1:
                logger.warning("a notice was not delivered", event_id=job.notice.event_id, reason=result.reason)
            await self._health.pause(self._patience.pause(job.attempts, result.retry_after_s))

    async def _try(self, job: Job) -> Result | None:
        """One attempt; its failure, or None when the notice is settled."""
        result = await self._desk.attempt(job)
        if result is None:
            return None
        job.attempts += 1
        self._desk.note(result.word, job)
        if result.word == "delivered":
            self._health.answered()
        elif result.word == "refused" or self._patience.is_over(job.attempts, self._desk.age_s(job)):
            logger.error("a notice becomes a dead letter", event_id=job.notice.event_id, reason=result.reason)
            await insist(lambda: self._desk.bury(job, result.reason))
            self._desk.note("dead", job)
        else:
            return result
        await insist(lambda: self._desk.settle(job))
        return None


async def insist(work: Callable[[], Awaitable[None]]) -> None:
    """Until the store takes it: what a sink has must not be sent again because the store was away."""
    while True:
        try:
            await work()
        except (RedisError, OSError, TimeoutError) as error:
            logger.warning("the store does not take what became of a notice; trying again", reason=str(error))
            await asyncio.sleep(STORE_PAUSE_S)
        else:
            return
