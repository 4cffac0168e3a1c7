"""Vans that do not forget: what each will send, and what it was told about every sample."""

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.channels import SIGNALS

START_MS = 1_760_000_000_000
RETRYABLE = frozenset({"deferred", "overloaded"})


@dataclass(slots=True)
class Drive:
    """A made-up drive of a given length: uneven times, gaps, skipped numbers, missing signals.

    Attributes:
        ts_ms: (length,) epoch milliseconds, rising.
        seqs: (length,) rising, some numbers skipped.
        signals: (length, n_signals) in wire order, NaN where absent.
    """

    ts_ms: NDArray[np.int64]
    seqs: NDArray[np.int64]
    signals: NDArray[np.float64]

    def wire(self, i: int) -> dict[str, Any]:
        """The i-th sample as it is sent."""
        values = zip(SIGNALS, self.signals[i].tolist(), strict=True)
        present = {name: value for name, value in values if value == value}  # noqa: PLR0124  (NaN is not itself)
        return {"ts": int(self.ts_ms[i]), "seq": int(self.seqs[i]), "signals": present}


def make_drive(rng: np.random.Generator, length: int, start_ms: int = START_MS, interval_ms: int = 5_000) -> Drive:
    """A drive from random walks inside every signal's limits, mostly at the given interval."""
    elapsed = rng.choice([500, 498, 504, 1_000, 30_000], length, p=[0.9, 0.03, 0.03, 0.03, 0.01]) * interval_ms // 500
    seqs = np.arange(length) + np.cumsum(rng.random(length) < 0.01)

    def walk(start: float, step: float, low: float, high: float) -> NDArray[np.float64]:
        return np.clip(start + np.cumsum(rng.normal(0.0, step, length)), low, high)

    columns = {
        "latitude": walk(48.0, 4e-4, 47.0, 49.0),
        "longitude": walk(11.0, 4e-4, 10.0, 12.0),
        "altitude": walk(500.0, 1.0, 0.0, 1_500.0),
        "speed": walk(12.0, 1.5, 0.0, 35.0),
        "state_of_charge": np.clip(90.0 - 0.02 * np.arange(length), 5.0, 100.0),
        "motor_temperature": walk(60.0, 0.8, 10.0, 120.0),
        "brake_events": rng.integers(0, 3, length).astype(np.float64),
        "pack_current": walk(30.0, 8.0, -150.0, 250.0),
        "pack_temperature": walk(28.0, 0.2, 5.0, 55.0),
        "ambient_temperature": walk(18.0, 0.05, -10.0, 35.0),
    }
    signals = np.round(np.stack([columns[name] for name in SIGNALS], axis=1), 6)
    for name in ("altitude", "pack_current", "ambient_temperature"):
        signals[rng.random(length) < 0.05, list(SIGNALS).index(name)] = np.nan
    without_fix = rng.random(length) < 0.03
    signals[without_fix, list(SIGNALS).index("latitude")] = np.nan
    signals[without_fix, list(SIGNALS).index("longitude")] = np.nan
    return Drive(start_ms + np.cumsum(elapsed), seqs.astype(np.int64), signals)


@dataclass(slots=True)
class Van:
    """One device: its drive, how far it was acknowledged, and everything odd that it was told."""

    vehicle_id: str
    drive: Drive
    next: int = 0  # the first sample of the next request
    acknowledged: int = 0  # all before this were acknowledged, at some time
    begun: int = 0  # all before this were sent at least once
    answered_risk: dict[int, float] = field(default_factory=dict)
    acknowledged_at: dict[int, float] = field(default_factory=dict)  # monotonic seconds, the first time
    applied: dict[int, int] = field(default_factory=dict)  # how often each sample was answered `applied`
    failed_at: float = 0.0  # monotonic seconds of its last failure
    odd: list[str] = field(default_factory=list)

    @property
    def unfinished(self) -> bool:
        """Whether something was sent that is not known to be kept."""
        return self.next < self.begun

    def hear(self, first: int, items: list[dict[str, Any]], retryable: frozenset[str] = RETRYABLE) -> bool:
        """Take the answers to samples from `first` on; whether something has to be sent again."""
        for i, item in enumerate(items, start=first):
            status = item["status"]
            if status in retryable:
                overtaken = [item for item in items[i - first :] if item["status"] not in retryable]
                if overtaken:
                    self.odd.append(f"{self.vehicle_id} sample {i} was {status}, but after it: {overtaken}")
                self.next = i
                return True
            if status not in {"applied", "duplicate"}:
                self.odd.append(f"{self.vehicle_id} sample {i}: {item}")
            else:
                self._accept(i, item)
        self.next = first + len(items)
        return False

    def _accept(self, i: int, item: dict[str, Any]) -> None:
        if item.get("seq") != int(self.drive.seqs[i]):
            self.odd.append(f"{self.vehicle_id} sample {i} has seq {self.drive.seqs[i]}, was answered {item}")
        if item["status"] == "applied":
            self.applied[i] = self.applied.get(i, 0) + 1
        if i > self.acknowledged:
            self.odd.append(f"{self.vehicle_id} sample {i} was accepted before sample {self.acknowledged}")
        if i >= self.acknowledged:
            self.acknowledged = i + 1
            self.acknowledged_at[i] = time.monotonic()
        if item.get("risk") is not None:
            known = self.answered_risk.setdefault(i, item["risk"])
            if abs(known - item["risk"]) > 1e-4:
                self.odd.append(f"{self.vehicle_id} sample {i} was answered risk {known}, then {item['risk']}")

    def rewind(self, keep_s: float) -> None:
        """After a failure: begin again with what was acknowledged in the last `keep_s` seconds, in case it was lost."""
        self.failed_at = time.monotonic()
        since = self.failed_at - keep_s
        first = self.acknowledged
        while first and self.acknowledged_at[first - 1] > since:
            first -= 1
        self.next = min(self.next, first)
