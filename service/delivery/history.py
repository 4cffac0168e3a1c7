"""What a listener that resumes has not had: from the store, up to where the hub was when it joined."""

from collections.abc import Mapping

from service.delivery.events import Heard, in_order, written
from service.delivery.outbox import Outbox
from service.delivery.position import SLACK_MS, EntryId, Position, entry_id

PAGE = 200


async def missed(outbox: Outbox, position: Position) -> bytes:
    """An event that tells what was trimmed before a listener could hear it; nothing if nothing was."""
    trimmed = {p: entry_id(text) for p, text in (await outbox.trimmed()).items()}
    lost = {p: at for p, at in trimmed.items() if at > entry_id(position.start_of(p))}
    if not lost:
        return b""
    data = {
        "since_ms": position.floor_ms,
        "until_ms": max(ms for ms, _ in lost.values()),
        "partitions": len(lost),
        "detail": "changes of alerts in this time are not kept any more; GET /v1/alerts has every alert as it is now",
    }
    return written("missed", data)


class History:
    """Pages of what happened since a position, in order of time over all partitions.

    Of each round of reading only what is not later than the end of the shortest full page is told: what is later may have
    something earlier before it in the rest of that page's partition.
    """

    def __init__(self, outbox: Outbox, position: Position, until: Mapping[int, EntryId], page: int = PAGE) -> None:
        self._outbox = outbox
        self._until = until
        self._page = page
        self._floor_ms = position.floor_ms
        self._at = {p: entry_id(position.start_of(p)) for p in until}
        self._seen = dict(position.seen)

    def __aiter__(self) -> "History":
        return self

    async def __anext__(self) -> list[Heard]:
        """The next page. Raises what the store raises."""
        todo = {p: at for p, at in self._at.items() if at < self._until[p]}
        if not todo:
            raise StopAsyncIteration
        pages = await self._outbox.between(
            {p: (f"{ms}-{n}", "{}-{}".format(*self._until[p])) for p, (ms, n) in todo.items()}, self._page
        )
        full = [entry_id(page[-1].id) for page in pages.values() if len(page) == self._page]
        bound = min(full, default=None)
        told = {p: [e for e in page if bound is None or entry_id(e.id) <= bound] for p, page in pages.items()}
        for p, some in told.items():
            if some:
                self._at[p] = entry_id(some[-1].id)
            elif bound is None:
                self._at[p] = self._until[p]
        return in_order(told, self._floor_ms + SLACK_MS, self._seen)
