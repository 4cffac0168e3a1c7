"""`POST /v1/vehicles/{vehicle_id}/telemetry`: one sample of a vehicle, or many in order."""

from typing import Annotated, Any

import numpy as np
import orjson
from fastapi import APIRouter, Path, Request
from fastapi.responses import Response

from model.channels import ChannelSchema
from service.deps import Running, get_running
from service.errors import (
    RETRY_AFTER_S,
    Deferred,
    InvalidParameter,
    InvalidSample,
    NotReady,
    QueueFull,
    RateLimited,
    RefusedSample,
    ServiceError,
    TooManyVehicles,
)
from service.gate.keys import ApiKey
from service.routes.bodies import vehicle_body
from service.routes.schemas import Item, Summary, problems
from service.samples import ACCEPTED, NO_SEQ, Answers, Samples, Status
from service.wire import render
from service.wire.decode import Decoded
from service.wire.decode_columns import ID_RULE, VEHICLE_ID, VEHICLE_ID_PATTERN
from service.wire.request_body import vehicle_samples

VehicleIdPath = Annotated[
    str, Path(pattern=VEHICLE_ID_PATTERN, description="letters, digits, . _ : - ; at most 64", examples=["van-1"])
]
VEHICLE_PARAMETER: dict[str, Any] = {
    "name": "vehicle_id",
    "in": "path",
    "required": True,
    "description": "letters, digits, . _ : - ; at most 64",
    "schema": {"type": "string", "pattern": VEHICLE_ID_PATTERN},
    "example": "van-1",
}
PREFER_PARAMETER: dict[str, Any] = {
    "name": "Prefer",
    "in": "header",
    "description": "`return=minimal` (RFC 7240): items only of samples that were not applied",
    "schema": {"type": "string"},
    "example": "return=minimal",
}

NO_ROOM_RETRY_AFTER = "60"  # seconds: for a new vehicle there is no room until somebody makes some, or within the hour
REFUSALS: dict[Status, type[ServiceError]] = {
    Status.LATE: RefusedSample,
    Status.CONFLICT: RefusedSample,
    Status.INVALID: InvalidSample,
    Status.DEFERRED: Deferred,
    Status.OVERLOADED: TooManyVehicles,
}
TELEMETRY_PROBLEMS = problems(400, 408, 409, 413, 415, 422, 429, 503)
MINIMAL = {
    "Preference-Applied": {"description": "`return=minimal`, when it was asked for", "schema": {"type": "string"}},
}
WAIT = {
    "Retry-After": {"description": "seconds, when an item is `deferred` or `overloaded`", "schema": {"type": "string"}}
}


def router(schema: ChannelSchema) -> APIRouter:
    """The route; its documented body follows the checkpoint's signals."""
    routes = APIRouter(tags=["telemetry"])

    @routes.post(
        "/v1/vehicles/{vehicle_id}/telemetry",  # noqa: FAST003  (read from the request)
        response_model=Item | Summary,
        responses={
            200: {"description": "applied or known already", "headers": MINIMAL, "content": ANSWERS},
            207: {
                "model": Summary,
                "description": "several samples, of which some were not accepted; read the items",
                "headers": MINIMAL | WAIT,
            },
            **TELEMETRY_PROBLEMS,
        },
        openapi_extra={"requestBody": vehicle_body(schema), "parameters": [VEHICLE_PARAMETER, PREFER_PARAMETER]},
        summary="Send one sample or many of one vehicle",
    )
    async def post_telemetry(request: Request) -> Response:
        """A single sample object has its verdict as the status of the response; several have one item each."""
        running = await get_running(request)
        vehicle_id = request.path_params["vehicle_id"]
        if VEHICLE_ID.fullmatch(vehicle_id) is None:
            raise InvalidParameter.of([("vehicle_id", ID_RULE)])
        decoded, single = await vehicle_samples(request, running.decoder, running.settings.max_body_bytes, vehicle_id)
        answers = await answers_for(request, running, decoded)
        return one_answer(answers) if single else all_answers(answers, request)

    return routes


ANSWERS: dict[str, Any] = {
    "application/json": {
        "examples": {
            "one": {"summary": "one sample", "value": Item.model_config["json_schema_extra"]["examples"][0]},  # type: ignore[index]
            "many": {"summary": "several", "value": Summary.model_config["json_schema_extra"]["examples"][0]},  # type: ignore[index]
        }
    }
}


async def answers_for(request: Request, running: Running, decoded: Decoded) -> Answers:
    """Apply what is readable, in order; what is not fails alone. The one place that counts verdicts.

    Raises:
        RateLimited, QueueFull, NotReady: nothing was applied.
    """
    n_bad = decoded.n - len(decoded.samples)
    try:
        if running.sample_rate is not None:
            await running.sample_rate.take(sender(request), decoded.n)
        applied = await let_in(request, running, decoded.samples)
    except (RateLimited, QueueFull, NotReady) as error:
        count_verdicts(running, Status.OVERLOADED, len(decoded.samples))
        count_verdicts(running, Status.INVALID, n_bad)
        error.extra["verdict"] = Status.OVERLOADED.word
        raise
    if decoded.rows is None:
        answers = applied
    else:
        answers = Answers.blank(decoded.n, Status.INVALID)
        answers.put(decoded.rows, applied)
        answers.errors |= decoded.errors
    for status, n in enumerate(np.bincount(answers.status).tolist()):
        count_verdicts(running, Status(status), n)
    return answers


def sender(request: Request) -> str:
    """The id of the request's key; all senders are one where there are no keys."""
    key: ApiKey | None = request.scope.get("api_key")
    return "nobody" if key is None else key.id


async def let_in(request: Request, running: Running, samples: Samples) -> Answers:
    """Submit samples, but for those of new vehicles that may not come in. Raises as the batcher does."""
    door = running.new_vehicles
    strange = [] if door is None else door.strange(samples.vehicle_ids)
    if door is None or not strange:
        return await running.submit(samples)
    async with door.admit(sender(request), strange) as refused:
        if not refused:
            return await running.submit(samples)
        answers = Answers.blank(len(samples), Status.OVERLOADED)
        answers.seq[:] = samples.seq
        answers.reasons = {row: refused[v] for row, v in enumerate(samples.vehicle_ids) if v in refused}
        rows = np.array([row for row in range(len(samples)) if row not in answers.reasons], np.int64)
        if len(rows):
            answers.put(rows, await running.submit(samples.take(rows)))
        return answers


def count_verdicts(running: Running, status: Status, n: int) -> None:
    """samples_total by status."""
    if n:
        running.metrics.samples.labels(status.word).inc(n)


def one_answer(answers: Answers) -> Response:
    """A single sample: its verdict is the status of the response.

    Raises:
        ServiceError: it was not accepted.
    """
    (item,) = render.items(answers)
    status = Status(answers.status[0])
    if status in ACCEPTED:
        return Response(orjson.dumps(item), media_type="application/json")
    errors = item.get("errors", [])
    detail = "; ".join(f"{error['field']}: {error['reason']}" for error in errors) or item.get("reason", status.word)
    extra: dict[str, Any] = {"verdict": status.word}
    if answers.seq[0] != NO_SEQ:
        extra["seq"] = item["seq"]
    if errors:
        extra["errors"] = errors
    if status is Status.OVERLOADED:
        extra["headers"] = {"Retry-After": NO_ROOM_RETRY_AFTER}
    raise REFUSALS[status](detail, **extra)


def all_answers(answers: Answers, request: Request) -> Response:
    """Several samples: 200 when every one is accepted, 207 otherwise; each item says its own."""
    minimal = prefers_minimal(request.headers.get("prefer"))
    headers = {"Preference-Applied": "return=minimal"} if minimal else {}
    if answers.wait():
        soon = bool((answers.status == Status.DEFERRED).any())
        headers["Retry-After"] = str(RETRY_AFTER_S[503]) if soon else NO_ROOM_RETRY_AFTER
    status = 200 if answers.all_accepted() else 207
    return Response(render.summary(answers, minimal=minimal), status, headers, "application/json")


def prefers_minimal(prefer: str | None) -> bool:
    """Whether a Prefer header (RFC 7240) asks for return=minimal; of several `return`s the first counts."""
    for preference in (prefer or "").split(","):
        name, _, value = preference.partition(";")[0].partition("=")
        if name.strip().lower() == "return":
            return value.strip().strip('"').lower() == "minimal"
    return False
