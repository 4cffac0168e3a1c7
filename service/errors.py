"""Errors that carry their HTTP status, and the one place that turns them into RFC 9457 problem details."""

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, Self

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

PROBLEM_TYPE = "urn:emberwatch:problem:"  # the kinds are listed in docs/errors.md


class ServiceError(Exception):
    """A refusal. `kind` is its stable name, `extra` are members of the problem document beside the standard ones."""

    status = 500
    kind = "internal"

    def __init__(self, detail: str, *, headers: dict[str, str] | None = None, **extra: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = headers
        self.extra = extra


class UnreadableBody(ServiceError):
    """The body is not JSON, or not the kind of JSON the call takes."""

    status, kind = 400, "unreadable-body"


class Unauthenticated(ServiceError):
    """There is no API key, or it is none of ours."""

    status, kind = 401, "unauthenticated"


class ScopeMissing(ServiceError):
    """The API key may not do this."""

    status, kind = 403, "scope-missing"


class UnknownVehicle(ServiceError):
    """No vehicle of that name has ever been accepted."""

    status, kind = 404, "unknown-vehicle"


class BodyTooLarge(ServiceError):
    """The body, unpacked or not, or what is in it, is over its limit."""

    status, kind = 413, "too-large"


class UnsupportedMediaType(ServiceError):
    """The body is in a format that this call does not read."""

    status, kind = 415, "unsupported-media-type"


class InvalidParameter(ServiceError):
    """A parameter of the path or query."""

    status, kind = 422, "invalid-parameter"

    @classmethod
    def of(cls, wrong: Sequence[tuple[str, str]]) -> Self:
        """From (field, reason) pairs; the first ten are told."""
        shown = [{"field": field, "reason": reason} for field, reason in wrong[:10]]
        return cls("; ".join(f"{item['field']}: {item['reason']}" for item in shown), errors=shown)


class InvalidColumns(InvalidParameter):
    """The columns do not make a table: unknown, missing, not arrays, or of different lengths."""

    status, kind = 422, "invalid-columns"


class InvalidSample(ServiceError):
    """A value is missing, unknown or out of range."""

    status, kind = 422, "invalid-sample"


class Draining(ServiceError):
    """The worker was asked to stop and serves what still comes. 404: what a load balancer reads as "no more of these"."""

    status, kind = 404, "draining"


class Busy(ServiceError):
    """What may be done by one at a time is being done by somebody else."""

    status, kind = 409, "busy"


class RefusedSample(ServiceError):
    """The sample is readable but does not fit the vehicle's session: late, or in conflict with what was accepted."""

    status, kind = 409, "refused-sample"


class QueueFull(ServiceError):
    """More samples are waiting than the service takes on."""

    status, kind = 429, "queue-full"


class TooMuchInFlight(ServiceError):
    """More bytes of requests are in hand than the service takes on."""

    status, kind = 429, "too-much-in-flight"


class RateLimited(ServiceError):
    """The API key has sent more samples than it may for now."""

    status, kind = 429, "rate-limited"


class TooManyListeners(ServiceError):
    """More connections listen to the stream of alerts than the service takes on."""

    status, kind = 429, "too-many-listeners"


class TooManyVehicles(ServiceError):
    """The vehicle is new, and the data set has as many as it may, or its key brought as many as it may for now."""

    status, kind = 429, "too-many-vehicles"


NOTHING_KNOWN = "the store of this vehicle does not answer or refuses; nothing is known to be acknowledged"


class StoreUnavailable(ServiceError):
    """The store does not answer or refuses writes; nothing was acknowledged.

    `vehicle_ids` says whose part of the store that is, where it is not all of it.
    """

    status, kind = 503, "store-unavailable"
    vehicle_ids: frozenset[str] = frozenset()

    @classmethod
    def of(cls, vehicle_ids: Iterable[str]) -> Self:
        """Of these vehicles' part of the store."""
        error = cls(NOTHING_KNOWN)
        error.vehicle_ids = frozenset(vehicle_ids)
        return error


class Deferred(ServiceError):
    """The sample was not tried, or not acknowledged; the detail says why."""

    status, kind = 503, "deferred"


class NotReady(ServiceError):
    """The service cannot take samples yet, or any more."""

    status, kind = 503, "not-ready"


RETRY_AFTER_S = {429: 1, 503: 1}


def problem(status: int, kind: str, detail: str, headers: dict[str, str] | None = None, **extra: Any) -> JSONResponse:
    """A problem document; `type`, `title`, `status` and `detail` are RFC 9457's."""
    body = {"type": PROBLEM_TYPE + kind, "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    wait = {"Retry-After": str(RETRY_AFTER_S[status])} if status in RETRY_AFTER_S else {}
    return JSONResponse(body | extra, status, wait | (headers or {}), media_type="application/problem+json")


def problem_of(error: ServiceError) -> JSONResponse:
    """A refusal as its problem document."""
    return problem(error.status, error.kind, error.detail, error.headers, **error.extra)


def allowed_methods(document: dict[str, Any], path: str) -> str:
    """The methods of a path as an Allow header has them; FastAPI's own names those of one route only."""
    found: set[str] = set()
    for template, methods in document["paths"].items():
        if re.fullmatch(re.sub(r"\\{[^}]+\\}", "[^/]+", re.escape(template)), path):
            found |= {method.upper() for method in methods}
    return ", ".join(sorted(found))


def add_error_handlers(app: FastAPI) -> None:
    """Every error of every route leaves as a problem document."""

    @app.exception_handler(ServiceError)
    async def service_error(_: Request, error: ServiceError) -> JSONResponse:
        return problem_of(error)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, __: Exception) -> JSONResponse:
        return problem(500, "internal", "an error of ours; it is in the service's log")

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        response = problem(error.status_code, "http", str(error.detail))
        response.headers.update(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            response.headers["Allow"] = allowed_methods(request.app.openapi(), request.url.path)
        return response

    @app.exception_handler(RequestValidationError)
    async def parameter_error(_: Request, error: RequestValidationError) -> JSONResponse:
        wrong = [(".".join(str(part) for part in item["loc"][1:]), item["msg"]) for item in error.errors()]
        return problem_of(InvalidParameter.of(wrong))
