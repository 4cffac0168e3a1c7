"""Delivers to one sink: leases partitions, takes what is new, hands over what a dead worker had taken.

A partition is delivered to a sink by one worker at a time, so that `resolved` cannot overtake `firing`; which one, a lease
says. A worker that dies leaves its leases to expire and its entries in the consumer group: the next one claims them
(XAUTOCLAIM), and tells the sink again what may have been told already, with the same event id.
"""

import asyncio
import random
import secrets
import socket
from collections.abc import Awaitable, Callable

import structlog

from service.delivery.lanes import Health
from service.delivery.outbox import FAILURES, Outbox
from service.delivery.shift import Shift, SinkParts
from service.delivery.silence_watch import SilenceWatch
from service.delivery.sink_client import SinkClient
from service.delivery.sinks_file import AlertmanagerSink, AnySink
from service.observe.metrics import Metrics

logger = structlog.get_logger(__name__)

LOOK_EVERY_S = 1.0
SAFETY_S = 5.0  # whatever woke nobody is found after so long
MARGIN = 0.8  # of a lease that we count on: clocks do not run alike
GRACE_S = 5.0  # for requests under way when asked to stop
PAUSE_S = 1.0  # after an error of ours


class SinkDispatcher:
    """One sink's deliveries by this worker."""

    def __init__(
        self, sink: AnySink, outbox: Outbox, silences: SilenceWatch, metrics: Metrics, *, lease_s: float
    ) -> None:
        self.sink = sink
        self._outbox = outbox
        self._lease_s = lease_s
        self._owner = f"{socket.gethostname()}-{secrets.token_hex(8)}"
        self._client = SinkClient(sink)
        self._shifts: dict[int, Shift] = {}
        self._woken = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._parts = SinkParts(
            sink, self._client, outbox, self._owner, silences, metrics, asyncio.Semaphore(sink.concurrency), Health(),
            self._woken.set,
        )  # fmt: skip
        metrics.notifications_waiting.labels(sink.name).set_function(self.in_hand)

    def in_hand(self) -> int:
        """Notices taken and not settled."""
        return sum(len(shift) for shift in self._shifts.values())

    async def start(self) -> None:
        """Begin: what is committed from now on is delivered, whoever does it. Raises what the store raises."""
        await self._outbox.open_groups(self.sink.name, range(self._outbox.partitions), "$")
        loops: list[tuple[Callable[[], Awaitable[None]], float]] = [
            (self._hold, self._lease_s / 3.0),
            (self._take, 0.0),
            (self._look, LOOK_EVERY_S),
        ]
        if isinstance(self.sink, AlertmanagerSink):
            loops.append((self._repeat, LOOK_EVERY_S))
        self._tasks = [asyncio.create_task(self._again_and_again(work, pause_s)) for work, pause_s in loops]

    async def close(self) -> None:
        """Finish what is being sent, leave the rest to others."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        shifts = list(self._shifts.values())
        await asyncio.gather(*(shift.close(GRACE_S) for shift in shifts))
        self._shifts.clear()
        await self._outbox.give_back(self.sink.name, self._owner, range(self._outbox.partitions))
        await self._client.close()

    def wake(self, partition: int) -> None:
        """There is something new in a partition."""
        shift = self._shifts.get(partition)
        if shift is not None:
            shift.more = True
            self._woken.set()

    async def _again_and_again(self, work: Callable[[], Awaitable[None]], pause_s: float) -> None:
        """`work` for ever, whatever it raises."""
        while True:
            try:
                await work()
            except FAILURES as error:
                logger.warning("delivery waits for the store", sink=self.sink.name, reason=str(error))
                await asyncio.sleep(PAUSE_S)
            except Exception:
                logger.exception("an error of ours in the delivery", sink=self.sink.name)
                await asyncio.sleep(PAUSE_S)
            await asyncio.sleep(pause_s)

    async def _hold(self) -> None:
        """Renew the leases, take those that are free, drop those that are lost."""
        asked = asyncio.get_running_loop().time()
        partitions = range(self._outbox.partitions)
        replies = await self._outbox.hold(self.sink.name, self._owner, self._lease_s, partitions)
        taken = []
        for partition, reply in zip(partitions, replies, strict=True):
            shift = self._shifts.get(partition)
            if isinstance(reply, Exception):  # ours until it ends, as far as we know
                if shift is not None and asyncio.get_running_loop().time() >= shift.valid_until:
                    await self._drop(partition)
                continue
            if shift is not None and reply != 1:  # another had it meanwhile, even if it is ours again
                await self._drop(partition)
                shift = None
            if reply == 0:
                continue
            if shift is None:
                taken.append(partition)
            else:
                shift.valid_until = asked + MARGIN * self._lease_s
        for partition in taken:
            await self._begin(partition, asked + MARGIN * self._lease_s)

    async def _begin(self, partition: int, valid_until: float) -> None:
        """Start on a partition; if the store does not let us, the lease goes back so that it is tried again."""
        shift = Shift(self._parts, partition)
        shift.valid_until = valid_until
        shift.repeat_at = asyncio.get_running_loop().time() + random.random()  # noqa: S311  (not all at once)
        try:
            await shift.begin()
        except BaseException:
            await shift.close()
            await self._outbox.give_back(self.sink.name, self._owner, [partition])
            raise
        self._shifts[partition] = shift
        self._woken.set()

    async def _drop(self, partition: int) -> None:
        logger.warning("the lease on a partition is lost", sink=self.sink.name, partition=partition)
        await self._shifts.pop(partition).close()

    async def _take(self) -> None:
        """Wait until there may be something new, and take it."""
        try:
            async with asyncio.timeout(SAFETY_S):  # not wait_for, which up to Python 3.11 may swallow a cancellation
                await self._woken.wait()
        except TimeoutError:
            for shift in self._shifts.values():
                shift.more = True
        self._woken.clear()
        for shift in list(self._shifts.values()):
            if shift.more:
                await self._take_from(shift)

    async def _take_from(self, shift: Shift) -> None:
        """A partition whose group or node is away waits, and the others do not wait for it."""
        try:
            await shift.take()
        except FAILURES as error:
            if "NOGROUP" in str(error):  # the store has lost it, and the stream with it
                await self._outbox.open_groups(self.sink.name, [shift.partition], "0")
                self._woken.set()
            else:
                logger.warning("a partition cannot be read", partition=shift.partition, reason=str(error))

    async def _look(self) -> None:
        for shift in list(self._shifts.values()):
            try:
                await shift.look()
            except FAILURES as error:
                logger.warning("a partition cannot be read", partition=shift.partition, reason=str(error))

    async def _repeat(self) -> None:
        if not isinstance(self.sink, AlertmanagerSink):
            return
        now = asyncio.get_running_loop().time()
        for shift in list(self._shifts.values()):
            if shift.repeat_at <= now:
                shift.repeat_at = now + self.sink.repeat_s
                await shift.repeat()
