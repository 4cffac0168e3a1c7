"""All of delivery in one worker: the reader of the outboxes, a dispatcher for each sink, and the trimming."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Iterable, Sequence

import structlog

from service.delivery.dispatcher import SinkDispatcher
from service.delivery.events import Filter, ending, heartbeat
from service.delivery.history import History, missed
from service.delivery.hub import Hub, Listener, Push
from service.delivery.outbox import FAILURES, Outbox
from service.delivery.position import Position
from service.delivery.silence_watch import Silences, SilenceWatch
from service.delivery.sinks_file import AnySink
from service.delivery.tail import News, Tail
from service.observe.metrics import Metrics

logger = structlog.get_logger(__name__)

TRIM_EVERY_S = 30.0
RESUMING = 4  # listeners that read from the store at once
RETRY_MS = (1_000, 5_000)  # after which a listener reconnects


class Delivery:
    """What brings alerts out of the store."""

    def __init__(
        self,
        outbox: Outbox,
        sinks: Sequence[AnySink],
        silences: Silences | None,
        metrics: Metrics,
        *,
        lease_s: float,
    ) -> None:
        self._outbox = outbox
        self._metrics = metrics
        watch = SilenceWatch(silences)
        self._dispatchers = [SinkDispatcher(sink, outbox, watch, metrics, lease_s=lease_s) for sink in sinks]
        self.hub = Hub(outbox.partitions, metrics.alert_listeners_ended)
        metrics.alert_listeners.set_function(lambda: len(self.hub.listeners))
        self._resuming = asyncio.Semaphore(RESUMING)
        self._tail = Tail(outbox, [self._heard])
        self._trimmer: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin. Raises what the store raises."""
        await self._tail.start()
        self.hub.start(self._tail.last, self._tail.floor_ms)
        self._tail.listeners.append(self.hub.hear)
        for dispatcher in self._dispatchers:
            await dispatcher.start()
        self._trimmer = asyncio.create_task(self._trim())

    async def close(self) -> None:
        """Finish what is being sent; the rest stays in the store for another worker."""
        await self.hub.close()
        await self._tail.close()
        if self._trimmer is not None:
            self._trimmer.cancel()
            await asyncio.gather(self._trimmer, return_exceptions=True)
        await asyncio.gather(*(dispatcher.close() for dispatcher in self._dispatchers))
        await self._outbox.close()

    async def listen(
        self, wants: Filter, since: Position | None, joined: Callable[[Listener], None], push: Push | None = None
    ) -> AsyncIterator[bytes]:
        """The stream of one listener: what it has not had since a position, then what comes; its end says why."""
        listener = self.hub.join(wants, push)
        joined(listener)
        try:
            here, until = self.hub.position, self.hub.last
            yield b"retry: %d\n\n" % random.randint(*RETRY_MS)  # noqa: S311  (not all at once)
            if since is not None:
                async with self._resuming:
                    yield await missed(self._outbox, since)
                    async for page in History(self._outbox, since, until):
                        yield b"".join(heard.text for heard in page if wants.wants(heard.record))
            yield heartbeat(here)
            while chunk := await self.hub.next_chunk(listener):
                yield chunk
            yield ending(listener.ended)
        except FAILURES as error:
            logger.warning("what a listener missed cannot be read", reason=str(error))
            yield ending("store")
        finally:
            self.hub.leave(listener)

    def committed(self, partitions: Iterable[int]) -> None:
        """This worker has just committed changes of alerts in these partitions: nobody has to wait for the next look."""
        for partition in partitions:
            self._wake(partition)
        self._tail.wake()

    def _heard(self, news: News) -> None:
        for partition in news.entries:
            self._wake(partition)

    def _wake(self, partition: int) -> None:
        for dispatcher in self._dispatchers:
            dispatcher.wake(partition)

    async def _trim(self) -> None:
        """Keep the outboxes bounded, and count what a sink did not get for it."""
        while True:
            await asyncio.sleep(TRIM_EVERY_S)
            try:
                dropped = await self._outbox.trim([dispatcher.sink.name for dispatcher in self._dispatchers])
            except FAILURES as error:
                logger.warning("the outboxes were not trimmed", reason=str(error))
                continue
            if dropped:
                logger.error("changes of alerts were dropped before every sink had them", n=dropped)
                self._metrics.outbox_dropped.inc(dropped)
