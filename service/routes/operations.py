"""For operators and their machines: model card, liveness, readiness, metrics."""

from dataclasses import asdict

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from service.alerting.alerts import AlertPolicy, Rule
from service.alerting.record import number_or_none
from service.deps import RunningDep
from service.engine.vehicle_bytes import vehicle_bytes
from service.errors import Draining
from service.routes.schemas import Health, ModelInfo, problems

router = APIRouter(tags=["operations"])


@router.get("/v1/model", summary="The model in service")
async def get_model(running: RunningDep) -> ModelInfo:
    """What is being served, from what data it was learned, and the fixed upper bound of what one vehicle costs."""
    checkpoint, config, settings = running.checkpoint, running.checkpoint.config, running.settings
    return ModelInfo(
        fingerprint=running.engine.context.fingerprint,
        backend=running.runtime.backend,
        device=running.runtime.device,
        horizon_s=checkpoint.horizon_s,
        warmup_samples=checkpoint.warmup_samples,
        alert_threshold=running.engine.context.policy.threshold,
        resolve_threshold=running.engine.context.policy.resolve_threshold,
        alert_rules={rule.word: thresholds(running.engine.context.policy, rule) for rule in Rule},
        parameters=sum(p.numel() for p in checkpoint.network.parameters()),
        config={"block": config.block, **config.described()},
        signals=[asdict(signal) for signal in checkpoint.schema.signals],
        channels=[asdict(channel) for channel in checkpoint.schema.channels],
        bytes_per_vehicle=vehicle_bytes(
            checkpoint, settings.snapshot_every, settings.snapshot_dtype, running.engine.context.options.retention
        ),
        provenance=checkpoint.provenance,
    )


def thresholds(policy: AlertPolicy, rule: Rule) -> dict[str, float | None]:
    """A rule's thresholds; null for one that is off."""
    limits = policy.limits(rule)
    names = ("threshold", "resolve_threshold", "critical_threshold")
    return {name: number_or_none(getattr(limits, name)) for name in names}


@router.get("/livez", summary="Is the process alive")
async def livez() -> Health:
    """Answers while the event loop turns; asks nothing of the store, so that an outage there restarts nobody here."""
    return Health()


@router.get("/readyz", responses=problems(404, 503), summary="Can it take samples")
async def readyz(request: Request, running: RunningDep) -> Health:
    """The store answers and batches are served; the kernel was warmed up before the first request could come in.

    404 when it was asked to stop: what comes now is still served, but the next request should go to another worker.
    """
    if request.app.state.draining:
        raise Draining("asked to stop; send to another worker")
    running.batcher.check()
    await running.store.ping()
    return Health()


@router.get("/metrics", response_class=Response, summary="Prometheus metrics")
async def get_metrics(running: RunningDep) -> Response:
    """Prometheus text format."""
    return Response(generate_latest(running.metrics.registry), media_type=CONTENT_TYPE_LATEST)
