"""Vehicles: sessions, status and list. Everything is read from the store, not the cache."""

import math
import re
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query
from numpy.typing import NDArray

from service.alerting.alerts import Rule
from service.deps import Running, RunningDep
from service.errors import UnknownVehicle
from service.routes.cursor import InvalidCursor, decode_cursor, encode_cursor
from service.routes.schemas import AlertPhase, Position, Session, Vehicle, VehicleDetail, VehicleList, problems
from service.routes.telemetry import VehicleIdPath
from service.samples import NO_SEQ
from service.store.ranking import Ranked
from service.wire.decode_columns import VEHICLE_ID_PATTERN

router = APIRouter(tags=["vehicles"])


@router.post(
    "/v1/vehicles/{vehicle_id}/sessions", status_code=201, responses=problems(422, 503), summary="Reset: a new session"
)
async def post_session(vehicle_id: VehicleIdPath, running: RunningDep) -> Session:
    """Begin the next epoch with a zero state; the vehicle's first session is epoch 1."""
    return Session(vehicle_id=vehicle_id, epoch=await running.engine.reset(vehicle_id))


@router.get("/v1/vehicles", responses=problems(422, 503), summary="List vehicles by risk")
async def get_vehicles(
    running: RunningDep,
    limit: Annotated[int, Query(ge=1, le=1_000, description="vehicles on a page", examples=[100])] = 100,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before")] = None,
) -> VehicleList:
    """Vehicles from the highest risk down. The order is that of the moment each page is read."""
    ranked = await running.store.roll.by_risk(limit, None if cursor is None else place_named_by(cursor))
    heads = await running.store.heads([vehicle.vehicle_id for vehicle in ranked])
    return VehicleList(
        vehicles=[
            describe(running, vehicle.vehicle_id, head)
            for vehicle, head in zip(ranked, heads, strict=True)
            if head is not None
        ],
        next_cursor=encode_cursor(ranked[-1].risk, ranked[-1].vehicle_id) if len(ranked) == limit else None,
    )


@router.get("/v1/vehicles/{vehicle_id}", responses=problems(404, 422, 503), summary="One vehicle's status")
async def get_vehicle(vehicle_id: VehicleIdPath, running: RunningDep) -> VehicleDetail:
    """Where the vehicle stands: last sample, risk, alert phase, and what it costs in the store."""
    head = (await running.store.heads([vehicle_id]))[0]
    if head is None:
        raise UnknownVehicle(f"no sample of {vehicle_id} was ever accepted", vehicle_id=vehicle_id)
    vehicle = describe(running, vehicle_id, head)
    return VehicleDetail(**vehicle.model_dump(), stored_bytes=await running.store.stored_bytes(vehicle_id))


def describe(running: Running, vehicle_id: str, data: bytes) -> Vehicle:
    """A head as the API shows it; one that another model wrote tells only its session."""
    layout = running.engine.context.layout
    try:
        head = layout.unpack(data)[0]
        current = bytes(head["fingerprint"]).hex() == layout.fingerprint
    except ValueError:
        head, current = layout.salvage(data)[0], False
    ts_ms, seq = int(head["last_ts_ms"]), int(head["seq"])
    phases = {rule.word: phase_of(head["alert"][rule]) for rule in Rule}
    return Vehicle(
        vehicle_id=vehicle_id,
        epoch=int(head["epoch"]),
        seq=None if seq == NO_SEQ else seq,
        samples=int(head["samples"]),
        last_ts_ms=None if ts_ms < 0 else ts_ms,
        risk=number_or_none(float(head["risk"])),
        surprise=number_or_none(float(head["surprise"])),
        phase=phases[Rule.THERMAL_RISK.word],
        phases=phases,
        warming_up=int(head["samples"]) <= running.engine.context.policy.warmup_samples,
        position=position(head["preprocess"]["kalman"]),
        current_model=current,
    )


def phase_of(machine: np.void) -> AlertPhase:
    """Of one alert."""
    words: dict[int, AlertPhase] = {0: "inactive", 1: "pending", 2: "firing", 3: "recovering"}
    return "stale" if machine["stale"] else words[int(machine["phase"])]


def number_or_none(value: float) -> float | None:
    """NaN as null."""
    return None if math.isnan(value) else value


def position(kalman: NDArray[np.void] | np.void) -> Position | None:
    """The filter's estimate, or None before the first fix."""
    if np.isnan(kalman["latitude"]):
        return None
    return Position(latitude=round(float(kalman["latitude"]), 6), longitude=round(float(kalman["longitude"]), 6))


def place_named_by(cursor: str) -> Ranked:
    """Where a page ended. Raises InvalidCursor."""
    risk, vehicle_id = decode_cursor(cursor)
    try:
        ranked = Ranked(float(risk), vehicle_id)
    except ValueError as error:
        raise InvalidCursor from error
    if not math.isfinite(ranked.risk) or not re.fullmatch(VEHICLE_ID_PATTERN, vehicle_id):
        raise InvalidCursor
    return ranked
