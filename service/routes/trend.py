"""`GET /v1/vehicles/{vehicle_id}/trend`: the last 48 hours in bins."""

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from service.deps import RunningDep
from service.engine.trend import BIN_MS, BINS
from service.engine.vehicle_transfer import etag_of
from service.errors import InvalidParameter, UnknownVehicle
from service.overview.trend_view import Window, columns, merged
from service.routes.schemas import VehicleId, example, problems
from service.routes.state import ETAG_HEADER, IfNotKnown, entity_tags
from service.routes.telemetry import VehicleIdPath
from service.store.changes import ABSENT

router = APIRouter(tags=["vehicles"])

BIN_S = BIN_MS // 1000
Millis = Annotated[int | None, Query(ge=0, le=253_402_300_799_999)]
Number = float | None


class TrendColumns(BaseModel):
    """One entry per bin that has samples, in order; the last is under way. Objects have a column per channel."""

    ts_ms: list[int] = Field(description="where each bin starts")
    samples: list[int]
    epoch: list[int] = Field(description="session of the last sample")
    risk: list[Number] = Field(description="after the last sample")
    risk_max: list[Number]
    surprise: list[Number] = Field(description="mean, nats per channel")
    surprise_max: list[Number]
    phase: list[str] = Field(description="of its thermal_risk alert after the last sample")
    latitude: list[Number]
    longitude: list[Number]
    values: dict[str, list[Number]] = Field(description="last measured, in the channel's unit")
    forecast: dict[str, list[Number]] = Field(description="mean of the sample after the last")
    forecast_scale: dict[str, list[Number]] = Field(description="its Laplace scale")


TREND_EXAMPLE: dict[str, Any] = {
    "vehicle_id": "van-1",
    "resolution_s": 300,
    "threshold": 0.35,
    "resolve_threshold": 0.17,
    "units": {"motor_temperature": "degC"},
    "columns": {
        "ts_ms": [1751261400000],
        "samples": [60],
        "epoch": [1],
        "risk": [0.0021],
        "risk_max": [0.0034],
        "surprise": [0.3],
        "surprise_max": [1.9],
        "phase": ["inactive"],
        "latitude": [34.1529],
        "longitude": [-118.816],
        "values": {"motor_temperature": [64.2]},
        "forecast": {"motor_temperature": [64.3]},
        "forecast_scale": {"motor_temperature": [0.4]},
    },
}


class Trend(BaseModel):
    """The last 48 hours of a vehicle, up to its last sample."""

    vehicle_id: VehicleId
    resolution_s: int = Field(description="length of a bin")
    threshold: float
    resolve_threshold: float
    units: dict[str, str] = Field(description="by channel")
    columns: TrendColumns

    model_config = example(TREND_EXAMPLE)


@router.get(
    "/v1/vehicles/{vehicle_id}/trend",
    response_model=Trend,
    responses={
        200: {"description": "bins in order", "headers": ETAG_HEADER},
        304: {"description": "nothing has changed since", "headers": ETAG_HEADER},
        **problems(404, 422, 503),
    },
    summary="The last 48 hours of a vehicle",
)
async def get_trend(
    vehicle_id: VehicleIdPath,
    running: RunningDep,
    from_ms: Annotated[Millis, Query(alias="from", description="only bins that end after this, epoch ms")] = None,
    to_ms: Annotated[Millis, Query(alias="to", description="only bins that start by this, epoch ms")] = None,
    resolution: Annotated[
        int, Query(ge=BIN_S, le=BINS * BIN_S, multiple_of=BIN_S, description="length of a bin, seconds")
    ] = BIN_S,
    if_none_match: IfNotKnown = None,
) -> Response:
    """Risk, surprise, channels beside their forecast, position and alert phase in bins of five minutes, or of several times that."""
    if from_ms is not None and to_ms is not None and from_ms > to_ms:
        raise InvalidParameter.of([("from", f"is after to ({to_ms})")])
    known = frozenset() if if_none_match is None else entity_tags(if_none_match)
    if known:
        version = await running.store.version(vehicle_id)
        if version != ABSENT and etag_of(version) in known:
            return Response(status_code=304, headers={"ETag": etag_of(version) or ""})
    (data,) = await running.store.heads([vehicle_id])
    if data is None:
        raise UnknownVehicle(f"no sample of {vehicle_id} was ever accepted", vehicle_id=vehicle_id)
    layout, trends, policy = running.engine.context.layout, running.engine.context.trends, running.engine.context.policy
    try:
        head = layout.unpack(data)
    except ValueError:
        head = layout.salvage(data)  # of another model or layout: nothing is known of its bins
    window = Window(trends, head, from_ms, to_ms)
    ranges = window.ranges()
    ring = await running.store.trend(vehicle_id, ranges) if ranges else b""
    answer = {
        "vehicle_id": vehicle_id,
        "resolution_s": resolution,
        "threshold": policy.threshold,
        "resolve_threshold": policy.resolve_threshold,
        "units": {channel.name: channel.unit for channel in trends.schema.channels},
        "columns": columns(trends, merged(window.bins(ring), resolution // BIN_S)),
    }
    body = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, media_type="application/json", headers={"ETag": etag_of(data) or ""})
