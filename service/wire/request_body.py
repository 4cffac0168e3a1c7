"""Reads the body of a telemetry request: media type, encoding, limits, then samples by the decoder."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from service.errors import UnreadableBody, UnsupportedMediaType
from service.gate.overload import Share
from service.wire.compressed_body import too_large, unpacker
from service.wire.decode import Decoded, Decoder, json_kind
from service.wire.json_body import parse_json, parse_ndjson

Result = TypeVar("Result")

JSON, NDJSON = "application/json", "application/x-ndjson"
IN_A_THREAD_BYTES = 262_144  # a body that takes longer to read than others should wait


async def read_body(request: Request, limit: int) -> bytes | bytearray:
    """The body, unpacked, read no further than `limit` bytes, packed or not.

    Raises:
        UnsupportedMediaType: the encoding is not one that we read.
        BodyTooLarge: it holds more.
        UnreadableBody: it is not in its encoding, or was cut off.
    """
    declared = request.headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit()):
        raise UnreadableBody("content-length is not a number")
    if int(declared[:20]) > limit:
        raise too_large(limit)
    body = unpacker(request.headers.get("content-encoding", ""), limit)
    share: Share = request.scope["share"]
    try:
        async for chunk in request.stream():
            before = body.unpacked
            body.feed(chunk)
            share.add_bytes(body.unpacked - before)
    except ClientDisconnect as error:
        raise UnreadableBody("the sender went away") from error
    return body.finish()


def media_type(request: Request) -> str:
    """The type of the body.

    Raises:
        UnsupportedMediaType: it is none that we read.
    """
    name = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if name not in {JSON, NDJSON}:
        raise UnsupportedMediaType(
            f"content type is {name[:100] or 'missing'}; send {JSON} or {NDJSON}",
            headers={"Accept-Post": f"{JSON}, {NDJSON}"},
        )
    return name


async def fleet_samples(request: Request, decoder: Decoder, limit: int) -> Decoded:
    """A fleet batch: {"samples": [...]}, {"columns": {...}}, or lines.

    Raises:
        ServiceError: the body as a whole cannot be read.
    """
    form = media_type(request)
    body = await read_body(request, limit)
    return await beside_others(decoder, len(body), decode_fleet, body, form, decoder)


async def vehicle_samples(request: Request, decoder: Decoder, limit: int, vehicle_id: str) -> tuple[Decoded, bool]:
    """One vehicle's: a sample object, an array, {"columns": {...}}, or lines; and whether it was a single object.

    Raises:
        ServiceError: the body as a whole cannot be read.
    """
    form = media_type(request)
    body = await read_body(request, limit)
    return await beside_others(decoder, len(body), decode_vehicle, body, form, decoder, vehicle_id)


async def beside_others(decoder: Decoder, size: int, decode: Callable[..., Result], *arguments: Any) -> Result:
    """Decode a long body in the decoder's thread, so that short ones and probes are answered meanwhile.

    One long body at a time: as plain data it takes many times its size.
    """
    if size < IN_A_THREAD_BYTES:
        return decode(*arguments)
    return await asyncio.get_running_loop().run_in_executor(decoder.thread, partial(decode, *arguments))


def decode_fleet(body: bytes | bytearray, form: str, decoder: Decoder) -> Decoded:
    """The samples of a fleet batch."""
    if form == NDJSON:
        return decoder.rows(parse_ndjson(body, decoder.max_samples), None)
    data = parse_json(body)
    if isinstance(data, dict) and data.keys() == {"columns"}:
        return decoder.columns(data["columns"], None)
    if isinstance(data, dict) and data.keys() == {"samples"} and isinstance(data["samples"], list):
        return decoder.rows(data["samples"], None)
    raise UnreadableBody('a fleet batch is {"samples": [...]} or {"columns": {...}}, or lines of application/x-ndjson')


def decode_vehicle(body: bytes | bytearray, form: str, decoder: Decoder, vehicle_id: str) -> tuple[Decoded, bool]:
    """The samples of one vehicle, and whether there is but one, on its own."""
    if form == NDJSON:
        return decoder.rows(parse_ndjson(body, decoder.max_samples), vehicle_id), False
    data = parse_json(body)
    if isinstance(data, list):
        return decoder.rows(data, vehicle_id), False
    if not isinstance(data, dict):
        raise UnreadableBody(f"the body is a JSON {json_kind(data)}; send a sample object or an array of them")
    if data.keys() == {"columns"}:
        return decoder.columns(data["columns"], vehicle_id), False
    return decoder.one(data, vehicle_id), True
