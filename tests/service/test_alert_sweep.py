"""What time alone changes, by two workers on one store: silence fires and makes stale, never resolves; nothing is told twice."""

import asyncio
import json
from dataclasses import replace

import numpy as np
import pytest

from model.alert_machine import Phase
from model.checkpoint import Checkpoint
from service.alerting.record import dumped, field_of
from service.alerting.stored import StoredAlerts
from service.records.checksum import seal
from service.records.head import layout_2
from service.store.store_keys import partition_keys, partition_of
from tests.processes import ValkeyProcess
from tests.service.scripted_risk import RULE, Clock, changes, fire, say, watched
from tests.service.workers import PARTITIONS, count, run, told, words


def test_silence_fires_what_is_pending_then_makes_it_stale_and_never_resolves_it(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """Both workers sweep at once, all the time: each change is told once; heard again, it goes on and resolves by samples."""
    clock = Clock()
    one, two = (watched(valkey, checkpoint, clock) for _ in range(2))

    async def sweeps() -> None:
        await asyncio.gather(*(w.engine.sweeper.settle(vehicle) for w in (one, two)))
        await asyncio.gather(one.engine.sweeper.sweep(), two.engine.sweeper.sweep())

    async def scenario() -> None:
        await say(one, clock, vehicle, 0, 0.1)
        await say(one, clock, vehicle, 1, 0.6)
        for seconds, expected in ((50, []), (20, ["firing"]), (200, []), (40, ["stale"]), (1_000_000, [])):
            before = changes(valkey, vehicle)
            clock.now_s += seconds
            await sweeps()
            assert changes(valkey, vehicle)[len(before) :] == expected
        (alert,) = await one.alerts(vehicle)
        assert (alert["phase"], alert["fired_ms"] - alert["first_crossed_ms"]) == ("stale", 60_000)
        assert alert["contributions"] == next(r for r in told(valkey.client, vehicle))["contributions"]
        # The worker that had it in its cache, and one that had not.
        await say(two, clock, vehicle, 2, 0.1)
        await say(one, clock, vehicle, 3, 0.1)
        assert changes(valkey, vehicle)[3:] == ["fresh", "recovering"]
        for i in range(4, 8):
            await say(one, clock, vehicle, i, 0.1)
        assert changes(valkey, vehicle)[5:] == ["resolved"]
        assert (await one.head(vehicle))["alert"]["phase"].tolist() == [[0, 0]]

    run([one, two], scenario)


def test_a_recovery_is_not_completed_by_silence(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """Low before a long silence and low after it: two minutes of low samples are still asked for."""
    clock = Clock()
    one = watched(valkey, checkpoint, clock)

    async def scenario() -> None:
        await fire(one, clock, vehicle)
        await say(one, clock, vehicle, 3, 0.1)
        clock.now_s += 4_000
        await one.engine.sweeper.settle(vehicle)
        await say(one, clock, vehicle, 4, 0.1)
        assert changes(valkey, vehicle)[2:] == ["recovering", "stale", "fresh"]
        for i in range(5, 9):
            await say(one, clock, vehicle, i, 0.1)
        assert changes(valkey, vehicle)[5:] == ["resolved"]

    run([one], scenario)


@pytest.mark.parametrize("lag_s", [3_600.0, -200.0])
def test_a_vehicles_wrong_clock_makes_it_neither_silent_nor_fresh(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str, lag_s: float
) -> None:
    """Silence is counted by when samples came; what is told is in the vehicle's own time."""
    clock = Clock()
    one = watched(valkey, checkpoint, clock)

    async def scenario() -> None:
        await fire(one, clock, vehicle, lag_s=lag_s)
        clock.now_s += 299
        await one.engine.sweeper.settle(vehicle)
        assert changes(valkey, vehicle) == ["pending", "firing"]
        clock.now_s += 2
        await one.engine.sweeper.settle(vehicle)
        assert changes(valkey, vehicle) == ["pending", "firing", "stale"]
        (alert,) = await one.alerts(vehicle)
        assert alert["updated_ms"] == round(1_000 * (clock.now_s - lag_s))

    run([one], scenario)


def test_every_phase_survives_a_new_worker_and_retries_tell_nothing(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """A worker for each sample, each sample sent twice: the same episode, the same changes as of one worker."""
    clock = Clock()
    risks = [0.1, 0.6, 0.6, 0.6, 0.9, 0.9, 0.9, 0.2, 0.6, 0.2, 0.2, 0.2, 0.2, 0.2]
    others = [watched(valkey, checkpoint, clock) for _ in range(3)]

    async def scenario() -> None:
        for i, risk in enumerate(risks):
            one = others[i % 3]
            one.engine._residency.drop([vehicle])  # as after a start
            await say(one, clock, vehicle, i, risk)
            with valkey.client as client:
                before = len(told(client, vehicle))
            samples = one.samples((vehicle, i))
            samples.signals[:, one.checkpoint.schema.signal_names.index("state_of_charge")] = 100.0 * risk
            samples = replace(samples, ts_ms=np.array([round(1_000 * clock.now_s)]))
            assert words(await others[(i + 1) % 3].engine.apply(samples)) == ["duplicate"]
            with valkey.client as client:
                assert len(told(client, vehicle)) == before
        with valkey.client as client:
            records = told(client, vehicle)
        assert [r["transition"] for r in records] == [
            "pending", "firing", "escalated", "recovering", "relapsed", "recovering", "resolved",
        ]  # fmt: skip
        assert {r["id"] for r in records} == {records[0]["id"]}
        assert [r["event_id"].rpartition("-")[2] for r in records] == [str(n) for n in range(1, 8)]

    run(others, scenario)


def test_a_dead_lease_holder_is_replaced(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """While one worker holds the lease the other leaves the partition alone; it steps in when the lease has run out."""
    clock = Clock()
    dead, alive = (watched(valkey, checkpoint, clock) for _ in range(2))
    partition = partition_of(vehicle, PARTITIONS)

    async def scenario() -> None:
        await fire(alive, clock, vehicle)
        with valkey.client as client:
            client.delete(*(partition_keys(p).lease for p in range(PARTITIONS)))
        await dead.engine.sweeper.sweep(lease_s=60.0)
        clock.now_s += 400
        await alive.engine.sweeper.sweep()
        assert changes(valkey, vehicle)[-1] == "firing"
        assert count(alive.metrics.alerts_firing, RULE, "warning") == 0
        assert count(dead.metrics.alerts_firing, RULE, "warning") >= 1
        with valkey.client as client:
            client.pexpire(partition_keys(partition).lease, 1)
        await asyncio.sleep(0.05)
        await alive.engine.sweeper.sweep()
        assert changes(valkey, vehicle)[-1] == "stale"
        assert count(alive.metrics.alert_transitions, RULE, "stale") == 1
        assert count(alive.metrics.alerts_firing, RULE, "warning") >= 1

    run([dead, alive], scenario)


def test_an_acknowledgement_survives_whatever_comes(
    valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str
) -> None:
    """The flag is put on the stored record between a worker's read and its commits, with a note made to confuse the script."""
    clock = Clock()
    one = watched(valkey, checkpoint, clock)
    note = {"by": 'a "quoted" name', "at_ms": 5, "note": ', "acknowledged": null} \n {"id": "x"'}

    async def scenario() -> None:
        await fire(one, clock, vehicle)
        stored = StoredAlerts(one.store)
        (alert,) = await one.alerts(vehicle)
        (data,) = await one.store.alerts.of(vehicle, [field_of(vehicle, RULE)])
        assert data is not None
        assert not await stored.replace(vehicle, RULE, data + b" ", dumped(alert))
        assert await stored.replace(vehicle, RULE, data, dumped(alert | {"acknowledged": note}))
        await say(one, clock, vehicle, 3, 0.1)
        clock.now_s += 400
        await one.engine.sweeper.settle(vehicle)
        for i in range(4, 9):
            await say(one, clock, vehicle, i, 0.1)
        with valkey.client as client:
            records = told(client, vehicle)
        assert [r["transition"] for r in records[3:]] == ["recovering", "stale", "fresh", "resolved"]
        assert [r["acknowledged"] for r in records] == [None, None, *[note] * 5]
        await say(one, clock, vehicle, 9, 0.6)
        assert (await one.alerts(vehicle))[0]["acknowledged"] is None  # the next episode is nobody's yet

    run([one], scenario)


def test_alerts_of_layout_2_are_taken_over(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """A van whose alert fired under the earlier version: listed, made stale by silence, resolved by samples, once each."""
    clock = Clock()
    one = watched(valkey, checkpoint, clock)

    async def scenario() -> None:
        await fire(one, clock, vehicle)
        head, (alert,) = (await one.head(vehicle))[0], await one.alerts(vehicle)
        old = np.zeros(1, layout_2(checkpoint.preprocessor()))
        for name in set(old.dtype.names or ()) - {"layout", "alert", "check", "reserved"}:
            old[name] = head[name]
        machine = head["alert"][0]
        old["layout"], old["alert"]["phase"], old["alert"]["below_ms"] = 2, Phase.FIRING, -1
        for name in ("first_crossed_ms", "fired_ms"):
            old["alert"][name] = machine[name]
        seal(old)
        kept = ("vehicle_id", "rule", "phase", "risk", "threshold", "horizon_s", "first_crossed_ms", "fired_ms", "updated_ms", "epoch", "seq")  # fmt: skip
        record = {name: alert[name] for name in kept} | {"id": "0123", "position": None, "fingerprint": alert["model"]}
        keys = partition_keys(partition_of(vehicle, PARTITIONS))
        with valkey.client as client:
            client.set(one.store.keys_of(vehicle).head, old.tobytes())
            client.hdel(keys.alerts, field_of(vehicle, RULE))
            client.hdel(keys.open, field_of(vehicle, RULE))
            client.hset(keys.alerts, vehicle, json.dumps(record))
            client.delete(*(partition_keys(p).lease for p in range(PARTITIONS)))
        other = watched(valkey, checkpoint, clock)
        await other.engine.sweeper.sweep()
        (taken,) = await other.alerts(vehicle)
        assert (taken["id"], taken["phase"]) == (alert["id"], "firing")
        clock.now_s += 400
        await other.engine.sweeper.sweep()
        await say(other, clock, vehicle, 3, 0.1)
        for i in range(4, 8):
            await say(other, clock, vehicle, i, 0.1)
        assert changes(valkey, vehicle)[2:] == ["stale", "fresh", "recovering", "resolved"]
        with valkey.client as client:
            assert not client.hexists(keys.alerts, vehicle)
        await other.engine.close()
        await other.store.close()

    run([one], scenario)


def test_a_head_that_lost_its_alert_is_reminded(valkey: ValkeyProcess, checkpoint: Checkpoint, vehicle: str) -> None:
    """A damaged head begins anew; the alert that had fired goes on in it and is resolved by samples, not forgotten."""
    clock = Clock()
    one, two = (watched(valkey, checkpoint, clock) for _ in range(2))

    async def scenario() -> None:
        await fire(one, clock, vehicle)
        with valkey.client as client:
            key = one.store.keys_of(vehicle).head
            data = client.get(key)
            client.set(key, data[:200] + bytes([data[200] ^ 1]) + data[201:])
            client.delete(*(partition_keys(p).lease for p in range(PARTITIONS)))
        await say(two, clock, vehicle, 3, 0.4)
        assert (await two.head(vehicle))["alert"]["phase"].tolist() == [[0, 0]]
        await two.engine.sweeper.sweep()
        assert (await two.head(vehicle))["alert"]["phase"].tolist() == [[Phase.FIRING, 0]]
        for i in range(4, 10):
            await say(two, clock, vehicle, i, 0.1)
        assert changes(valkey, vehicle) == ["pending", "firing", "recovering", "resolved"]

    run([one, two], scenario)
