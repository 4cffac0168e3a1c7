"""OpenTelemetry spans of requests, batches and a batch's stages. Imported only where the setting `tracing` asks for it.

A request is a server span, below the sender's `traceparent` if there is one. A batch serves several requests: its span is
a child of the first one's and linked with the others, both ways. Load, step, commit and the other stages are its
children. Where spans go is said by OpenTelemetry's own variables, `OTEL_EXPORTER_OTLP_ENDPOINT` first of all.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import extract
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Link, Span, SpanKind, StatusCode
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.observe.correlation import BatchNames, batch_id, request_id


class Tracing:
    """One tracer and what hangs on it; `close` sends what is left."""

    def __init__(self, version: str) -> None:
        resource = Resource.create({SERVICE_NAME: "emberwatch", SERVICE_VERSION: version})
        self._provider = TracerProvider(resource=resource)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self.tracer = self._provider.get_tracer("emberwatch", version)

    def close(self) -> None:
        """Send what is left and end the exporter's thread."""
        self._provider.shutdown()

    def stage(self, name: str) -> AbstractContextManager[Any]:
        """A span of a batch's stage, below whatever span is open in this context."""
        return self.tracer.start_as_current_span(name)

    def batches(self) -> "TracedBatches":
        """What the batcher tells of its batches."""
        return TracedBatches(self)


class TracedRequests:
    """Middleware: a server span for each request."""

    def __init__(self, app: ASGIApp, tracing: Tracing) -> None:
        self._app, self._tracer = app, tracing.tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on inside its span."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        carrier = {key.decode("latin-1"): value.decode("latin-1") for key, value in scope["headers"]}
        method = scope["method"]
        with self._tracer.start_as_current_span(method, extract(carrier), SpanKind.SERVER) as span:
            span.set_attribute("http.request.method", method)
            span.set_attribute("emberwatch.request_id", request_id.get())

            async def noted(message: Message) -> None:
                if message["type"] == "http.response.start":
                    status = message["status"]
                    span.set_attribute("http.response.status_code", status)
                    if status >= 500:
                        span.set_status(StatusCode.ERROR)
                await send(message)

            try:
                await self._app(scope, receive, noted)
            finally:
                route = getattr(scope.get("route"), "path", None)
                if route is not None:
                    span.update_name(f"{method} {route}")
                    span.set_attribute("http.route", route)


class TracedBatches(BatchNames):
    """Batches as spans."""

    def __init__(self, tracing: Tracing) -> None:
        super().__init__()
        self._tracer = tracing.tracer

    def origin(self) -> Span:  # type: ignore[override]  # the batcher only hands it back
        """The span of the request that submits."""
        return trace.get_current_span()

    @contextmanager
    def batch(self, origins: Sequence[Span], n_samples: int) -> Iterator[None]:
        """A span while the batch is applied."""
        first, *others = list(dict.fromkeys(origins))
        links = [Link(span.get_span_context()) for span in others]
        with (
            super().batch([span.get_span_context().span_id for span in origins], n_samples),
            self._tracer.start_as_current_span("batch", trace.set_span_in_context(first), links=links) as span,
        ):
            span.set_attribute("emberwatch.batch_id", batch_id.get())
            span.set_attribute("emberwatch.batch_size", n_samples)
            for request in others:
                request.add_link(span.get_span_context())
            yield
