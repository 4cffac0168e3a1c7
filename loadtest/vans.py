"""Vans that make samples, keep them until they are acknowledged, and count what they were told."""

import json
import math
from dataclasses import dataclass
from typing import Any

START_MS = 1_760_000_000_000
INTERVAL_MS = 5_000
ARRAY = 500  # most samples in one request
ACCEPTED = frozenset({"applied", "duplicate"})
RETRYABLE = frozenset({"deferred", "overloaded"})
TRY_AGAIN = frozenset({429, 503})
COLUMNS = ("latitude", "longitude", "speed", "state_of_charge", "motor_temperature", "brake_events")


class LoadError(RuntimeError):
    """Something acknowledged was lost, refused, or never answered; nothing measured beside it means anything."""


def signals(van: int, i: int) -> dict[str, float]:
    """The i-th sample of a van's endless round trip, the same whenever it is asked for; six decimals at most."""
    values = (
        48.0 + 0.05 * math.sin(van + i / 500),
        11.0 + 0.05 * math.cos(van + i / 500),
        12.0 + 8.0 * math.sin(van + i / 40),
        60.0 + 30.0 * math.cos(van + i / 4_000),
        55.0 + 15.0 * math.sin(van + i / 300),
        float((van + i) % 7 == 0),
    )
    return {name: round(value, 6) for name, value in zip(COLUMNS, values, strict=True)}


def ts_of(i: int) -> int:
    """Epoch milliseconds of a van's i-th sample."""
    return START_MS + INTERVAL_MS * i


@dataclass(slots=True)
class Van:
    """One device; its samples are numbered from 0 without gaps.

    Attributes:
        name: vehicle id.
        number: what its signals are made from.
        made: samples that exist.
        acknowledged: of these from the first on; the others are sent (again).
        duplicates: answers that a sample was known already.
        retries: requests that had to be sent again.
    """

    name: str
    number: int
    made: int = 0
    acknowledged: int = 0
    duplicates: int = 0
    retries: int = 0

    @property
    def path(self) -> str:
        """Where its telemetry goes."""
        return f"/v1/vehicles/{self.name}/telemetry"

    def request(self, again: int = 0, at_most: int = ARRAY) -> tuple[int, bytes]:
        """Number of the first sample and body of the next request: an object for one sample, else an array.

        `again`: how many acknowledged samples go along once more, as if their answer had been lost.
        """
        first = max(0, self.acknowledged - again)
        last = min(self.made, first + at_most)
        samples = [{"ts": ts_of(i), "seq": i, "signals": signals(self.number, i)} for i in range(first, last)]
        return first, json.dumps(samples if len(samples) != 1 else samples[0]).encode()

    def hear(self, first: int, status: int, body: bytes) -> bool:
        """Take the answer to a request that began with sample `first`; whether all of it is acknowledged.

        Raises:
            LoadError: the service refused what it must take.
        """
        if status in TRY_AGAIN:
            self.retries += 1
            return False
        if status not in {200, 207}:
            raise LoadError(f"{self.name}, sample {first}: {status} {body[:500].decode(errors='replace')}")
        data: dict[str, Any] = json.loads(body)
        items: list[dict[str, Any]] = data.get("items", [data])
        accepted = data["applied"] + data["duplicate"] if "items" in data else 1
        for item in items:  # of an array, those that were not applied
            if item["status"] in RETRYABLE:
                accepted = item["i"]
                break
            if item["status"] not in ACCEPTED:
                raise LoadError(f"{self.name}, sample {first + item['i']}: {item}")
        self.duplicates += sum(item["status"] == "duplicate" for item in items)
        self.acknowledged = max(self.acknowledged, first + accepted)
        again = any(item["status"] in RETRYABLE for item in items)
        self.retries += again
        return not again


def make_vans(run: str, n: int) -> list[Van]:
    """Vans that have sent nothing; `run` keeps those of different runs apart."""
    return [Van(f"{run}-{i}", i) for i in range(n)]
