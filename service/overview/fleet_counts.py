"""How many vehicles are heard of, by the store's own index: the same figure from every worker, so take the maximum of them."""

import asyncio
import time

import structlog
from prometheus_client import Gauge

from service.errors import StoreUnavailable
from service.store.store import Store

logger = structlog.get_logger(__name__)

EVERY_S = 15.0


class FleetCounts:
    """Keeps two gauges up to date in the background.

    Args:
        store: to ask.
        stale_after_s: a vehicle that was silent for so long is stale.
        active, stale: the gauges. They keep their last value while the store does not answer.
    """

    def __init__(self, store: Store, stale_after_s: float, active: Gauge, stale: Gauge) -> None:
        self._store, self._stale_after_s = store, stale_after_s
        self._active, self._stale = active, stale

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.count()
            except StoreUnavailable as error:
                logger.debug("vehicles were not counted", reason=error.detail)
            except Exception:
                logger.exception("vehicles were not counted")
            await asyncio.sleep(EVERY_S)

    async def count(self) -> None:
        """Once. Raises StoreUnavailable."""
        since_ms = int(1000.0 * (time.time() - self._stale_after_s))
        active, stale = await self._store.roll.count_since(since_ms)
        self._active.set(active)
        self._stale.set(stale)
