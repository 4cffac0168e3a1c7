"""The page's files, under /dashboard, with headers that let a browser load nothing from anywhere else."""

from pathlib import Path

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import RedirectResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.gate.access import PAGE

STATIC = Path(__file__).with_name("static")
POLICY = "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-cache",  # asked for again with its entity tag: a new version is there at once
}


class SafeHeaders:
    """Adds the headers to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self._app(scope, receive, with_headers)


async def to_the_page(request: Request) -> RedirectResponse:
    """From the address without a path."""
    return RedirectResponse(f"{request.scope.get('root_path', '')}{PAGE}/")


def routes() -> list[Mount | Route]:
    """The page, and the way to it."""
    return [
        Route("/", to_the_page, methods=["GET"]),
        Mount(PAGE, SafeHeaders(StaticFiles(directory=STATIC, html=True)), name="dashboard"),
    ]
