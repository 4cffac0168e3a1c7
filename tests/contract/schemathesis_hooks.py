"""Loaded by Schemathesis: how NDJSON is written, and what a summary must be whatever was sent."""

import json
from typing import Any

import schemathesis
from schemathesis import Case, CheckContext, Response, SerializationContext

ACCEPTED = {"applied", "duplicate"}


@schemathesis.serializer("application/x-ndjson")
def ndjson(_: SerializationContext, value: Any) -> bytes:
    """Text as it is; anything else as one line."""
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


@schemathesis.serializer("application/vnd.emberwatch.vehicle")
def vehicle(_: SerializationContext, value: Any) -> bytes:
    """Bytes as they are; anything else as text."""
    return value if isinstance(value, bytes) else str(value).encode()


@schemathesis.check
def a_summary_hides_nothing(_: CheckContext, response: Response, case: Case[Any]) -> None:
    """200 means that all were accepted, 207 that some were not; the counts are those of the items."""
    if not case.operation.path.endswith("/telemetry") or response.status_code not in {200, 207}:
        return
    data = response.json()
    if "items" not in data:
        assert response.status_code == 200
        assert data["status"] in ACCEPTED, data
        return
    refused = [item for item in data["items"] if item["status"] not in ACCEPTED]
    assert len(refused) == data["rejected"], data
    assert (response.status_code == 207) == bool(refused), data
    assert all(item.get("reason") or item.get("errors") for item in refused), "refused without a reason"
    minimal = "return=minimal" in str(response.headers.get("preference-applied", ""))
    listed = data["duplicate"] + data["rejected"] + (0 if minimal else data["applied"])
    assert len(data["items"]) == listed, data
