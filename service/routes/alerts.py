"""`/v1/alerts`: the last alert of each vehicle and rule."""

import fnmatch
import time
from collections.abc import Callable, Iterable
from functools import lru_cache, partial
from typing import Annotated

import orjson
import structlog
from fastapi import APIRouter, Header, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from service.alerting.record import Record, dumped, field_of, place_of, read_record
from service.alerting.schemas import Alert, AlertList, PhaseName, RuleName, SeverityName
from service.alerting.stored import StoredAlerts
from service.deps import Running, RunningDep
from service.errors import ServiceError, StoreUnavailable
from service.overview.shared_answers import max_age_of
from service.routes.cursor import InvalidCursor, decode_cursor, encode_cursor
from service.routes.documents import told
from service.routes.schemas import problems
from service.routes.state import ETAG_HEADER, IfNotKnown

logger = structlog.get_logger(__name__)
router = APIRouter(tags=["alerts"])

MAX_ATTEMPTS = 5
WRITTEN = 4_096  # alerts kept as they were last answered, about 3 kB each

AlertIdPath = Annotated[
    str, Path(max_length=200, description="`id` of an alert", examples=["van-1.thermal_risk.1.1751261600029"])
]
Place = tuple[int, str]  # in the list: when it changed, and its id


class UnknownAlert(ServiceError):
    """There is no such alert, or a later one of its vehicle and rule has taken its place."""

    status, kind = 404, "unknown-alert"


class AlertIsOver(ServiceError):
    """The alert was resolved before somebody took it on."""

    status, kind = 409, "alert-is-over"


class NewAcknowledgement(BaseModel):
    """Who takes the alert on."""

    by: str = Field(min_length=1, max_length=100)
    note: str = Field("", max_length=500)

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"by": "ann", "note": "called the driver"}]}
    )


@router.get(
    "/v1/alerts",
    response_model=AlertList,
    responses={
        200: {"description": "gzip where it is accepted", "headers": ETAG_HEADER},
        304: {"description": "nothing has changed since", "headers": ETAG_HEADER},
        **problems(422, 503),
    },
    summary="List alerts",
)
async def get_alerts(
    request: Request,
    running: RunningDep,
    phase: Annotated[list[PhaseName] | None, Query(description="only these phases", examples=["firing"])] = None,
    rule: Annotated[RuleName | None, Query(description="only of this rule")] = None,
    severity: Annotated[SeverityName | None, Query(description="only this severity")] = None,
    vehicle_id: Annotated[
        str | None, Query(max_length=64, description="only of this vehicle; * and ? stand for any")
    ] = None,
    acknowledged: Annotated[bool | None, Query(description="only those that somebody has taken on, or nobody")] = None,
    limit: Annotated[int, Query(ge=1, le=1_000, description="alerts on a page", examples=[100])] = 100,
    cursor: Annotated[str | None, Query(description="`next_cursor` of the page before")] = None,
    if_none_match: IfNotKnown = None,
    cache_control: Annotated[
        str | None, Header(description="`max-age=2`: an answer made for another reader two seconds ago will do")
    ] = None,
) -> Response:
    """The last alert of each vehicle and rule, the latest change first; a pending one may still lapse."""
    after = None if cursor is None else place_named_by(cursor)

    def wanted(record: Record) -> bool:
        return (
            (phase is None or record["phase"] in phase)
            and rule in {None, record["rule"]}
            and severity in {None, record["severity"]}
            and (vehicle_id is None or fnmatch.fnmatchcase(record["vehicle_id"], vehicle_id))
            and (acknowledged is None or (record["acknowledged"] is not None) == acknowledged)
            and (after is None or place_in_list(record) < after)
        )

    async def read() -> Callable[[], bytes]:
        only_open = phase is not None and "resolved" not in phase
        stored = await (running.store.alerts.open() if only_open else running.store.alerts.all())
        return partial(page_of, stored, wanted, limit)

    document = await running.shared_answers.get(request.url.query, max_age_of(cache_control), read)
    return told(document, request, if_none_match)


def page_of(stored: Iterable[bytes | None], wanted: Callable[[Record], bool], limit: int) -> bytes:
    """The first page of those that are wanted, as JSON."""
    read = ((read_record(data), data) for data in stored)
    chosen = [(place_in_list(record), data) for record, data in read if record is not None and data and wanted(record)]
    page = sorted(chosen, reverse=True)[: limit + 1]
    cursor = encode_cursor(*page[limit - 1][0]) if len(page) > limit else None
    texts = [written(data) for _, data in page[:limit]]
    return b'{"alerts":[%b],"next_cursor":%b}' % (b",".join(texts), orjson.dumps(cursor))


@lru_cache(maxsize=WRITTEN)
def written(record: bytes) -> bytes:
    """A record as the answers have it, checked; most of a list is what it was two seconds ago."""
    return Alert(**orjson.loads(record)).model_dump_json().encode()


@router.get("/v1/alerts/{alert_id}", responses=problems(404, 422, 503), summary="One alert")
async def get_alert(alert_id: AlertIdPath, running: RunningDep) -> Alert:
    """The alert of this id, while it is the last one of its vehicle and rule."""
    return Alert(**(await find(running, alert_id))[0])


@router.post("/v1/alerts/{alert_id}/ack", responses=problems(400, 404, 409, 422, 503), summary="Acknowledge an alert")
async def post_ack(alert_id: AlertIdPath, asked: NewAcknowledgement, running: RunningDep) -> Alert:
    """Say that somebody has taken the alert on. It goes on as it is; a second acknowledgement changes nothing.

    The flag stays until the alert is resolved, whatever happens to it meanwhile.
    """
    for _ in range(MAX_ATTEMPTS):
        record, data = await find(running, alert_id)
        if record["acknowledged"] is not None:
            return Alert(**record)
        if record["phase"] == "resolved":
            raise AlertIsOver(f"{alert_id} is resolved", alert_id=alert_id)
        at_ms = round(1_000 * time.time())
        after = record | {
            "event_id": f"{alert_id}-ack",
            "transition": "acknowledged",
            "acknowledged": {"by": asked.by, "at_ms": at_ms, "note": asked.note},
        }
        if await StoredAlerts(running.store).replace(record["vehicle_id"], record["rule"], data, dumped(after)):
            running.metrics.alert_transitions.labels(record["rule"], "acknowledged").inc()
            logger.info("alert acknowledged", alert_id=alert_id, by=asked.by)
            return Alert(**after)
    raise StoreUnavailable(f"{alert_id} changed {MAX_ATTEMPTS} times in a row")


async def find(running: Running, alert_id: str) -> tuple[Record, bytes]:
    """The alert of this id, and as it is stored. Raises UnknownAlert."""
    place = place_of(alert_id)
    if place is not None:
        vehicle_id, rule = place
        data = (await running.store.alerts.of(vehicle_id, [field_of(vehicle_id, rule)]))[0]
        record = read_record(data)
        if data is not None and record is not None and record["id"] == alert_id:
            return record, data
    raise UnknownAlert(f"there is no alert {alert_id}, or a later one has taken its place", alert_id=alert_id)


def place_in_list(record: Record) -> Place:
    """Where in the list an alert is: its last change, and of equal ones its id."""
    return int(record["updated_ms"]), str(record["id"])


def place_named_by(cursor: str) -> Place:
    """Where a page ended. Raises InvalidCursor."""
    updated_ms, name = decode_cursor(cursor)
    try:
        return int(updated_ms), name
    except ValueError as error:
        raise InvalidCursor from error
