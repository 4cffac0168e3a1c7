"""The way of the telemetry calls, which are nearly all of the traffic, past the layers that they do not need.

FastAPI's routing and reading of parameters costs more than decoding a sample. The routes are declared as any other, for the
document and for other methods on their paths; their endpoints take the request as it is, and are called from here.
"""

from collections.abc import Sequence

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from service.errors import ServiceError, problem_of


class HotPath:
    """Answers requests for `routes`, whose endpoints are `async (request) -> Response`; passes others on.

    The innermost middleware: what stands before it (keys, limits, metrics) holds for these calls too.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[APIRoute]) -> None:
        self._app = app
        self._routes = [(route.path_regex, route) for route in routes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the endpoint; a refusal leaves as its problem document."""
        if scope["type"] == "http" and scope["method"] == "POST":
            for path, route in self._routes:
                match = path.match(scope["path"])
                if match is not None:
                    scope["route"] = route  # for the metrics
                    scope["path_params"] = match.groupdict()
                    try:
                        response = await route.endpoint(Request(scope, receive))
                    except ServiceError as error:
                        response = problem_of(error)
                    await response(scope, receive, send)
                    return
        await self._app(scope, receive, send)
