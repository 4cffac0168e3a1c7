"""Puts the running service together. The only module that knows all its parts."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import structlog

from model.checkpoint import Checkpoint
from model.runtime import ModelRuntime
from service.alerting.alerts import AlertPolicy
from service.alerting.silences import Silences
from service.delivery.delivery import Delivery
from service.delivery.outbox import Outbox
from service.delivery.sinks_file import AnySink
from service.deps import Running
from service.engine.batcher import MicroBatcher
from service.engine.context import EngineOptions
from service.engine.engine import StateEngine
from service.engine.reorder import ReorderWindow, Submit
from service.gate.new_vehicles import HOUR_S, NewVehicles, VehicleRate
from service.gate.rate_limit import RedisHits, SampleRate, window_of
from service.observe.metrics import Metrics
from service.overview.fleet_counts import FleetCounts
from service.overview.fleet_view import FleetView
from service.overview.pulse import Pulse
from service.overview.shared_answers import SharedAnswers
from service.records.history import HistoryLayout, Retention
from service.records.journal import JournalLayout
from service.settings import Settings, is_loopback, without_secrets
from service.store.embedded_store import EmbeddedStore
from service.store.store import Store
from service.wire.decode import Decoder

if TYPE_CHECKING:
    from service.observe.tracing import Tracing

logger = structlog.get_logger(__name__)

WATCH_INTERVAL_S = 1.0


class Startup:
    """Starts every part of a service in order; `stack` stops them in reverse."""

    def __init__(
        self,
        settings: Settings,
        runtime: ModelRuntime,
        policy: AlertPolicy,
        decoder: Decoder,
        sinks: Sequence[AnySink],
        metrics: Metrics,
        tracing: "Tracing | None",
        stack: AsyncExitStack,
    ) -> None:
        self._settings = settings
        self._runtime = runtime
        self._policy = policy
        self._decoder = decoder
        self._sinks = sinks
        self._metrics = metrics
        self._tracing = tracing
        self._stack = stack

    async def run(self) -> Running:
        """Everything, from the store to what pages ask for.

        Raises:
            StoreUnavailable, StoreMisconfigured: the service must not start like this.
        """
        settings, runtime, metrics = self._settings, self._runtime, self._metrics
        if self._tracing is not None:
            self._stack.push_async_callback(asyncio.to_thread, self._tracing.close)
        runtime.warm_up()
        if settings.keys_file is None and not is_loopback(settings.host):
            logger.warning("open to the network without API keys: anybody who reaches it can write", host=settings.host)
        url = settings.store if settings.store != "embedded" else await self._embedded()
        retention = retention_of(settings, runtime.checkpoint)
        store = await self._store(url, retention)
        delivery = await self._delivery(url, store)
        store.on_news = delivery.committed
        engine = self._engine(store, retention)
        batcher = self._batcher(engine)
        await self._in_background(engine.sweeper.run)
        self._say_what_runs(engine.context.fingerprint)
        counts = FleetCounts(store, settings.stale_after_s, metrics.vehicles_active, metrics.vehicles_stale)
        await self._in_background(counts.run)
        submit: Submit = batcher.submit
        if settings.reorder_window_ms > 0.0:
            submit = ReorderWindow(submit, settings.reorder_window_ms / 1000.0, settings.max_queue).submit
        fleet_view = FleetView(store, engine.context.layout, self._policy, settings.stale_after_s)
        self._stack.push_async_callback(fleet_view.close)
        return Running(
            settings=settings,
            checkpoint=runtime.checkpoint,
            runtime=runtime,
            metrics=metrics,
            store=store,
            engine=engine,
            batcher=batcher,
            decoder=self._decoder,
            submit=submit,
            sample_rate=await self._sample_rate(url),
            new_vehicles=await self._new_vehicles(url, store, engine),
            delivery=delivery,
            fleet_view=fleet_view,
            shared_answers=SharedAnswers(),
            pulse=await self._pulse(store, engine.context.fingerprint),
        )

    async def _embedded(self) -> str:
        """Start the embedded Valkey and whoever starts it again when it dies; its URL."""
        embedded = EmbeddedStore(self._settings.data_dir, fsync=self._settings.durability == "fsync")
        url = await asyncio.to_thread(embedded.start)
        self._stack.push_async_callback(asyncio.to_thread, embedded.stop)
        await self._in_background(lambda: watch(embedded, self._metrics))
        return url

    async def _store(self, url: str, retention: Retention | None) -> Store:
        settings, config = self._settings, self._runtime.checkpoint.config
        store = Store(
            url,
            settings.partitions,
            settings.store_timeout_s,
            self._metrics.store_duration,
            entry_bytes=JournalLayout(config.d_input).dtype.itemsize,
            durability=settings.durability,
            retention=retention,
        )
        self._stack.push_async_callback(store.close)
        await store.check()
        return store

    async def _delivery(self, url: str, store: Store) -> Delivery:
        settings = self._settings
        outbox = Outbox(url, settings.partitions, settings.store_timeout_s)
        delivery = Delivery(outbox, self._sinks, Silences(store), self._metrics, lease_s=settings.delivery_lease_s)
        self._stack.push_async_callback(delivery.close)
        await delivery.start()
        return delivery

    def _engine(self, store: Store, retention: Retention | None) -> StateEngine:
        settings, runtime = self._settings, self._runtime
        options = EngineOptions(
            n_slots=runtime.n_slots,
            max_future_skew_s=settings.max_future_skew_s,
            snapshot_every=settings.snapshot_every,
            snapshot_dtype=settings.snapshot_dtype,
            retention=retention,
        )
        span = None if self._tracing is None else self._tracing.stage
        engine = StateEngine(runtime.checkpoint, runtime, store, self._metrics, self._policy, options, span=span)
        self._stack.push_async_callback(engine.close)
        return engine

    def _batcher(self, engine: StateEngine) -> MicroBatcher:
        batcher = MicroBatcher(
            engine.apply,
            max_batch_size=self._settings.max_batch_size,
            max_wait_s=self._settings.max_wait_ms / 1000.0,
            max_queue=self._settings.max_queue,
            depth=self._metrics.queue_depth,
            follow=self._settings.follow_batches,
            watch=None if self._tracing is None else self._tracing.batches(),
        )
        batcher.start()
        self._stack.push_async_callback(batcher.close)
        return batcher

    def _say_what_runs(self, fingerprint: str) -> None:
        """In the metrics and in the log."""
        backend, device = self._runtime.backend, self._runtime.device
        self._metrics.build.info({"version": version("emberwatch"), "backend": backend, "device": device})
        self._metrics.model.info({"fingerprint": fingerprint})
        store = without_secrets(self._settings.store)
        logger.info("ready to take samples", backend=backend, device=device, fingerprint=fingerprint, store=store)

    async def _sample_rate(self, url: str) -> SampleRate | None:
        """The limit of samples per key, or None where there is none."""
        per_s, burst = self._settings.rate_limit_samples_per_s, self._settings.rate_limit_burst
        timeout_s = self._settings.rate_limit_timeout_s
        if per_s == 0.0:
            return None
        hits = RedisHits(url, "samples", *window_of(per_s, burst), timeout_s)
        self._stack.push_async_callback(hits.close)
        await hits.start()
        return SampleRate(hits, per_s, burst, timeout_s, self._metrics.rate_limit_failures)

    async def _new_vehicles(self, url: str, store: Store, engine: StateEngine) -> NewVehicles | None:
        """Who lets new vehicles in, or None where all may come."""
        settings, metrics = self._settings, self._metrics
        per_h, timeout_s, rate = settings.new_vehicles_per_h, settings.rate_limit_timeout_s, None
        if per_h:
            hits = RedisHits(url, "vehicles", per_h, HOUR_S, timeout_s)
            self._stack.push_async_callback(hits.close)
            await hits.start()
            rate = VehicleRate(hits, per_h, timeout_s, metrics.rate_limit_failures)
        if not settings.max_vehicles and rate is None:
            return None
        return NewVehicles(store, engine.is_cached, settings.max_vehicles, rate, metrics.vehicles_refused)

    async def _pulse(self, store: Store, fingerprint: str) -> Pulse:
        runtime = self._runtime
        facts = {"backend": runtime.backend, "device": runtime.device, "fingerprint": fingerprint}
        pulse = Pulse(self._metrics, store, facts | {"slots_capacity": runtime.n_slots - 1})
        await pulse.take()
        await self._in_background(pulse.run)
        return pulse

    async def _in_background(self, work: Callable[[], Awaitable[Any]]) -> None:
        await self._stack.enter_async_context(background(work))


def retention_of(settings: Settings, checkpoint: Checkpoint) -> Retention | None:
    """How much of what vehicles sent is kept; None: nothing."""
    if not settings.retain_history:
        return None
    layout = HistoryLayout(checkpoint.schema.signal_names)
    return Retention(layout, settings.history_bytes, int(3_600_000 * settings.history_hours))


async def watch(embedded: EmbeddedStore, metrics: Metrics) -> None:
    """Start the embedded store again whenever it dies."""
    while True:
        await asyncio.sleep(WATCH_INTERVAL_S)
        if not await asyncio.to_thread(embedded.alive):
            try:
                await asyncio.to_thread(embedded.restart)
                metrics.store_restarts.inc()
            except Exception:
                logger.exception("the embedded store does not come up; trying again")


@asynccontextmanager
async def background(work: Callable[[], Awaitable[Any]]) -> AsyncIterator[None]:
    """Run `work` beside the body and cancel it afterwards."""
    task = asyncio.ensure_future(work())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
