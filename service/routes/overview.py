"""What a page over the whole fleet asks for again and again: `GET /v1/fleet` and `GET /v1/service`, both shared by all who ask."""

from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from service.deps import RunningDep
from service.routes.documents import told
from service.routes.schemas import example, problems
from service.routes.state import ETAG_HEADER, IfNotKnown

router = APIRouter(tags=["overview"])


class FleetColumns(BaseModel):
    """One entry per vehicle, the highest risk first."""

    vehicle_id: list[str]
    phase: list[str] = Field(description="of its thermal_risk alert")
    anomaly: list[str] = Field(description="phase of its telemetry_anomaly alert")
    risk: list[float | None]
    surprise: list[float | None]
    last_ts_ms: list[int] = Field(description="time of its last sample; 0 before the first")
    heard_ms: list[int] = Field(description="when that sample came, by the clock of the worker that took it")
    warming_up: list[bool]
    latitude: list[float | None]
    longitude: list[float | None]


class Fleet(BaseModel):
    """The fleet as it was at most a few seconds ago."""

    model_config = example(
        {
            "n_vehicles": 1,
            "partitions_unreachable": 0,
            "threshold": 0.479,
            "resolve_threshold": 0.2395,
            "stale_after_s": 300.0,
            "refresh_s": 2.0,
            "columns": {
                "vehicle_id": ["van-1"],
                "phase": ["firing"],
                "anomaly": ["inactive"],
                "risk": [0.92],
                "surprise": [-2.4],
                "last_ts_ms": [1_789_372_805_000],
                "heard_ms": [1_789_372_805_210],
                "warming_up": [False],
                "latitude": [48.1374],
                "longitude": [11.5755],
            },
        }
    )

    n_vehicles: int = Field(description="there are; only the 20,000 of the highest risk are listed")
    partitions_unreachable: int = Field(
        description="of a cluster's node that does not answer: their vehicles are not listed"
    )
    threshold: float
    resolve_threshold: float
    stale_after_s: float
    refresh_s: float = Field(description="asking more often than this brings nothing new")
    columns: FleetColumns


class ServiceHealth(BaseModel):
    """How the worker that answered fares."""

    model_config = example(
        {
            "worker": "box-1:4711",
            "version": "0.1.0",
            "started_ms": 1_789_372_000_000,
            "every_s": 5.0,
            "backend": "cpu",
            "device": "cpu",
            "fingerprint": "8e781c05285bafdca3505df1b1b55c8d",
            "slots_capacity": 7_653,
            "store": {"ok": True, "reason": None},
            "now": {"ts_ms": 1_789_372_805_000, "store_ms": 0.4, "applied_per_s": 48.0, "http_p99_ms": 11.2},
            "history": {
                "ts_ms": [1_789_372_805_000],
                "store_ms": [0.4],
                "applied_per_s": [48.0],
                "http_p99_ms": [11.2],
            },
        }
    )

    worker: str
    version: str
    started_ms: int
    every_s: float = Field(description="between two readings")
    backend: str
    device: str
    fingerprint: str
    slots_capacity: int
    store: dict[str, Any] = Field(description="`ok`, and the `reason` where it is not")
    now: dict[str, float | None]
    history: dict[str, list[float | None]] = Field(
        description="the readings of the last quarter of an hour, oldest first"
    )


@router.get(
    "/v1/fleet",
    response_model=Fleet,
    responses={
        200: {"description": "gzip where it is accepted", "headers": ETAG_HEADER},
        304: {"description": "nothing has changed since", "headers": ETAG_HEADER},
        **problems(503),
    },
    summary="The whole fleet in columns",
)
async def get_fleet(request: Request, running: RunningDep, if_none_match: IfNotKnown = None) -> Response:
    """Status, risk, position and last sign of life of every vehicle. Made once for all who ask, every two seconds at most."""
    document = await running.fleet_view.document()
    return told(document, request, if_none_match)


@router.get("/v1/service", response_model=ServiceHealth, summary="How the service fares")
async def get_service(running: RunningDep) -> Response:
    """Rates, latencies and the store's answer over the last quarter of an hour, of the worker that answers. Asks nothing of the store."""
    return Response(running.pulse.document, media_type="application/json", headers={"Cache-Control": "no-cache"})
