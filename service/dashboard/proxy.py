"""The page as a process of its own: its files, and the calls that it makes passed on to a service elsewhere.

Keys are the reader's own: whatever `Authorization` a request brings goes along, nothing is added.
"""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import httpx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from service.dashboard.site import routes
from service.errors import problem
from service.gate.same_origin import SameOrigin

READS = re.compile(
    r"/v1/(?:fleet|service|model|alerts(?:/[^/]+)?|silences|vehicles(?:/[^/]+(?:/trend)?)?)|/livez|/readyz"
)
WRITES = re.compile(r"/v1/alerts/[^/]+/ack|/v1/silences(?:/[^/]+)?")
SENT_ON = (
    "accept",
    "accept-encoding",
    "authorization",
    "cache-control",
    "content-type",
    "if-none-match",
    "last-event-id",
)
SENT_BACK = (
    "cache-control",
    "content-encoding",
    "content-type",
    "etag",
    "location",
    "retry-after",
    "vary",
    "www-authenticate",
)
TIMEOUT = httpx.Timeout(10.0, read=90.0)  # a stream of events says something at least that often
LARGEST_BODY = 65_536


def create_proxy(service: str) -> Starlette:
    """The application for the service at this URL."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with httpx.AsyncClient(base_url=service, timeout=TIMEOUT) as client:
            app.state.client = client
            yield

    return Starlette(
        routes=[*routes(), Route("/{path:path}", pass_on, methods=["GET", "POST", "DELETE"])],
        middleware=[Middleware(SameOrigin)],
        lifespan=lifespan,
    )


async def pass_on(request: Request) -> Response:
    """Ask the service what we were asked, if the page asks such things; its answer as it comes."""
    path, method = request.url.path, request.method
    if not (WRITES if method in {"POST", "DELETE"} else READS).fullmatch(path):
        return problem(404, "not-found", f"{method} {path} is nothing that the page needs; ask the service itself")
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_BODY:
            return problem(413, "too-large", f"more than {LARGEST_BODY} bytes")
    client: httpx.AsyncClient = request.app.state.client
    headers = {name: request.headers[name] for name in SENT_ON if name in request.headers}
    # httpx would ask for packed answers that the reader may not understand.
    headers.setdefault("accept-encoding", "identity")
    asked = client.build_request(method, path, params=str(request.query_params), headers=headers, content=bytes(body))
    try:
        answer = await client.send(asked, stream=True)
    except httpx.TransportError as error:
        return problem(502, "service-unreachable", f"the service does not answer: {error or type(error).__name__}")
    return StreamingResponse(
        relayed(answer),
        answer.status_code,
        {name: answer.headers[name] for name in SENT_BACK if name in answer.headers},
    )


async def relayed(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The body as it comes; the service hears of it when the reader has gone."""
    try:
        async for part in answer.aiter_raw():
            yield part
    finally:
        with anyio.CancelScope(shield=True):
            await answer.aclose()
