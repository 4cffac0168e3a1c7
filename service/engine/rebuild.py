"""States from histories: a vehicle whose state another model made, or that is damaged, is scanned again from what it sent.

48 hours are about a second of work (an estimate), so it is done in the background, one vehicle after the other, in slices between which batches of
others get their turn at the processor. Until it is done the vehicle's samples are deferred. The state is written to the store with
the vehicle's next sample; a worker that loads it before scans again.
"""

import asyncio
from collections.abc import Collection

import numpy as np
import structlog

from model.preprocess import Features
from service.engine.context import EngineContext
from service.engine.rehydrate import Restored
from service.engine.residency import Residency
from service.errors import ServiceError, StoreUnavailable
from service.records.checksum import seal
from service.records.history import HistoryError, Retained, Retention
from service.records.journal import KEEP
from service.store.changes import Rebase, Stored, version_of

logger = structlog.get_logger(__name__)

SLICE = 512  # samples scanned before others get their turn
WAIT = "the vehicle's state is being rebuilt from its history"


class Rebuilding(ServiceError):
    """The state is not there yet: it is being rebuilt from the vehicle's history."""

    status, kind = 503, "rebuilding"


class Rebuilder:
    """Brings vehicles into the cache whose states have to be scanned from their histories."""

    def __init__(self, context: EngineContext, residency: Residency, retention: Retention) -> None:
        self._preprocessor = context.checkpoint.preprocessor()
        self._runtime = context.runtime
        self._layout = context.layout
        self._journals = context.journals
        self._residency = residency
        self._store = context.store
        self._claims = context.claims
        self._metrics = context.metrics
        self._step_thread = context.step_thread
        self._retention = retention
        self.waiting: dict[str, None] = {}
        self._task: asyncio.Task[None] | None = None

    def add(self, vehicle_ids: Collection[str]) -> None:
        """Rebuild these vehicles, as soon as those before them are done."""
        self.waiting |= dict.fromkeys(vehicle_ids)
        self._metrics.vehicles_rebuilding.set(len(self.waiting))
        if self.waiting and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run(), name="rebuild")

    def ask(self, vehicle_ids: list[str]) -> None:
        """`Residency.without_state`. Raises Rebuilding."""
        self.add(vehicle_ids)
        raise Rebuilding(WAIT)

    async def close(self) -> None:
        """Give up what is not done: the next worker begins anew."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while self.waiting:
            vehicle_id = next(iter(self.waiting))
            try:
                async with self._claims.hold([vehicle_id]):
                    await self._bring(vehicle_id)
            except StoreUnavailable:
                pass  # its next sample asks again
            except Exception:
                logger.exception("a state was not rebuilt", vehicle_id=vehicle_id)
            finally:
                self.waiting.pop(vehicle_id, None)
                self._metrics.vehicles_rebuilding.set(len(self.waiting))

    async def _bring(self, vehicle_id: str) -> None:
        """Into the cache: by its history, or cold if that does not lead to its last sample."""
        if self._residency.slot(vehicle_id) is not None:
            return
        stored = await self._store.peek(vehicle_id)
        try:
            head = self._layout.unpack(b"" if stored is None else stored.head)
            epoch, accepted, last_ms = (int(head[name][0]) for name in ("epoch", "accepted", "last_ts_ms"))
            blocks = await self._store.histories.of(vehicle_id)
            retained = await asyncio.to_thread(
                self._retention.layout.retained, blocks, epoch, accepted, last_ms - self._retention.max_ms
            )
        except (ValueError, HistoryError) as error:
            logger.warning("the history cannot be used", vehicle_id=vehicle_id, reason=str(error))
            retained = None
        if stored is None or retained is None or not len(retained.ts_ms):
            await self._residency.load([vehicle_id], cold=True)
            return
        slot = self._residency.claim(vehicle_id)
        try:
            restored = await self._scan(vehicle_id, slot, stored, retained)
        except BaseException:
            self._residency.drop([vehicle_id])
            raise
        self._residency.fill(vehicle_id, slot, restored)
        logger.info("state rebuilt", vehicle_id=vehicle_id, samples=len(retained.ts_ms), first=retained.first)

    async def _scan(self, vehicle_id: str, slot: int, stored: Stored, retained: Retained) -> Restored:
        """The state of this model after the samples, in the slot; the head that goes with it."""
        head = self._layout.salvage(stored.head)
        n, slots, loop = len(retained.ts_ms), np.array([slot]), asyncio.get_running_loop()
        features = await asyncio.to_thread(
            self._preprocessor.advance_runs, head["preprocess"], np.array([n]), retained.ts_ms, retained.signals
        )
        await loop.run_in_executor(self._step_thread, self._runtime.zero, slots)
        for first in range(0, n, SLICE):
            inputs, ratio = features.inputs[first : first + SLICE], features.ratio[first : first + SLICE]
            part, lengths = (
                Features.of(np.ascontiguousarray(inputs), np.ascontiguousarray(ratio)),
                np.array([len(ratio)]),
            )
            scores = await loop.run_in_executor(self._step_thread, self._runtime.scan, slots, lengths, part)
        head["samples"], head["risk"] = n, scores.risk[-1]
        head["forecast_mean"], head["forecast_log_scale"] = scores.forecast_mean[-1], scores.forecast_log_scale[-1]
        seal(head)
        try:
            answered = self._journals.unpack(stored.journal, head).entries
        except ValueError:
            answered = self._journals.entries(0)
        rebase = Rebase(b"", None, stored.base, KEEP, self._store.snapshot_key(vehicle_id, stored))
        base = self._journals.base(int(head["epoch"][0]), int(head["accepted"][0]))
        return Restored(head, version_of(stored.head), base, answered, rebase=rebase, from_history=True)
