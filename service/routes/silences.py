"""`/v1/silences`: who is not to be called about what, and until when."""

import re
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query, Response
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from service.alerting.schemas import RuleName, SeverityName
from service.alerting.silences import Silence, Silences, fresh_id
from service.deps import RunningDep
from service.errors import ServiceError
from service.routes.schemas import problems

router = APIRouter(tags=["alerts"])

LONGEST_S = 366 * 86_400
GLOB = re.compile(r"[A-Za-z0-9._:*?\[\]!-]{1,64}")
EXAMPLE: dict[str, Any] = {
    "vehicle_id": "depot-7-*",
    "rule": "telemetry_anomaly",
    "severity": None,
    "starts_ms": 1789372800000,
    "ends_ms": 1789387200000,
    "created_by": "ann",
    "comment": "sensors are being replaced",
}

SilenceIdPath = Annotated[str, Path(max_length=64, description="`id` of a silence", examples=["5f0c9a77d1e2b3c4"])]


class UnknownSilence(ServiceError):
    """There is no such silence."""

    status, kind = 404, "unknown-silence"


class NewSilence(BaseModel):
    """What is to be silenced, and when. At least one matcher; all that are given must match."""

    vehicle_id: str | None = Field(None, description="an id, or a glob with * ? [...]")
    rule: RuleName | None = None
    severity: SeverityName | None = None
    starts_ms: int | None = Field(
        None, ge=0, description="epoch milliseconds; now by default. Ahead: a maintenance window"
    )
    ends_ms: int = Field(ge=0, description="epoch milliseconds, in the future, at most 366 days after the start")
    created_by: str = Field(min_length=1, max_length=100)
    comment: str = Field("", max_length=500)

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    @field_validator("vehicle_id")
    @classmethod
    def _glob(cls, text: str | None) -> str | None:
        if text is not None and not GLOB.fullmatch(text):
            raise ValueError("must be a vehicle id, in which * ? and [...] may stand for others")
        return text

    @model_validator(mode="after")
    def _something(self) -> "NewSilence":
        if self.vehicle_id is None and self.rule is None and self.severity is None:
            raise ValueError("give vehicle_id, rule or severity; vehicle_id * silences everything, on purpose")
        return self


VIEW_EXAMPLE: dict[str, Any] = {"id": "5f0c9a77d1e2b3c4", "state": "pending", **EXAMPLE, "created_ms": 1789370000000}


class SilenceView(BaseModel):
    """One silence."""

    id: str
    state: Literal["pending", "active", "ended"]
    vehicle_id: str | None
    rule: RuleName | None
    severity: SeverityName | None
    starts_ms: int
    ends_ms: int
    created_by: str
    created_ms: int
    comment: str

    model_config = ConfigDict(json_schema_extra={"examples": [VIEW_EXAMPLE]})


class SilenceList(BaseModel):
    """Silences, the one that ends last first."""

    silences: list[SilenceView]

    model_config = ConfigDict(json_schema_extra={"examples": [{"silences": [VIEW_EXAMPLE]}]})


class InvalidSilence(ServiceError):
    """The silence's times make no sense."""

    status, kind = 422, "invalid-parameter"


@router.get("/v1/silences", responses=problems(422, 503), summary="List silences")
async def get_silences(
    running: RunningDep,
    active: Annotated[bool | None, Query(description="only those in force, or only the others")] = None,
) -> SilenceList:
    """Silences that are in force, will be, or ended within the last day."""
    now_ms = round(1_000 * time.time())
    found = [view(silence, now_ms) for silence in await Silences(running.store).all()]
    return SilenceList(silences=[one for one in found if active is None or (one.state == "active") == active])


@router.post("/v1/silences", status_code=201, responses=problems(400, 409, 422, 503), summary="Silence alerts")
async def post_silence(asked: NewSilence, running: RunningDep) -> SilenceView:
    """Notify nobody about matching alerts for a while. Alerts go on; one that still fires at the end is notified then."""
    now_ms = round(1_000 * time.time())
    starts_ms = now_ms if asked.starts_ms is None else asked.starts_ms
    if asked.ends_ms <= max(now_ms, starts_ms):
        raise InvalidSilence("ends_ms: must be in the future and after starts_ms")
    if asked.ends_ms - starts_ms > 1_000 * LONGEST_S:
        raise InvalidSilence("ends_ms: must be at most 366 days after starts_ms")
    silence = Silence(
        id=fresh_id(),
        starts_ms=starts_ms,
        ends_ms=asked.ends_ms,
        vehicle_id=asked.vehicle_id,
        rule=asked.rule,
        severity=asked.severity,
        created_by=asked.created_by,
        created_ms=now_ms,
        comment=asked.comment,
    )
    await Silences(running.store).add(silence)
    return view(silence, now_ms)


@router.delete(
    "/v1/silences/{silence_id}",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "it is gone, and what it silenced is notified again"}, **problems(404, 422, 503)},
    summary="End a silence",
)
async def delete_silence(silence_id: SilenceIdPath, running: RunningDep) -> Response:
    """Delete a silence, whether in force or not."""
    if not await Silences(running.store).remove(silence_id):
        raise UnknownSilence(f"there is no silence {silence_id}", silence_id=silence_id)
    return Response(status_code=204)


def view(silence: Silence, now_ms: int) -> SilenceView:
    """As the API shows it."""
    state: Literal["pending", "active", "ended"] = "active"
    if not silence.active(now_ms):
        state = "pending" if now_ms < silence.starts_ms else "ended"
    return SilenceView(
        id=silence.id,
        state=state,
        vehicle_id=silence.vehicle_id,
        rule=silence.rule,
        severity=silence.severity,
        starts_ms=silence.starts_ms,
        ends_ms=silence.ends_ms,
        created_by=silence.created_by,
        created_ms=silence.created_ms,
        comment=silence.comment,
    )
