"""`POST /v1/vehicles/{vehicle_id}/telemetry`: one sample, or an array of one vehicle's samples in order."""

import json
from collections import Counter
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request
from fastapi.responses import JSONResponse
from pydantic import TypeAdapter

from service.deps import Running, RunningDep
from service.errors import (
    RETRY_AFTER_S,
    BodyTooLarge,
    Deferred,
    InvalidSample,
    NotReady,
    QueueFull,
    RefusedSample,
    ServiceError,
    UnreadableBody,
    UnsupportedMediaType,
)
from service.routes.schemas import Item, Summary, problems
from service.samples import ACCEPTED, Answers, Status
from service.wire import VEHICLE_ID_PATTERN, Sample, SampleReader, Unreadable, columns

VehicleIdPath = Annotated[
    str, Path(pattern=VEHICLE_ID_PATTERN, description="letters, digits, . _ : - ; at most 64", examples=["van-1"])
]

EXAMPLE = {
    "ts": "2026-09-14T08:00:05Z",
    "seq": 88121,
    "signals": {
        "latitude": 48.1374,
        "longitude": 11.5755,
        "altitude": 519.0,
        "speed": 12.4,
        "state_of_charge": 71.5,
        "motor_temperature": 64.0,
        "brake_events": 1,
    },
}

REFUSALS: dict[Status, type[ServiceError]] = {
    Status.LATE: RefusedSample,
    Status.CONFLICT: RefusedSample,
    Status.INVALID: InvalidSample,
    Status.DEFERRED: Deferred,
}


def router(reader: SampleReader) -> APIRouter:
    """The route; its documented body follows the checkpoint's signals."""
    routes = APIRouter(tags=["telemetry"])
    one_or_many: Any = reader.model | list[reader.model]  # type: ignore[name-defined]  # made at run time
    schema = TypeAdapter(one_or_many).json_schema(mode="validation", ref_template="#/components/schemas/{model}")
    schema = inline_definitions(schema)
    body = {
        "required": True,
        "content": {
            "application/json": {
                "schema": schema,
                "examples": {
                    "one": {"summary": "one sample", "value": EXAMPLE},
                    "array": {
                        "summary": "an array in order",
                        "value": [EXAMPLE, EXAMPLE | {"ts": "2026-09-14T08:00:10Z", "seq": 88122}],
                    },
                },
            }
        },
    }

    @routes.post(
        "/v1/vehicles/{vehicle_id}/telemetry",
        response_model=Item | Summary,
        responses={
            200: {"description": "applied or known already", "content": {"application/json": {"examples": ANSWERS}}},
            207: {"model": Summary, "description": "an array of which some were not accepted; read the items"},
            **problems(400, 409, 413, 415, 422, 429, 503),
        },
        openapi_extra={"requestBody": body},
        summary="Send one sample or an array",
    )
    async def post_telemetry(request: Request, vehicle_id: VehicleIdPath, running: RunningDep) -> JSONResponse:
        data = decode(await read_body(request, running.settings.max_body_bytes), request)
        if isinstance(data, list):
            return await apply_array(running, vehicle_id, data)
        return await apply_one(running, vehicle_id, data)

    return routes


ANSWERS = {
    "one": {
        "summary": "one sample",
        "value": {
            "i": 0,
            "status": "applied",
            "seq": 88121,
            "risk": 0.0021,
            "surprise": 0.4,
            "phase": "inactive",
            "warming_up": False,
        },
    },
}


def inline_definitions(schema: dict[str, Any]) -> dict[str, Any]:
    """A JSON schema without `$defs`: OpenAPI wants references into its components, which these models are not."""
    definitions = schema.pop("$defs", {})

    def resolve(node: Any) -> Any:
        if isinstance(node, dict):
            if "$ref" in node:
                return resolve(definitions[node["$ref"].rsplit("/", 1)[1]])
            return {key: resolve(value) for key, value in node.items()}
        if isinstance(node, list):
            return [resolve(value) for value in node]
        return node

    resolved: dict[str, Any] = resolve(schema)
    return resolved


async def read_body(request: Request, limit: int) -> bytes:
    """The body, read no further than `limit` bytes.

    Raises:
        BodyTooLarge: it is longer.
    """
    too_large = BodyTooLarge(f"the body is over {limit} bytes; send fewer samples at a time", limit_bytes=limit)
    declared = request.headers.get("content-length", "0")
    if not declared.isascii() or not declared.isdigit():
        raise UnreadableBody("content-length is not a number")
    if int(declared[:20]) > limit:
        raise too_large
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > limit:
            raise too_large
    return bytes(body)


def decode(body: bytes, request: Request) -> Any:
    """The body as plain data.

    Raises:
        UnsupportedMediaType: it is not declared as JSON.
        UnreadableBody: it is not JSON, or neither an object nor an array.
    """
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType(f"content type is {media_type[:100] or 'missing'}; send application/json")
    encoding = request.headers.get("content-encoding", "identity")
    if encoding.lower() != "identity":
        raise UnsupportedMediaType(f"content encoding is {encoding[:100]}; send it plain")
    try:
        # The standard parser takes NaN, so that it can be refused by the name of its field.
        data = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UnreadableBody(f"the body is not JSON: {error}") from error
    if not isinstance(data, dict | list):
        raise UnreadableBody(f"the body is a JSON {type(data).__name__}; send a sample object or an array of them")
    return data


async def apply_one(running: Running, vehicle_id: str, data: object) -> JSONResponse:
    """One sample: its verdict is the status of the response."""
    answers = await answers_for(running, vehicle_id, [data])
    item, status = Item.of(0, answers), Status(int(answers.status[0]))
    if status in ACCEPTED:
        return JSONResponse(item.model_dump(mode="json", exclude_none=True))
    detail = "; ".join(f"{e['field']}: {e['reason']}" for e in item.errors or []) or item.reason or status.word
    extra: dict[str, Any] = {"verdict": status.word}
    if item.seq is not None:
        extra["seq"] = item.seq
    if item.errors:
        extra["errors"] = item.errors
    raise REFUSALS[status](detail, **extra)


async def apply_array(running: Running, vehicle_id: str, data: list[object]) -> JSONResponse:
    """An array: 200 when every sample is accepted, 207 otherwise; each item says its own."""
    limit = running.settings.max_samples_per_request
    if len(data) > limit:
        raise BodyTooLarge(f"the array has {len(data)} samples, the limit is {limit}", limit_samples=limit)
    answers = await answers_for(running, vehicle_id, data)
    count = answers.status.tolist().count
    summary = Summary(
        applied=count(Status.APPLIED),
        duplicate=count(Status.DUPLICATE),
        rejected=sum(status not in ACCEPTED for status in answers.status.tolist()),
        items=[Item.of(i, answers) for i in range(len(answers))],
    )
    headers = {"Retry-After": str(RETRY_AFTER_S[503])} if answers.wait() else None
    return JSONResponse(summary.model_dump(mode="json", exclude_none=True), 207 if summary.rejected else 200, headers)


async def answers_for(running: Running, vehicle_id: str, data: list[object]) -> Answers:
    """Read and apply samples in order; one that cannot be read fails alone. The one place that counts verdicts."""
    read = [running.reader.read(vehicle_id, item) for item in data]
    rows = [i for i, sample in enumerate(read) if isinstance(sample, Sample)]
    samples = [sample for sample in read if isinstance(sample, Sample)]
    answers = Answers.blank(len(read), Status.INVALID)
    answers.errors |= {i: sample.errors for i, sample in enumerate(read) if isinstance(sample, Unreadable)}
    try:
        answers.put(rows, await running.batcher.submit(columns(samples, len(running.checkpoint.schema.signals))))
    except (QueueFull, NotReady) as error:
        answers.status[rows] = Status.OVERLOADED
        error.extra["verdict"] = Status.OVERLOADED.word
        raise
    finally:
        for status, n in Counter(answers.status.tolist()).items():
            running.metrics.samples.labels(Status(status).word).inc(n)
    return answers
