"""A route whose endpoint gets the request as it is.

FastAPI's reading of parameters costs more than the decoding of a sample, so the telemetry calls, which are nearly all
of the traffic, read theirs themselves; their `openapi_extra` describes what they read.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response


class HotRoute(APIRoute):
    """For `APIRouter(route_class=HotRoute)`: endpoints are `async (request) -> Response`; their errors are handled as ever."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The endpoint itself."""
        return self.endpoint
