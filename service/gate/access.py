"""Who may do what: the scope of each call, and the middleware that asks for it before a body is read.

What is not listed needs `admin`, so that a new call is closed until somebody decides otherwise.
"""

import re

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ScopeMissing, ServiceError, Unauthenticated, problem_of
from service.gate.keys import ADMIN, ApiKey, KeyRing

PAGE = "/dashboard"  # files that say nothing of any vehicle
OPEN = frozenset({"/", PAGE, "/livez", "/readyz", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})
TELEMETRY = re.compile(r"/v1/(?:vehicles/[^/]+/)?telemetry")
READING = frozenset({"GET", "HEAD", "OPTIONS"})
REALM = 'Bearer realm="emberwatch"'


def scope_of(method: str, path: str) -> str | None:
    """The scope that a call needs; None if it is open to everybody."""
    if (path in OPEN or path.startswith(f"{PAGE}/")) and method in READING:
        return None
    if path.startswith("/debug/"):
        return ADMIN
    if method in READING:
        return "read"
    if method == "POST" and TELEMETRY.fullmatch(path):
        return "ingest"
    return ADMIN


class Access:
    """Refuses what the request's key may not do; `scope["api_key"]` tells the routes whose request it is.

    `ring` has the keys in force; None where there are none: then everything is allowed, and settings see to it that
    only this machine can reach the service.
    """

    def __init__(self, app: ASGIApp, ring: KeyRing | None) -> None:
        self._app = app
        self._ring = ring

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it (401, 403)."""
        ring = self._ring
        if ring is not None and scope["type"] == "http":
            needed = scope_of(scope["method"], scope["path"])
            if needed is not None:
                try:
                    scope["api_key"] = authorised(ring, Headers(scope=scope).getlist("authorization"), needed)
                except ServiceError as error:
                    await problem_of(error)(scope, receive, send)
                    return
        await self._app(scope, receive, send)


def authorised(ring: KeyRing, headers: list[str], scope: str) -> ApiKey:
    """The key of these Authorization headers, which has this scope.

    Raises:
        Unauthenticated: there is none that we know.
        ScopeMissing: it has not the scope.
    """
    if not headers:
        raise Unauthenticated("send an API key: Authorization: Bearer <key>", headers={"WWW-Authenticate": REALM})
    kind, _, text = headers[0].partition(" ")
    key = ring.identify(text.strip()) if len(headers) == 1 and kind.lower() == "bearer" else None
    if key is None:
        challenge = f'{REALM}, error="invalid_token"'
        raise Unauthenticated("the API key is unknown or revoked", headers={"WWW-Authenticate": challenge})
    if not key.may(scope):
        challenge = f'{REALM}, error="insufficient_scope", scope="{scope}"'
        raise ScopeMissing(
            f"this needs a key with scope {scope}; key {key.id} has {', '.join(key.scopes)}",
            headers={"WWW-Authenticate": challenge},
            scope=scope,
        )
    return key
