"""Request durations by route template and status code, as plain ASGI middleware (no copy of the body)."""

import time

from prometheus_client import Histogram
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HttpMetrics:
    """Observes `duration` labelled (route, code); unknown paths share one label, so scanners cannot grow it."""

    def __init__(self, app: ASGIApp, duration: Histogram) -> None:
        self._app = app
        self._duration = duration
        self._series: dict[tuple[str, int], Histogram] = {}  # finding a series costs more than noting a duration

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and time it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        code = 500

        began = 0.0

        async def note_code(message: Message) -> None:
            nonlocal code, began
            if message["type"] == "http.response.start":
                code, began = message["status"], time.perf_counter()
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
            series.observe(ended - started)
