"""The OpenAPI document as the service really behaves: keys and their scopes, refusals by every layer, one form of error."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from service.gate.access import scope_of
from service.gate.overload import ALWAYS_ANSWERED
from service.gate.same_origin import READING

SCHEME = "apiKey"
BEARER = {
    "type": "http",
    "scheme": "bearer",
    "bearerFormat": "ew_<id>_<secret>",
    "description": "API key with scope ingest, read or admin (`emberwatch keys create`); admin may do everything",
}
PROBLEM = "application/problem+json"
PROBLEM_SCHEMA = {"$ref": "#/components/schemas/Problem"}
CHALLENGE = {"WWW-Authenticate": {"description": "RFC 6750", "schema": {"type": "string"}}}
WAIT = {"Retry-After": {"description": "seconds", "schema": {"type": "string"}}}
REFUSALS: dict[int, tuple[str, dict[str, Any]]] = {
    401: ("no API key, or one that is unknown or revoked", CHALLENGE),
    403: ("the key has not the scope, or a browser writes on behalf of a page from elsewhere", {}),
    429: ("too much is in hand", WAIT),
}


def describe(app: FastAPI, *, keys: bool) -> dict[str, Any]:
    """The document. `keys`: whether API keys are in force."""
    document = get_openapi(
        title=app.title, version=app.version, description=app.description, routes=app.routes, openapi_version="3.1.0"
    )
    for path, methods in document["paths"].items():
        for method, call in methods.items():
            complete(call, method.upper(), path, keys=keys)
    schemas = document["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):  # our parameter errors are problems
        schemas.pop(unused, None)
    if keys:
        document["components"]["securitySchemes"] = {SCHEME: BEARER}
    return document


def without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of a parameter that may be left out: there is no null in a header or a query."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    flat: dict[str, Any] = kinds[0] | {name: value for name, value in schema.items() if name != "anyOf"}
    return flat


def complete(call: dict[str, Any], method: str, path: str, *, keys: bool) -> None:
    """What layers above the route ask for and answer."""
    for parameter in call.get("parameters", ()):
        parameter["schema"] = without_null(parameter["schema"])
    responses = call["responses"]
    scope = scope_of(method, path)
    codes = []
    if keys and scope is not None:
        call["security"] = [{SCHEME: [scope]}]
        call["description"] = f"{call.get('description', '')}\n\nNeeds a key with scope `{scope}`.".strip()
        codes.append(401)
    if (keys and scope is not None) or method not in READING:
        codes.append(403)
    if path not in ALWAYS_ANSWERED:
        codes.append(429)
    for code in codes:
        words, headers = REFUSALS[code]
        responses.setdefault(str(code), {"description": words, "content": {PROBLEM: {"schema": PROBLEM_SCHEMA}}})
        if headers:
            responses[str(code)]["headers"] = headers
    for code, response in responses.items():
        if code.startswith(("4", "5")):
            response["content"] = {PROBLEM: {"schema": PROBLEM_SCHEMA}}
            if code == "503":
                response["headers"] = WAIT
    call["responses"] = dict(sorted(responses.items()))
