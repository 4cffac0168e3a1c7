"""A whole vehicle over HTTP: `GET`, `PUT /v1/vehicles/{id}/state` and `DELETE /v1/vehicles/{id}`."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Header, Request, Response

from service.deps import RunningDep
from service.engine.vehicle_transfer import Precondition, UnusableExport
from service.errors import ServiceError, UnknownVehicle, UnsupportedMediaType
from service.records.vehicle_export import MEDIA_TYPE, Export, ExportError, pack_export, unpack_export
from service.routes.schemas import problems
from service.routes.telemetry import VehicleIdPath
from service.wire.request_body import read_body

router = APIRouter(tags=["vehicles"])

ENTITY_TAG = re.compile(r'(?<!W/)"[\x21\x23-\x7e]*"')  # RFC 9110, section 8.8.3
ETAG_HEADER = {"ETag": {"description": "version of the state", "schema": {"type": "string"}}}
BINARY: dict[str, Any] = {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}

IfMatch = Annotated[str | None, Header(description="only if the vehicle is at one of these entity tags, or at all (*)")]
IfNoneMatch = Annotated[
    str | None, Header(description="*: only if there is no such vehicle; entity tags: only if it is at none of them")
]
IfNotKnown = Annotated[str | None, Header(description="entity tags that the caller has already")]


class NoState(ServiceError):
    """The vehicle has no recurrent state yet in this session."""

    status, kind = 404, "no-state"


@router.get(
    "/v1/vehicles/{vehicle_id}/state",
    response_class=Response,
    responses={
        200: {"description": "the layout is documented in docs/state.md", "headers": ETAG_HEADER, "content": BINARY},
        304: {"description": "the caller has it already", "headers": ETAG_HEADER},
        **problems(404, 422, 503),
    },
    summary="Export a vehicle",
)
async def get_state(vehicle_id: VehicleIdPath, running: RunningDep, if_none_match: IfNotKnown = None) -> Response:
    """All that the vehicle's stream needs to go on elsewhere bit for bit: session, state, answers to retries, alert."""
    known = frozenset() if if_none_match is None else entity_tags(if_none_match)
    found = await running.engine.transfer.export(vehicle_id)
    if found is None:
        raise UnknownVehicle(f"no sample of {vehicle_id} was ever accepted", vehicle_id=vehicle_id)
    export, etag = found
    if export is None:
        raise NoState(
            f"{vehicle_id} has no state: no sample was accepted in this session, or its snapshot is gone",
            vehicle_id=vehicle_id,
        )
    if known & {etag, "*"}:
        return Response(status_code=304, headers={"ETag": etag})
    return Response(pack_export(export), media_type=MEDIA_TYPE, headers={"ETag": etag})


@router.put(
    "/v1/vehicles/{vehicle_id}/state",
    status_code=204,
    response_class=Response,
    responses={
        201: {"description": "imported; there was no such vehicle", "headers": ETAG_HEADER},
        204: {"description": "imported; it replaced what was there", "headers": ETAG_HEADER},
        **problems(400, 409, 412, 413, 415, 422, 503),
    },
    openapi_extra={"requestBody": {"required": True, "content": BINARY}},
    summary="Import a vehicle",
)
async def put_state(
    request: Request,
    vehicle_id: VehicleIdPath,
    running: RunningDep,
    if_match: IfMatch = None,
    if_none_match: IfNoneMatch = None,
) -> Response:
    """Put an exported vehicle in place. Without If-Match, one that is further here than in the export is refused (409)."""
    asked = precondition(if_match, if_none_match)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != MEDIA_TYPE:
        raise UnsupportedMediaType(f"content type is {content_type[:100] or 'missing'}; send {MEDIA_TYPE}")
    export = unpacked(bytes(await read_body(request, running.settings.max_body_bytes)))
    if export.vehicle_id != vehicle_id:
        raise UnusableExport(f"this is the state of {export.vehicle_id}, not of {vehicle_id}")
    created, etag = await running.engine.transfer.install(export, asked)
    return Response(status_code=201 if created else 204, headers={"ETag": etag})


@router.delete(
    "/v1/vehicles/{vehicle_id}",
    status_code=204,
    response_class=Response,
    responses={204: {"description": "nothing of the vehicle is left"}, **problems(412, 422, 503)},
    summary="Erase a vehicle",
)
async def delete_vehicle(vehicle_id: VehicleIdPath, running: RunningDep, if_match: IfMatch = None) -> Response:
    """Erase session, state, journal, alerts and index entries. A vehicle that is not there is erased already."""
    await running.engine.transfer.erase(vehicle_id, precondition(if_match, None))
    return Response(status_code=204)


def unpacked(body: bytes) -> Export:
    """The export in a request's body. Raises UnusableExport."""
    try:
        return unpack_export(body)
    except ExportError as error:
        raise UnusableExport(str(error)) from error


def precondition(if_match: str | None, if_none_match: str | None) -> Precondition:
    """What these headers ask."""
    return Precondition(
        None if if_match is None else entity_tags(if_match),
        frozenset() if if_none_match is None else entity_tags(if_none_match),
    )


def entity_tags(text: str) -> frozenset[str]:
    """The strong entity tags in a header, or "*"; what is neither is no tag that a vehicle could have."""
    return frozenset({"*"}) if text.strip() == "*" else frozenset(ENTITY_TAG.findall(text))
