"""Keeps other people's web pages from writing to a service that a browser on this machine can reach."""

from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import problem

READING = frozenset({"GET", "HEAD", "OPTIONS"})


class SameOrigin:
    """Refuses a writing request that a browser sends on behalf of a page from elsewhere (403).

    Senders that are no browsers carry no Origin header and are not affected.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it."""
        if scope["type"] == "http" and scope["method"] not in READING:
            headers = Headers(scope=scope)
            origin = headers.get("origin")
            if origin is not None and urlsplit(origin).netloc != headers.get("host"):
                response = problem(403, "cross-origin", f"pages from {origin[:100]} may not write here")
                await response(scope, receive, send)
                return
        await self._app(scope, receive, send)
