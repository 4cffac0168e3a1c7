"""The bodies of the telemetry calls as the OpenAPI document describes them; the signals are the checkpoint's.

What a schema cannot say (both coordinates or neither, columns of one length, no time in the future) is in the descriptions.
"""

from typing import Any

from model.channels import ChannelSchema
from service.wire.aliases import ALIASES, Alias
from service.wire.decode_columns import MAX_EPOCH, MAX_SEQ, VEHICLE_ID_PATTERN
from service.wire.decode_times import EARLIEST_MS, LATEST_MS
from service.wire.request_body import JSON, NDJSON

Json = dict[str, Any]

EXAMPLE: Json = {
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
NEXT: Json = EXAMPLE | {"ts": "2026-09-14T08:00:10Z", "seq": 88122}
FLEET: list[Json] = [{"vehicle_id": "van-1", **EXAMPLE}, {"vehicle_id": "van-2", **NEXT}]
COLUMNS: Json = {
    "ts": [1789372805000, 1789372810000],
    "seq": [88121, 88122],
    "speed": [12.4, 12.9],
    "state_of_charge": [71.5, None],
    "motor_temperature": [64.0, 64.5],
}
FLEET_COLUMNS: Json = {"vehicle_id": ["van-1", "van-2"], **COLUMNS}
LINES = '{"ts": 1789372805000, "seq": 1, "signals": {"speed": 12.4}}\n{"ts": 1789372810000, "seq": 2, "signals": {"speed": 12.9}}\n'
FLEET_LINES = (
    '{"vehicle_id": "van-1", "ts": 1789372805000, "signals": {"speed": 12.4}}\n'
    '{"vehicle_id": "van-2", "ts": 1789372805000, "signals": {"speed": 9.8}}\n'
)

TIME: Json = {
    "description": "RFC 3339 time with its zone, or epoch milliseconds; not further ahead of the clock than allowed",
    "anyOf": [
        {"type": "string", "format": "date-time", "pattern": "^[2-9][0-9]{3}-"},
        {"type": "integer", "minimum": EARLIEST_MS, "maximum": LATEST_MS},
    ],
}
SEQ: Json = {
    "type": ["integer", "null"], "minimum": 0, "maximum": MAX_SEQ, "description": "number of the sample in its session",
}  # fmt: skip
EPOCH: Json = {
    "type": ["integer", "null"], "minimum": 1, "maximum": MAX_EPOCH, "description": "session; the current one when absent",
}  # fmt: skip
VEHICLE: Json = {
    "type": "string",
    "pattern": VEHICLE_ID_PATTERN,
    "description": "letters, digits, . _ : - ; at most 64",
}


def signal_schemas(schema: ChannelSchema) -> dict[str, Json]:
    """Every accepted name with its range in its own unit."""
    signals = {signal.name: signal for signal in schema.signals}
    own = {
        name: {
            "type": ["number", "null"],
            "minimum": signal.minimum,
            "maximum": signal.maximum,
            "description": f"{signal.description} ({signal.unit})",
        }
        for name, signal in signals.items()
    }
    known = [alias for alias in ALIASES if alias.signal in signals and signals[alias.signal].unit == alias.unit]
    return own | {alias.name: alias_schema(alias, own[alias.signal]) for alias in known}


def alias_schema(alias: Alias, own: Json) -> Json:
    """A foreign name's range in its owner's unit."""
    bounds = sorted((own["minimum"] / alias.factor, own["maximum"] / alias.factor))
    return {
        "type": ["number", "null"],
        "minimum": bounds[0],
        "maximum": bounds[1],
        "description": f"{alias.signal} by another name ({alias.their_unit})",
    }


def sample_schema(schema: ChannelSchema, *, fleet: bool) -> Json:
    """One sample object; with its vehicle in a fleet batch."""
    names = set(signal_schemas(schema))
    pairs = (
        ("latitude", "longitude"),
        ("Location.latitude", "Location.longitude"),
        ("Vehicle.CurrentLocation.Latitude", "Vehicle.CurrentLocation.Longitude"),
    )
    signals = {
        "type": "object",
        "minProperties": 1,
        "additionalProperties": False,
        "properties": signal_schemas(schema),
        "dependentRequired": {a: [b] for pair in pairs if set(pair) <= names for a, b in (pair, pair[::-1])},
        "description": "null is absent; at least one value; latitude and longitude together; one name per signal",
    }
    vehicle = {"vehicle_id": VEHICLE} if fleet else {}
    return {
        "type": "object",
        "additionalProperties": False,
        "required": [*vehicle, "ts", "signals"],
        "properties": {**vehicle, "ts": TIME, "seq": SEQ, "epoch": EPOCH, "signals": signals},
    }


def columns_schema(schema: ChannelSchema, *, fleet: bool) -> Json:
    """A table: arrays of one length, null where a value is absent."""
    vehicle = {"vehicle_id": VEHICLE} if fleet else {}
    properties = {**vehicle, "ts": TIME, "seq": SEQ, "epoch": EPOCH, **signal_schemas(schema)}
    table = {
        "type": "object",
        "additionalProperties": False,
        "required": [*vehicle, "ts"],
        "properties": {name: {"type": "array", "items": items} for name, items in properties.items()},
        "description": "arrays of one length; null is absent",
    }
    return {"type": "object", "additionalProperties": False, "required": ["columns"], "properties": {"columns": table}}


def vehicle_body(schema: ChannelSchema) -> Json:
    """Of `POST /v1/vehicles/{vehicle_id}/telemetry`."""
    sample = sample_schema(schema, fleet=False)
    shapes = [sample, {"type": "array", "items": sample}, columns_schema(schema, fleet=False)]
    examples = {
        "one": {"summary": "one sample", "value": EXAMPLE},
        "array": {"summary": "an array in order", "value": [EXAMPLE, NEXT]},
        "columns": {"summary": "columns", "value": {"columns": COLUMNS}},
    }
    return body(shapes, examples, LINES)


def fleet_body(schema: ChannelSchema) -> Json:
    """Of `POST /v1/telemetry`."""
    samples = {"type": "array", "items": sample_schema(schema, fleet=True)}
    rows = {
        "type": "object",
        "additionalProperties": False,
        "required": ["samples"],
        "properties": {"samples": samples},
    }
    examples = {
        "samples": {"summary": "sample objects", "value": {"samples": FLEET}},
        "columns": {"summary": "columns, the fastest", "value": {"columns": FLEET_COLUMNS}},
    }
    return body([rows, columns_schema(schema, fleet=True)], examples, FLEET_LINES)


def body(shapes: list[Json], examples: Json, lines: str) -> Json:
    """A request body of these JSON shapes, or of lines."""
    text = {"type": "string", "description": "one sample object per line"}
    return {
        "required": True,
        "description": "Plain, or with Content-Encoding gzip or zstd; the limits hold for what it unpacks to.",
        "content": {
            JSON: {"schema": {"anyOf": shapes}, "examples": examples},
            NDJSON: {"schema": text, "example": lines},
        },
    }
