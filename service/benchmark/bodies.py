"""The fleet of the benchmark: drives from random walks, and the prebuilt requests that carry them."""

from dataclasses import dataclass

import numpy as np
import orjson
from numpy.typing import NDArray

from model.channels import SIGNALS

START_MS = 1_760_000_000_000
INTERVAL_MS = 5_000
# Where each signal starts, how far it moves in a step, and its limits.
WALKS = {
    "latitude": (48.0, 4e-4, 40.0, 56.0),
    "longitude": (11.0, 4e-4, 3.0, 19.0),
    "altitude": (500.0, 1.0, 0.0, 1_500.0),
    "speed": (12.0, 1.5, 0.0, 35.0),
    "state_of_charge": (60.0, 0.02, 5.0, 100.0),
    "motor_temperature": (60.0, 0.8, 10.0, 120.0),
    "brake_events": (1.0, 0.6, 0.0, 6.0),
    "pack_current": (30.0, 8.0, -150.0, 250.0),
    "pack_temperature": (28.0, 0.2, 5.0, 55.0),
    "ambient_temperature": (18.0, 0.05, -10.0, 35.0),
}


@dataclass(slots=True)
class BenchFleet:
    """Vans that all send a sample in every tick.

    Attributes:
        names: (n_vans,) vehicle ids.
        ticks: how many samples each van has sent so far; the next sample's number.
        history: per tick, the signals (n_vans, n_signals) in wire order.
    """

    names: list[str]
    ticks: int
    history: list[NDArray[np.float64]]
    _rng: np.random.Generator

    @staticmethod
    def make(prefix: str, n_vans: int, seed: int = 0) -> "BenchFleet":
        """Vans `<prefix>-<i>` that have sent nothing."""
        return BenchFleet([f"{prefix}-{i}" for i in range(n_vans)], 0, [], np.random.default_rng(seed))

    def next_tick(self) -> tuple[int, NDArray[np.float64]]:
        """Number and signals (n_vans, n_signals) of one more tick."""
        start, step, low, high = np.array([WALKS[name] for name in SIGNALS], np.float64).T
        before = self.history[-1] if self.history else np.tile(start, (len(self.names), 1))
        moved = before + self._rng.normal(0.0, step, before.shape)
        signals = np.round(np.clip(moved, low, high), 6).astype(np.float64)
        signals[:, SIGNALS.index("brake_events")] = np.round(signals[:, SIGNALS.index("brake_events")])
        self.history.append(signals)
        self.ticks += 1
        return self.ticks - 1, signals

    def fleet_request(self) -> bytes:
        """The next tick of all vans as one columnar batch."""
        return self.fleet_requests(len(self.names))[0]

    def fleet_requests(self, batch: int) -> list[bytes]:
        """The next tick of all vans as columnar batches of so many vans; the last has those that are left."""
        seq, signals = self.next_tick()
        requests = []
        for first in range(0, len(self.names), batch):
            names, rows = self.names[first : first + batch], signals[first : first + batch]
            columns = {"vehicle_id": names, "ts": [ts_of(seq)] * len(names), "seq": [seq] * len(names)}
            columns |= {name: rows[:, i].tolist() for i, name in enumerate(SIGNALS)}
            requests.append(post("/v1/telemetry", orjson.dumps({"columns": columns})))
        return requests

    def single_requests(self) -> list[bytes]:
        """The next tick as one request for each van."""
        seq, signals = self.next_tick()
        ts = ts_of(seq)
        return [
            post(
                f"/v1/vehicles/{name}/telemetry",
                orjson.dumps({"ts": ts, "seq": seq, "signals": dict(zip(SIGNALS, row, strict=True))}),
            )
            for name, row in zip(self.names, signals.tolist(), strict=True)
        ]


def ts_of(seq: int) -> int:
    """Epoch milliseconds of a tick."""
    return START_MS + INTERVAL_MS * seq


def post(path: str, body: bytes) -> bytes:
    """A whole HTTP/1.1 request on a connection that stays open."""
    head = (
        f"POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
