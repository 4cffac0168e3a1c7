"""Packs blocks of histories in the background: what a commit moved to the list raw is replaced by its packed form."""

import asyncio
from collections.abc import Iterable

import structlog

from service.errors import StoreUnavailable
from service.records.history import HistoryError, is_raw, pack_block
from service.store.store import Store

logger = structlog.get_logger(__name__)

LOOKED_AT = 4  # blocks from the end: one that was missed is packed with the next


class HistoryPacker:
    """One worker's. A block that it misses stays raw: larger, within the same bound."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, vehicle_ids: Iterable[str]) -> None:
        """The histories of these vehicles have new blocks."""
        self._waiting |= dict.fromkeys(vehicle_ids)
        if self._waiting and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run(), name="history")

    async def close(self) -> None:
        """Finish what is in hand."""
        if self._task is not None:
            await self._task

    async def _run(self) -> None:
        while self._waiting:
            vehicle_id = next(iter(self._waiting))
            del self._waiting[vehicle_id]
            try:
                await self._pack(vehicle_id)
            except StoreUnavailable:
                pass  # with its next block
            except HistoryError as error:
                logger.warning("a block of the history is not packed", vehicle_id=vehicle_id, reason=str(error))
            except Exception:
                logger.exception("a block of the history is not packed", vehicle_id=vehicle_id)

    async def _pack(self, vehicle_id: str) -> None:
        blocks = await self._store.histories.last_blocks(vehicle_id, LOOKED_AT)
        for place, block in enumerate(blocks, -len(blocks)):
            if is_raw(block):
                packed = await asyncio.to_thread(pack_block, block)
                await self._store.histories.replace_block(vehicle_id, place, block, packed)
