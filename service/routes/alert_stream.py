"""`GET /v1/alerts/stream`: every change of every alert, as Server-Sent Events."""

from functools import partial
from typing import Annotated, Literal, cast

import anyio
from fastapi import APIRouter, Header, Query, Request
from sse_starlette import EventSourceResponse

from service.delivery.events import Filter
from service.delivery.hub import Listener, Push
from service.delivery.position import Position
from service.deps import RunningDep
from service.errors import TooManyListeners
from service.routes.schemas import problems

router = APIRouter(tags=["alerts"])

SEND_TIMEOUT_S = 30.0
GRACE_S = 2.0  # to say goodbye when the service stops
Transition = Literal[
    "pending", "lapsed", "firing", "escalated", "recovering", "relapsed", "resolved", "stale", "fresh", "acknowledged"
]
EXAMPLE = 'id: 1795339525123~3.4211-0\nevent: alert\ndata: {"id":"9f2c1a0b4d5e6f70","transition":"firing","phase":"firing"}\n\n'


class Farewell:
    """Ends a listener when the service stops; sse-starlette sets it as it would an event."""

    def __init__(self) -> None:
        self._listener: Listener | None = None

    def joined(self, listener: Listener) -> None:
        """Whom to end."""
        self._listener = listener

    def set(self) -> None:
        """The service stops."""
        if self._listener is not None:
            self._listener.end("stopping")


def straight_to(request: Request) -> Push | None:
    """The way to the connection past ASGI; None where the server is not our own (service/gate/connections.py)."""
    connection = request.scope.get("connection", lambda: None)()
    return None if connection is None else partial(connection.push, request.scope)


@router.get(
    "/v1/alerts/stream",
    responses={
        200: {"content": {"text/event-stream": {"schema": {"type": "string"}, "example": EXAMPLE}}},
        **problems(422, 429),
    },
    response_class=EventSourceResponse,
    summary="Listen to alerts",
)
async def get_alert_stream(
    request: Request,
    running: RunningDep,
    vehicle_id: Annotated[list[str] | None, Query(description="only these vehicles")] = None,
    rule: Annotated[list[str] | None, Query(description="only these rules")] = None,
    severity: Annotated[list[Literal["warning", "critical"]] | None, Query(description="only these")] = None,
    transition: Annotated[list[Transition] | None, Query(description="only these")] = None,
    last_event_id: Annotated[
        str | None, Header(description="resume after this event; as a parameter where a header cannot be set")
    ] = None,
    after: Annotated[str | None, Query(description="the same as Last-Event-ID, which goes before it")] = None,
) -> EventSourceResponse:
    """Server-Sent Events, of all workers' alerts.

    `alert`: the record as in `GET /v1/alerts`, with `transition` and `event_id`; `missed`: what is not kept any more; `end`: why
    the stream ends. A comment every 15 s keeps the connection open. Reconnect with the last `id` and nothing is left out;
    rarely something comes twice, with the same `event_id`.
    """
    delivery, settings = running.delivery, running.settings
    if len(delivery.hub.listeners) >= settings.max_listeners:
        raise TooManyListeners(f"{settings.max_listeners} connections listen already; try again later")
    resume = last_event_id or after
    since = None if resume is None else Position.parse(resume, settings.partitions)
    wants = Filter(*(frozenset(part or ()) for part in (vehicle_id, rule, severity, transition)))
    if (share := request.scope.get("share")) is not None:
        share.give_back()  # it is not worked on while it listens
    request.scope["endless"] = True
    farewell = Farewell()
    return EventSourceResponse(
        delivery.listen(wants, since, farewell.joined, straight_to(request)),
        ping=0,  # heartbeats come from the hub, with a position
        send_timeout=SEND_TIMEOUT_S,
        shutdown_event=cast("anyio.Event", farewell),
        shutdown_grace_period=GRACE_S,
    )
