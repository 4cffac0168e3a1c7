"""An alert through everything that goes wrong around it: workers that die, flutter, clocks; by what is stored and what a webhook hears."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from model.checkpoint import Checkpoint
from service.alerting.record import dumped, field_of
from service.alerting.stored import StoredAlerts
from service.delivery.delivery import Delivery
from service.delivery.outbox import Outbox
from service.observe.metrics import Metrics
from service.samples import CURRENT_EPOCH
from tests.processes import ValkeyProcess
from tests.service.delivery.outboxes import sinks_of, until, webhook
from tests.service.delivery.receivers import Receiver, receiving
from tests.service.scripted_risk import RULE, Clock, changes, fire, say, watched
from tests.service.workers import PARTITIONS, Worker, run, words

TOLD = {"firing", "escalated", "stale", "resolved"}  # of which a sink is told
LEASE_S = 0.2


class Site:
    """A store, a webhook, and workers that come and go."""

    def __init__(self, valkey: ValkeyProcess, checkpoint: Checkpoint, folder: Path, hook: Receiver) -> None:
        self.valkey = valkey
        self.clock = Clock()
        self.hook = hook
        self._checkpoint = checkpoint
        self._sinks = sinks_of(folder, webhook(folder.name.replace("_", "-")[:32].strip("-").lower(), hook.url))

    @asynccontextmanager
    async def life(self) -> AsyncIterator[Worker]:
        """A worker that knows nothing, with its delivery, until it dies: it finishes nothing and hands nothing over."""
        others = asyncio.all_tasks()
        one = watched(self.valkey, self._checkpoint, self.clock)
        outbox = Outbox(self.valkey.url, PARTITIONS, 5.0)
        delivery = Delivery(outbox, self._sinks, None, Metrics(), lease_s=LEASE_S)
        try:
            await delivery.start()
            yield one
        finally:
            own = asyncio.all_tasks() - others
            for task in own:
                task.cancel()
            await asyncio.gather(*own, return_exceptions=True)
            await outbox.close()
            await one.store.close()

    async def heard(self, vehicle: str) -> None:
        """Wait until the webhook has heard, in order, what the outbox has to tell; again or not, but with the same ids."""
        await until(
            lambda: self.said(vehicle) == [c for c in changes(self.valkey, vehicle) if c in TOLD], "the webhook"
        )

    def said(self, vehicle: str) -> list[str]:
        """What it heard of a vehicle, without what it had heard before."""
        told = {got.id: got.verified()["alerts"][0] for got in list(self.hook.got)}
        return [word(alert) for alert in told.values() if alert["labels"]["vehicle_id"] == vehicle]


def word(alert: dict[str, Any]) -> str:
    """The change that an alert of the webhook tells."""
    if alert["status"] == "resolved":
        return "resolved"
    if "stale" in alert["annotations"]:
        return "stale"
    return "escalated" if alert["labels"]["severity"] == "critical" else "firing"


def test_a_worker_that_dies_in_any_phase_loses_nothing_and_tells_nothing_twice(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str, tmp_path: Path
) -> None:
    """In each phase the worker dies; the next one is sent the last sample again before anything else, and tells nothing of it."""
    lives = [
        ([0.1, 0.6], ["pending"]),
        ([0.6, 0.6], ["firing"]),
        ([], ["acknowledged"]),
        ([0.9, 0.9, 0.9], ["escalated"]),
        ([0.2], ["recovering"]),
        ([0.6, 0.2], ["relapsed", "recovering"]),
        ([], ["stale"]),
        ([0.1], ["fresh"]),
        ([0.1, 0.1, 0.1, 0.1], ["resolved"]),
        ([0.1], []),
    ]
    note = {"by": "ann", "at_ms": 5, "note": "called the driver"}

    async def scenario() -> None:
        i, expected, last = 0, list[str](), (0.0, 0.0)
        for risks, news in lives:
            expected += news
            async with site.life() as one:
                if i:
                    assert await sent(one, vehicle, i - 1, *last) == "duplicate"
                if news == ["acknowledged"]:
                    await acknowledge(one, vehicle, note)
                if news == ["stale"]:
                    site.clock.now_s += 400
                    await one.engine.sweeper.settle(vehicle)
                for risk in risks:
                    await say(one, site.clock, vehicle, i, risk)
                    i, last = i + 1, (risk, site.clock.now_s)
                await site.heard(vehicle)
            assert changes(valkey, vehicle) == expected
        async with site.life() as one:
            (alert,) = await one.alerts(vehicle)
            assert (alert["phase"], alert["acknowledged"]) == ("resolved", note)

    with receiving() as hook:
        site = Site(valkey, checkpoint, tmp_path, hook)
        asyncio.run(scenario())
        assert site.said(vehicle) == ["firing", "escalated", "stale", "resolved"]


async def sent(one: Worker, vehicle: str, i: int, risk: float, at_s: float) -> str:
    """The answer to a sample, as it was sent before."""
    samples = one.samples((vehicle, i))
    samples.signals[:, one.checkpoint.schema.signal_names.index("state_of_charge")] = 100.0 * risk
    (answer,) = words(await one.engine.apply(replace(samples, ts_ms=np.array([round(1_000 * at_s)]))))
    return answer


async def acknowledge(one: Worker, vehicle: str, note: dict[str, object]) -> None:
    """As the API does it."""
    (alert,) = await one.alerts(vehicle)
    (data,) = await one.store.alerts.of(vehicle, [field_of(vehicle, RULE)])
    assert data is not None
    after = alert | {"event_id": f"{alert['id']}-ack", "transition": "acknowledged", "acknowledged": note}
    assert await StoredAlerts(one.store).replace(vehicle, RULE, data, dumped(after))


def test_flutter_is_told_once(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str, tmp_path: Path) -> None:
    """An hour around both thresholds, after it has fired: one firing, and one resolved when it is truly over."""
    flutter = [0.51, 0.49, 0.31, 0.29, 0.2, 0.49]

    async def scenario() -> None:
        async with site.life() as one:
            for i in range(120):
                await say(one, site.clock, vehicle, i, 0.6 if i < 3 else flutter[i % 6])
            await site.heard(vehicle)
            assert site.said(vehicle) == ["firing"]
            for i in range(120, 126):
                await say(one, site.clock, vehicle, i, 0.1)
            await site.heard(vehicle)

    with receiving() as hook:
        site = Site(valkey, checkpoint, tmp_path, hook)
        asyncio.run(scenario())
        assert site.said(vehicle) == ["firing", "resolved"]


def test_a_vehicle_whose_clock_steps_back_is_silent_not_well(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """Its samples are late, whatever they say, so its alert goes stale; with its clock put right they count again."""
    clock = Clock()
    one = watched(valkey, checkpoint, clock)

    async def late() -> None:
        samples = one.samples((vehicle, 3), numbered=False, epoch=CURRENT_EPOCH)
        samples.signals[:, checkpoint.schema.signal_names.index("state_of_charge")] = 1.0
        samples = replace(samples, ts_ms=np.array([round(1_000 * (clock.now_s - 3_600))]))
        assert words(await one.engine.apply(samples)) == ["late"]

    async def scenario() -> None:
        await fire(one, clock, vehicle)
        for _ in range(11):
            clock.now_s += 30.0
            await late()
            await one.engine.sweeper.settle(vehicle)
        assert changes(valkey, vehicle) == ["pending", "firing", "stale"]
        for i in range(3, 8):
            await say(one, clock, vehicle, i, 0.1)
        assert changes(valkey, vehicle)[3:] == ["fresh", "recovering", "resolved"]

    run([one], scenario)


@pytest.mark.parametrize(("ahead_s", "told"), [(-3_600.0, []), (45.0, []), (3_600.0, ["stale", "fresh"])])
def test_workers_whose_clocks_differ_resolve_nothing(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str, ahead_s: float, told: list[str]
) -> None:
    """A sweeper whose clock is off by less than a minute, or behind, does nothing; hours ahead it takes vehicles for silent."""
    clock, other_clock = Clock(), Clock()
    one, sweeper = watched(valkey, checkpoint, clock), watched(valkey, checkpoint, other_clock)

    async def scenario() -> None:
        await fire(one, clock, vehicle)
        other_clock.now_s = clock.now_s + ahead_s
        await sweeper.engine.sweeper.settle(vehicle)
        await say(one, clock, vehicle, 3, 0.1)
        for i in range(4, 8):
            await say(one, clock, vehicle, i, 0.1)
        assert changes(valkey, vehicle) == ["pending", "firing", *told, "recovering", "resolved"]

    run([one, sweeper], scenario)
