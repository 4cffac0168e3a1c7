"""The whole fleet as one document, made at most every few seconds and shared by all who ask: what fifty open pages cost.

It is read from the heads, a few hundred at a time so that batches of samples get their turn between, and decoded, sorted, written and packed off
the event loop. While nobody asks nothing is read.
"""

import asyncio
import gzip
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import xxhash
from numpy.typing import NDArray

from model.alert_machine import Phase
from service.alerting.alerts import AlertPolicy, Rule
from service.records.checksum import intact
from service.records.head import LAYOUT, HeadLayout, Heads
from service.store.roll import AtRisk
from service.store.store import Store

MOST_SHOWN = 20_000  # vehicles, those of the highest risk
TOGETHER = 256  # heads in one read
REFRESH_S = 2.0
SHARE = 20.0  # a reading that takes long is repeated so many times less often than it takes

PHASE_NAMES = np.array([*(phase.name.lower() for phase in Phase), "stale"])


@dataclass(frozen=True, slots=True)
class Document:
    """One version of what many ask for, ready to be sent."""

    etag: str
    body: bytes
    packed: bytes  # gzip

    @staticmethod
    def of(body: bytes, before: "Document | None" = None) -> "Document":
        """With its entity tag; the one before if it is the same."""
        etag = f'"{xxhash.xxh3_64_hexdigest(body)}"'
        return before if before is not None and before.etag == etag else Document(etag, body, gzip.compress(body, 1))


class FleetView:
    """Keeps the last document; makes a new one when it is asked and the last is old."""

    def __init__(
        self,
        store: Store,
        layout: HeadLayout,
        policy: AlertPolicy,
        stale_after_s: float,
    ) -> None:
        self._store = store
        self._layout = layout
        self._policy = policy
        self._stale_after_s = stale_after_s
        self._document: Document | None = None
        self._due = 0.0
        self._reading: asyncio.Task[Document] | None = None

    async def document(self) -> Document:
        """The fleet as it was at most some seconds ago.

        Raises:
            StoreUnavailable.
        """
        if self._document is not None and time.monotonic() < self._due:
            return self._document
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read(), name="fleet view")
        return await asyncio.shield(self._reading)

    async def close(self) -> None:
        """End a reading that is under way."""
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self) -> Document:
        started = time.monotonic()
        found = await self._store.roll.most_at_risk(MOST_SHOWN)
        ids: list[bytes] = []
        heads: list[bytes] = []
        for members in found.by_partition:
            for first in range(0, len(members), TOGETHER):
                part = members[first : first + TOGETHER]
                for vehicle_id, head in zip(part, await self._store.heads_together(part), strict=True):
                    if head is not None:
                        ids.append(vehicle_id)
                        heads.append(head)
        self._document = await asyncio.to_thread(self._made, ids, heads, found)
        self._due = time.monotonic() + max(REFRESH_S, SHARE * (time.monotonic() - started))
        return self._document

    def _made(self, ids: list[bytes], data: list[bytes], found: AtRisk) -> Document:
        """The heavy part, on a thread."""
        heads, names = self._unpacked(data), np.array(ids, "S64")
        risk = np.nan_to_num(heads["risk"], nan=0.0)
        order = np.lexsort((names, -risk))[:MOST_SHOWN]
        names, heads = names[order], heads[order]
        body = orjson.dumps(self._told(names, heads, found), option=orjson.OPT_SERIALIZE_NUMPY)
        return Document.of(body, self._document)

    def _unpacked(self, data: list[bytes]) -> Heads:
        """(vehicles,) heads; what is damaged or was written by another version is read as a worker would read it."""
        size = self._layout.dtype.itemsize
        fits = [len(head) == size for head in data]
        heads: Heads = np.zeros(len(data), self._layout.dtype)
        heads[fits] = np.frombuffer(b"".join(head for head in data if len(head) == size), self._layout.dtype)
        if len(heads):
            good = np.array(fits) & (heads["layout"] == LAYOUT) & intact(heads)
            for i in np.flatnonzero(~good).tolist():
                heads[i] = self._layout.salvage(data[i])[0]
        return heads

    def _told(self, names: NDArray[np.bytes_], heads: Heads, found: AtRisk) -> dict[str, Any]:
        """The document."""
        kalman = heads["preprocess"]["kalman"]
        return {
            "n_vehicles": found.n_vehicles,
            "partitions_unreachable": found.unreachable,
            "threshold": self._policy.threshold,
            "resolve_threshold": self._policy.resolve_threshold,
            "stale_after_s": self._stale_after_s,
            "refresh_s": REFRESH_S,
            "columns": {
                "vehicle_id": [name.decode() for name in names.tolist()],
                "phase": phases(heads["alert"][:, Rule.THERMAL_RISK]),
                "anomaly": phases(heads["alert"][:, Rule.TELEMETRY_ANOMALY]),
                "risk": np.round(heads["risk"].astype(np.float64), 5),
                "surprise": np.round(heads["surprise"].astype(np.float64), 3),
                "last_ts_ms": np.maximum(heads["last_ts_ms"], 0),
                "heard_ms": np.maximum(heads["heard_ms"], 0),
                "warming_up": (heads["samples"] <= self._policy.warmup_samples).tolist(),
                "latitude": np.round(kalman["latitude"], 5),
                "longitude": np.round(kalman["longitude"], 5),
            },
        }


def phases(machines: NDArray[np.void]) -> list[str]:
    """(vehicles,) phases of one rule as words."""
    stale = machines["stale"] != 0
    words: list[str] = PHASE_NAMES[np.where(stale, len(Phase), machines["phase"])].tolist()
    return words
