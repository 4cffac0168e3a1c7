"""Request durations by route template and status code, and each request's id, as plain ASGI middleware (no copy of the body)."""

import logging
import time

import structlog
from prometheus_client import Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.observe.correlation import REQUEST_ID, Names, request_id

SERVER_ERROR = 500

logger = structlog.get_logger(__name__)
level = logging.getLogger(__name__)  # structlog would format a line before it is thrown away


class HttpMetrics:
    """Observes `duration` labelled (route, code); unknown paths share one label, so scanners cannot grow it.

    The outermost middleware: names the request (service/observe/correlation.py). Server errors are logged; at level debug, every request.
    """

    def __init__(self, app: ASGIApp, duration: Histogram) -> None:
        self._app = app
        self._duration = duration
        self._names = Names()
        self._series: dict[tuple[str, int], Histogram] = {}  # finding a series costs more than noting a duration

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and time it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        name = self._names.of_request(scope["headers"])
        request_id.set(name)
        code = SERVER_ERROR

        began = 0.0

        async def note_code(message: Message) -> None:
            nonlocal code, began
            if message["type"] == "http.response.start":
                code, began = message["status"], time.perf_counter()
                message["headers"] = [*message.get("headers", ()), (REQUEST_ID, name.encode())]
            await send(message)

        try:
            await self._app(scope, receive, note_code)
        finally:
            route = getattr(scope.get("route"), "path", "unknown")
            series = self._series.get((route, code))
            if series is None:
                series = self._series[route, code] = self._duration.labels(route, str(code))
            # Of a stream without end the time to its beginning: how long somebody listens is no latency.
            ended = began if scope.get("endless") and began else time.perf_counter()
            seconds = ended - started
            series.observe(seconds)
            if code >= SERVER_ERROR or level.isEnabledFor(logging.DEBUG):
                say = logger.warning if code >= SERVER_ERROR else logger.debug
                say("request", method=scope["method"], route=route, status=code, seconds=round(seconds, 6))
