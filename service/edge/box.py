"""What vans on a box talk to: the telemetry calls of the service, answered when the sample is on the box's disk."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from prometheus_client import generate_latest

from service.edge.forwarder import Forwarder, ForwardMetrics, reader_of
from service.edge.spool import Spool, SpoolFull
from service.wire.decode_columns import ID_RULE, VEHICLE_ID

RETRY_AFTER = "60"  # seconds: room comes with the network
MOST_BYTES = 4_194_304  # of a body
Sample = dict[str, Any]


class Unspoolable(ValueError):
    """A body that no service could take; the message names the place."""


def create_box(
    folder: Path, upstreams: Sequence[str], max_bytes: int, key: str | None, longest_wait_s: float
) -> FastAPI:
    """The application. Its forwarders run while it does.

    Raises:
        ValueError: the bound is too small, or an upstream is named twice.
    """
    if len(set(upstreams)) < len(upstreams):
        raise ValueError("an upstream is named twice")
    spool = Spool(folder, max_bytes, [reader_of(url) for url in upstreams])
    metrics = ForwardMetrics()
    metrics.limit.set(max_bytes)
    forwarders = [Forwarder(spool, url, key, metrics, longest_wait_s) for url in upstreams]

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for forwarder in forwarders:
            forwarder.start()
        yield
        await asyncio.gather(*(asyncio.to_thread(forwarder.stop) for forwarder in forwarders))
        spool.close()

    app = FastAPI(title="Emberwatch box", lifespan=lifespan)
    add_calls(app, Box(spool, metrics, forwarders))
    return app


@dataclass(frozen=True, slots=True)
class Box:
    """What the calls work on."""

    spool: Spool
    metrics: ForwardMetrics
    forwarders: Sequence[Forwarder]

    async def keep(self, request: Request, vehicle_id: str | None) -> Response:
        """The answer to samples, which are on the disk if it is 202."""
        try:
            records = samples_of(await body_of(request), vehicle_id)
            await asyncio.to_thread(self.spool.append, [orjson.dumps(record) for record in records])
        except Unspoolable as error:
            return problem(422, "invalid-sample", str(error))
        except SpoolFull as error:
            self.metrics.full.inc()
            return problem(429, "spool-full", f"{error}; keep it and send it again", {"Retry-After": RETRY_AFTER})
        self.metrics.spooled.inc(len(records))
        return Response(orjson.dumps({"spooled": len(records)}), 202, media_type="application/json")

    def exposition(self) -> bytes:
        """The metrics as Prometheus reads them."""
        self.metrics.size.set(self.spool.size)
        self.metrics.damaged.set(self.spool.damaged)
        for forwarder in self.forwarders:
            self.metrics.waiting.labels(forwarder.url).set(self.spool.waiting(forwarder.reader))
        return generate_latest(self.metrics.registry)


def add_calls(app: FastAPI, box: Box) -> None:
    """The routes."""

    @app.post("/v1/vehicles/{vehicle_id}/telemetry", status_code=202)
    async def post_telemetry(request: Request, vehicle_id: str) -> Response:
        """One sample, or an array in order."""
        return await box.keep(request, vehicle_id)

    @app.post("/v1/telemetry", status_code=202)
    async def post_fleet(request: Request) -> Response:
        """`{"samples": [{"vehicle_id", ...}]}`."""
        return await box.keep(request, None)

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        """The process is there."""
        return {"status": "alive"}

    @app.get("/v1/spool")
    async def state() -> dict[str, Any]:
        """How much is kept, and how far each upstream is."""
        waiting = [{"url": f.url, "waiting_bytes": box.spool.waiting(f.reader)} for f in box.forwarders]
        return {"bytes": box.spool.size, "max_bytes": box.spool.max_bytes, "upstreams": waiting}

    @app.get("/metrics")
    async def scrape() -> Response:
        """In Prometheus text."""
        return Response(box.exposition(), media_type="text/plain; version=0.0.4")


async def body_of(request: Request) -> bytes:
    """The body, read no further than it may be long. Raises Unspoolable."""
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MOST_BYTES:
            raise Unspoolable(f"the body has more than {MOST_BYTES:,} bytes")
    return bytes(body)


def samples_of(body: bytes, vehicle_id: str | None) -> list[Sample]:
    """The samples of a body, each with its vehicle's id.

    What only the model's channels can tell is left to the service: the box may have another version.

    Raises:
        Unspoolable: with the number of the sample and the field.
    """
    try:
        data = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Unspoolable(f"the body is not JSON: {error}") from error
    if vehicle_id is None:
        data = data.get("samples") if isinstance(data, dict) else None
        if not isinstance(data, list):
            raise Unspoolable('send {"samples": [...]}')
    samples = data if isinstance(data, list) else [data]
    found = [checked(i, sample, vehicle_id) for i, sample in enumerate(samples)]
    if not found:
        raise Unspoolable("no samples")
    return found


def checked(i: int, sample: Any, vehicle_id: str | None) -> Sample:
    """The i-th sample with its vehicle's id. Raises Unspoolable."""
    if not isinstance(sample, dict):
        raise Unspoolable(f"sample {i} is not an object")
    name = sample.get("vehicle_id") if vehicle_id is None else vehicle_id
    if not isinstance(name, str) or VEHICLE_ID.fullmatch(name) is None:
        raise Unspoolable(f"sample {i}, vehicle_id: {ID_RULE}")
    if not isinstance(sample.get("ts"), int | str) or isinstance(sample["ts"], bool):
        raise Unspoolable(f"sample {i}, ts: epoch milliseconds or RFC 3339, got {sample.get('ts')!r}")
    if not isinstance(sample.get("signals"), dict):
        raise Unspoolable(f"sample {i}, signals: an object")
    return {**sample, "vehicle_id": name}


def problem(status: int, kind: str, detail: str, headers: dict[str, str] | None = None) -> Response:
    """RFC 9457."""
    body = {"type": f"urn:emberwatch:problem:{kind}", "status": status, "detail": detail}
    return Response(orjson.dumps(body), status, headers, media_type="application/problem+json")
