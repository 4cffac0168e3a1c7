"""What the routes are given: one running service, put together by `startup.py`."""

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from model.checkpoint import Checkpoint
from model.runtime import ModelRuntime
from service.delivery.delivery import Delivery
from service.engine.batcher import MicroBatcher
from service.engine.engine import StateEngine
from service.engine.reorder import Submit
from service.gate.new_vehicles import NewVehicles
from service.gate.rate_limit import SampleRate
from service.observe.metrics import Metrics
from service.overview.fleet_view import FleetView
from service.overview.pulse import Pulse
from service.overview.shared_answers import SharedAnswers
from service.settings import Settings
from service.store.store import Store
from service.wire.decode import Decoder


@dataclass(frozen=True, slots=True)
class Running:
    """The parts of a service that is up."""

    settings: Settings
    checkpoint: Checkpoint
    runtime: ModelRuntime
    metrics: Metrics
    store: Store
    engine: StateEngine
    batcher: MicroBatcher
    decoder: Decoder
    submit: Submit  # to the batcher, through the reorder window where there is one
    sample_rate: SampleRate | None  # None: no limit
    new_vehicles: NewVehicles | None  # None: any may come
    delivery: Delivery
    fleet_view: FleetView
    shared_answers: SharedAnswers
    pulse: Pulse


async def get_running(request: Request) -> Running:
    """The service that this request came to. A coroutine, or FastAPI would ask a thread for it each time."""
    return cast("Running", request.app.state.running)


RunningDep = Annotated[Running, Depends(get_running)]
