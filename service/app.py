"""Puts the service together. The only module that knows all the others."""

import asyncio
import gc
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import structlog
from fastapi import FastAPI
from fastapi.routing import APIRoute

from model.checkpoint import Checkpoint, load_checkpoint
from model.runtime import ModelRuntime
from model.scoring import ANOMALY_CRITICAL_ABOVE, ANOMALY_HIGHEST, ANOMALY_RESOLVE_BELOW, ANOMALY_SMOOTHING_S
from service.alerting.alerts import AlertPolicy
from service.alerting.silences import Silences
from service.dashboard.site import routes as dashboard_routes
from service.delivery.delivery import Delivery
from service.delivery.outbox import Outbox
from service.delivery.sinks_file import AnySink, read_sinks
from service.deps import Running
from service.engine.batcher import BATCHES_UNDER_WAY, MicroBatcher
from service.engine.context import EngineOptions
from service.engine.engine import StateEngine
from service.engine.reorder import ReorderWindow, Submit
from service.engine.vehicle_bytes import slots_within
from service.errors import add_error_handlers
from service.gate.access import Access
from service.gate.hot_path import HotPath
from service.gate.keys import KeyRing
from service.gate.new_vehicles import HOUR_S, NewVehicles, VehicleRate
from service.gate.overload import Budget, InFlight
from service.gate.rate_limit import RedisHits, SampleRate, window_of
from service.gate.same_origin import SameOrigin
from service.observe.http_metrics import HttpMetrics
from service.observe.metrics import Metrics
from service.observe.observation import observe_model, tracing_for
from service.overview.fleet_counts import FleetCounts
from service.overview.fleet_view import FleetView
from service.overview.pulse import Pulse
from service.records.history import HistoryLayout, Retention
from service.records.journal import JournalLayout
from service.routes import (
    alert_stream,
    alerts,
    debug,
    fleet,
    operations,
    overview,
    silences,
    state,
    telemetry,
    trend,
    vehicles,
)
from service.routes.openapi import describe
from service.settings import Settings, is_loopback, without_secrets
from service.store.embedded_store import EmbeddedStore
from service.store.store import Store
from service.wire.decode import Decoder

if TYPE_CHECKING:
    from service.observe.tracing import Tracing

logger = structlog.get_logger(__name__)

WATCH_INTERVAL_S = 1.0

DESCRIPTION = """
Early warning of battery-thermal events. Send each van's samples in order; every sample gets a verdict and, once it is
part of the van's state, the calibrated risk of an event within the horizon. Errors are RFC 9457 problem details.
"""


def create_app(settings: Settings) -> FastAPI:
    """The application for these settings.

    Model and backend are made now, so that what cannot work is said before a server starts; the store comes with the
    lifespan.

    Raises:
        CheckpointError: the model cannot be used.
        BackendUnavailableError: the backend cannot run here.
        KeysFileError: the API keys cannot be read.
        SinksFileError: the sinks cannot be used.
        ValueError: the alert thresholds are out of order, or the states of two batches do not fit into memory.
    """
    checkpoint = load_checkpoint(settings.checkpoint)
    decoder = Decoder(checkpoint.schema, settings.max_samples_per_request, settings.max_vehicles_per_request)
    policy = alert_policy(settings, checkpoint)
    runtime = ModelRuntime(checkpoint, settings.backend, slots_for(settings, checkpoint))
    metrics = Metrics()
    sinks = () if settings.sinks_file is None else read_sinks(settings.sinks_file)
    observe_model(settings, checkpoint, runtime, metrics)
    tracing = tracing_for(settings)
    ring = None if settings.keys_file is None else KeyRing(settings.keys_file, metrics.keys_file_errors.inc)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            try:
                app.state.running = await start(settings, runtime, policy, decoder, sinks, metrics, tracing, stack)
            except Exception as error:
                logger.critical("cannot start", reason=str(error))
                raise
            gc.collect()
            gc.freeze()  # what is here now stays: without this every full collection walks through torch and the tables
            yield
            logger.info("stopping: finishing the samples in hand")

    app = FastAPI(title="Emberwatch", version=version("emberwatch"), description=DESCRIPTION, lifespan=lifespan)
    app.state.metrics = metrics
    app.state.draining = False
    hot = [telemetry.router(checkpoint.schema), fleet.router(checkpoint.schema)]
    routes = [route for router in hot for route in router.routes if isinstance(route, APIRoute)]
    app.add_middleware(HotPath, routes=routes)
    app.add_middleware(InFlight, budget=Budget(settings.max_inflight_bytes, settings.max_inflight_requests))
    app.add_middleware(Access, ring=ring)
    app.add_middleware(SameOrigin)
    if tracing is not None:
        from service.observe.tracing import TracedRequests  # noqa: PLC0415  (an extra)

        app.add_middleware(TracedRequests, tracing=tracing)
    app.add_middleware(HttpMetrics, duration=metrics.http_duration)
    add_error_handlers(app)
    for router in hot:
        app.include_router(router)
    app.include_router(vehicles.router)
    app.include_router(trend.router)
    app.include_router(state.router)
    app.include_router(alert_stream.router)
    app.include_router(alerts.router)
    app.include_router(silences.router)
    app.include_router(operations.router)
    app.include_router(debug.router)
    app.include_router(overview.router)
    app.router.routes += dashboard_routes()
    document = describe(app, keys=ring is not None)
    app.openapi = lambda: document  # type: ignore[method-assign]  # FastAPI's way to say it
    return app


async def start(
    settings: Settings,
    runtime: ModelRuntime,
    policy: AlertPolicy,
    decoder: Decoder,
    sinks: Sequence[AnySink],
    metrics: Metrics,
    tracing: "Tracing | None",
    stack: AsyncExitStack,
) -> Running:
    """Start every part in order; `stack` stops them in reverse.

    Raises:
        StoreUnavailable, StoreMisconfigured: the service must not start like this.
    """
    checkpoint = runtime.checkpoint
    if tracing is not None:
        stack.push_async_callback(asyncio.to_thread, tracing.close)
    runtime.warm_up()
    if settings.keys_file is None and not is_loopback(settings.host):
        logger.warning("open to the network without API keys: anybody who reaches it can write", host=settings.host)
    url = settings.store
    if url == "embedded":
        url = await start_embedded(settings, metrics, stack)
    retention = retention_of(settings, checkpoint)
    store = Store(
        url,
        settings.partitions,
        settings.store_timeout_s,
        metrics.store_duration,
        entry_bytes=JournalLayout(checkpoint.config.d_input).dtype.itemsize,
        durability=settings.durability,
        retention=retention,
    )
    stack.push_async_callback(store.close)
    await store.check()
    delivery = Delivery(
        Outbox(url, settings.partitions, settings.store_timeout_s),
        sinks,
        Silences(store),
        metrics,
        lease_s=settings.delivery_lease_s,
    )
    stack.push_async_callback(delivery.close)
    await delivery.start()
    store.on_news = delivery.committed
    engine = StateEngine(
        checkpoint,
        runtime,
        store,
        metrics,
        policy,
        EngineOptions(
            n_slots=runtime.n_slots,
            max_future_skew_s=settings.max_future_skew_s,
            snapshot_every=settings.snapshot_every,
            snapshot_dtype=settings.snapshot_dtype,
            retention=retention,
        ),
        span=None if tracing is None else tracing.stage,
    )
    stack.push_async_callback(engine.close)
    batcher = MicroBatcher(
        engine.apply,
        max_batch_size=settings.max_batch_size,
        max_wait_s=settings.max_wait_ms / 1000.0,
        max_queue=settings.max_queue,
        depth=metrics.queue_depth,
        watch=None if tracing is None else tracing.batches(),
    )
    batcher.start()
    stack.push_async_callback(batcher.close)
    await stack.enter_async_context(background(engine.sweeper.run))
    fingerprint = engine.context.fingerprint
    metrics.build.info({"version": version("emberwatch"), "backend": runtime.backend, "device": runtime.device})
    metrics.model.info({"fingerprint": fingerprint})
    logger.info(
        "ready to take samples",
        backend=runtime.backend,
        device=runtime.device,
        fingerprint=fingerprint,
        store=without_secrets(settings.store),
    )
    counts = FleetCounts(store, settings.stale_after_s, metrics.vehicles_active, metrics.vehicles_stale)
    await stack.enter_async_context(background(counts.run))
    rate = await sample_rate(settings, url, metrics, stack)
    door = await new_vehicles(settings, url, store, engine, metrics, stack)
    submit: Submit = batcher.submit
    if settings.reorder_window_ms > 0.0:
        submit = ReorderWindow(submit, settings.reorder_window_ms / 1000.0, settings.max_queue).submit
    fleet_view = FleetView(store, engine.context.layout, policy, settings.stale_after_s)
    stack.push_async_callback(fleet_view.close)
    facts = {"backend": runtime.backend, "device": runtime.device, "fingerprint": fingerprint}
    pulse = Pulse(metrics, store, facts | {"slots_capacity": runtime.n_slots - 1})
    await pulse.take()
    await stack.enter_async_context(background(pulse.run))
    return Running(
        settings,
        checkpoint,
        runtime,
        metrics,
        store,
        engine,
        batcher,
        decoder,
        submit,
        rate,
        door,
        delivery,
        fleet_view,
        pulse,
    )


async def sample_rate(settings: Settings, url: str, metrics: Metrics, stack: AsyncExitStack) -> SampleRate | None:
    """The limit of samples per key, or None where there is none."""
    per_s, burst, timeout_s = (
        settings.rate_limit_samples_per_s,
        settings.rate_limit_burst,
        settings.rate_limit_timeout_s,
    )
    if per_s == 0.0:
        return None
    hits = RedisHits(url, "samples", *window_of(per_s, burst), timeout_s)
    stack.push_async_callback(hits.close)
    await hits.start()
    return SampleRate(hits, per_s, burst, timeout_s, metrics.rate_limit_failures)


def retention_of(settings: Settings, checkpoint: Checkpoint) -> Retention | None:
    """How much of what vehicles sent is kept; None: nothing."""
    if not settings.retain_history:
        return None
    layout = HistoryLayout(checkpoint.schema.signal_names)
    return Retention(layout, settings.history_bytes, int(3_600_000 * settings.history_hours))


async def new_vehicles(
    settings: Settings, url: str, store: Store, engine: StateEngine, metrics: Metrics, stack: AsyncExitStack
) -> NewVehicles | None:
    """Who lets new vehicles in, or None where all may come."""
    per_h, timeout_s, rate = settings.new_vehicles_per_h, settings.rate_limit_timeout_s, None
    if per_h:
        hits = RedisHits(url, "vehicles", per_h, HOUR_S, timeout_s)
        stack.push_async_callback(hits.close)
        await hits.start()
        rate = VehicleRate(hits, per_h, timeout_s, metrics.rate_limit_failures)
    if not settings.max_vehicles and rate is None:
        return None
    return NewVehicles(store, engine.is_cached, settings.max_vehicles, rate, metrics.vehicles_refused)


def slots_for(settings: Settings, checkpoint: Checkpoint) -> int:
    """Slots of the pool: as many as asked for, else as many as the memory for states holds.

    Raises:
        ValueError: too few for the batches that are under way at once.
    """
    if settings.slots is not None:
        return settings.slots
    slots = slots_within(checkpoint, settings.state_memory_bytes)
    needed = BATCHES_UNDER_WAY * settings.max_batch_size
    if slots <= needed:
        raise ValueError(
            f"state_memory_bytes ({settings.state_memory_bytes}) holds {slots - 1} vehicles; two batches of "
            f"max_batch_size ({settings.max_batch_size}) are under way at once and need {needed}"
        )
    return slots


def alert_policy(settings: Settings, checkpoint: Checkpoint) -> AlertPolicy:
    """The checkpoint's thresholds, unless a setting overrides them.

    Raises:
        ValueError: the thresholds that result are out of order.
    """
    known = checkpoint.calibration
    threshold = settings.alert_threshold or known.alert_threshold
    anomaly = known.anomaly_threshold if settings.anomaly_threshold is None else settings.anomaly_threshold
    if anomaly is None or not settings.telemetry_anomaly:
        anomaly = math.inf
    policy = AlertPolicy(
        threshold=threshold,
        resolve_threshold=settings.resolve_threshold or min(known.resolve_threshold, threshold),
        for_s=settings.alert_for_s,
        keep_firing_s=settings.alert_keep_firing_s,
        warmup_samples=checkpoint.warmup_samples,
        horizon_s=checkpoint.horizon_s,
        critical_threshold=settings.critical_threshold or max(known.critical, threshold),
        stale_after_s=settings.stale_after_s,
        anomaly_threshold=anomaly,
        anomaly_resolve_threshold=anomaly - ANOMALY_RESOLVE_BELOW,
        anomaly_critical_threshold=anomaly + ANOMALY_CRITICAL_ABOVE,
        anomaly_smoothing_s=ANOMALY_SMOOTHING_S,
        anomaly_highest=ANOMALY_HIGHEST,
    )
    policy.packed()  # raises now what would raise at the first sample
    return policy


async def start_embedded(settings: Settings, metrics: Metrics, stack: AsyncExitStack) -> str:
    """Start the embedded Valkey and whoever starts it again when it dies; its URL."""
    embedded = EmbeddedStore(settings.data_dir, fsync=settings.durability == "fsync")
    url = await asyncio.to_thread(embedded.start)
    stack.push_async_callback(asyncio.to_thread, embedded.stop)
    await stack.enter_async_context(background(lambda: watch(embedded, metrics)))
    return url


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
