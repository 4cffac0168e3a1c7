"""The application: what stands before the routes, the routes, and the service behind them (service/startup.py)."""

import gc
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import version

import structlog
from fastapi import FastAPI
from fastapi.routing import APIRoute

from model.checkpoint import load_checkpoint
from model.runtime import ModelRuntime
from service.alerting.policy import alert_policy
from service.dashboard.site import routes as dashboard_routes
from service.delivery.sinks_file import read_sinks
from service.engine.vehicle_bytes import slots_for
from service.errors import add_error_handlers
from service.gate.access import Access
from service.gate.hot_path import HotPath
from service.gate.keys import KeyRing
from service.gate.overload import Budget, InFlight
from service.gate.same_origin import SameOrigin
from service.observe.http_metrics import HttpMetrics
from service.observe.metrics import Metrics
from service.observe.observation import observe_model, tracing_for
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
from service.settings import Settings
from service.startup import Startup
from service.wire.decode import Decoder

logger = structlog.get_logger(__name__)

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
                app.state.running = await Startup(
                    settings, runtime, policy, decoder, sinks, metrics, tracing, stack
                ).run()
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
