"""The one reader of a worker: follows the outboxes of all partitions and tells whoever wants to know what is new."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

import structlog

from service.delivery.outbox import Entry, Outbox

logger = structlog.get_logger(__name__)

POLL_S = 0.2  # what another worker committed is noticed after so long; our own commits wake us
GAP_S = 0.02  # however often we are woken
S_PER_PARTITION = 0.001  # asking a partition costs about 20 us: with very many it is done less often
LONGEST_POLL_S = 5.0
PAGE = 500


class News(NamedTuple):
    """What one look found: the entries of each partition that has any, and the clock of the stores before it."""

    entries: dict[int, list[Entry]]
    floor_ms: int


class Tail:
    """Follows the outboxes from where they are when it starts.

    Attributes:
        listeners: told after each look, also if there is nothing new.
        last: by partition, id of the last entry seen; "0-0" where there is none.
        floor_ms: every entry of before this time has been seen, by the clocks of the stores.
    """

    def __init__(self, outbox: Outbox, listeners: list[Callable[[News], None]]) -> None:
        self._outbox = outbox
        self.listeners = listeners
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.last: list[str] = []
        self.floor_ms = 0

    async def start(self) -> None:
        """Find out where the outboxes are. Raises what the store raises."""
        self.last = await self._outbox.last_ids()
        await self.look()
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def wake(self) -> None:
        """There is something new."""
        self._woken.set()

    async def _run(self) -> None:
        pause_s = min(LONGEST_POLL_S, max(POLL_S, S_PER_PARTITION * self._outbox.partitions))
        while True:
            try:
                await self.look()
            except Exception:
                logger.exception("the outboxes cannot be followed; trying again")
            await asyncio.sleep(GAP_S)
            try:
                async with asyncio.timeout(pause_s):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def look(self) -> None:
        """Read what is new in every partition, and tell."""
        self._woken.clear()
        todo, found, clocks = list(range(self._outbox.partitions)), dict[int, list[Entry]](), list[int]()
        first = True
        while todo:
            more = []
            pages = await self._outbox.after({p: self.last[p] for p in todo}, PAGE)
            for partition, page in pages.items():
                if page is None:  # its node is away
                    clocks.append(0)
                    continue
                if first:
                    clocks.append(page.now_ms)
                if page.entries:
                    found.setdefault(partition, []).extend(page.entries)
                    self.last[partition] = page.entries[-1].id
                if len(page.entries) == PAGE:
                    more.append(partition)
            todo, first = more, False
        self.floor_ms = max(self.floor_ms, min(clocks))
        news = News(found, self.floor_ms)
        for listener in self.listeners:
            listener(news)
