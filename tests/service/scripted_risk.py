"""Workers whose model says what the sample says, and whose clock is turned by hand: for what alerts do over time."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from model.checkpoint import Checkpoint
from service.alerting.alerts import AlertPolicy
from service.samples import CURRENT_EPOCH
from tests.processes import ValkeyProcess
from tests.service.conftest import START_MS
from tests.service.workers import Worker, told, words, worker

POLICY = AlertPolicy(0.5, 0.3, 60.0, 120.0, 0, 7_200.0, critical_threshold=0.8, stale_after_s=300.0)
RULE = "thermal_risk"


@dataclass
class Clock:
    """The workers' clock, turned by hand."""

    now_s: float = START_MS / 1_000

    def __call__(self) -> float:
        """Now."""
        return self.now_s


def watched(valkey: ValkeyProcess, checkpoint: Checkpoint, clock: Clock) -> Worker:
    """A worker whose model says what the sample's state of charge says: 60 % is a risk of 0.6."""
    made = worker(valkey.url, checkpoint, alerts=POLICY, clock=clock)
    advance = made.engine._advance
    charge = checkpoint.schema.signal_names.index("state_of_charge")

    class Scripted:
        def __init__(self, runtime: Any) -> None:
            self._runtime = runtime
            self.risk = np.zeros(0)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._runtime, name)

        def step(self, slots: Any, features: Any) -> Any:
            return replace(self._runtime.step(slots, features), risk=self.risk.copy())

        def scan(self, slots: Any, lengths: Any, features: Any) -> Any:
            return replace(self._runtime.scan(slots, lengths, features), risk=self.risk.copy())

    scripted: Any = Scripted(advance._runtime)
    advance._runtime = scripted
    step = advance._step

    def scripted_step(batch: Any, features: Any) -> Any:
        scripted.risk = batch.samples.signals[:, charge] / 100.0
        return step(batch, features)

    advance._step = scripted_step  # type: ignore[method-assign]
    return made


async def say(
    one: Worker, clock: Clock, vehicle: str, i: int, risk: float, *, after_s: float = 30.0, lag_s: float = 0.0
) -> None:
    """The i-th sample, `after_s` after the one before, with this risk; the vehicle's clock may lag."""
    clock.now_s += after_s
    samples = one.samples((vehicle, i), epoch=CURRENT_EPOCH)
    samples.signals[:, one.checkpoint.schema.signal_names.index("state_of_charge")] = 100.0 * risk
    samples = replace(samples, ts_ms=np.array([round(1_000 * (clock.now_s - lag_s))]))
    assert words(await one.engine.apply(samples)) == ["applied"]


async def fire(one: Worker, clock: Clock, vehicle: str, *, lag_s: float = 0.0) -> None:
    """Three samples that make the alert fire."""
    for i in range(3):
        await say(one, clock, vehicle, i, 0.6, lag_s=lag_s)


def changes(valkey: ValkeyProcess, vehicle: str) -> list[str]:
    """What the stream tells of a vehicle; no change twice."""
    with valkey.client as client:
        records = told(client, vehicle)
    assert len({record["event_id"] for record in records}) == len(records)
    return [record["transition"] for record in records]
