"""Delivery to real receivers from a real Valkey: once and in order when all is well, at least once when it is not."""

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import redis

from service.delivery.notice import Record
from tests.service.delivery.outboxes import alert, commit, pending, sinks_of, until, webhook, working
from tests.service.delivery.receivers import Answer, Got, Receiver, receiving


def told(receiver: Receiver, vehicle: str) -> list[str]:
    """The event ids that a receiver has had about a vehicle, in order."""
    return [got.id for got in list(receiver.got) if got.json["groupLabels"]["vehicle_id"] == vehicle]


def test_each_transition_arrives_once_signed_and_in_order(store: "redis.Redis", url: str, tmp_path: Path) -> None:
    """Firing, escalated and resolved of twenty vans: one request each, the signatures good, nothing left pending."""

    async def scenario() -> None:
        async with working(url, sinks_of(tmp_path, webhook("hook", receiver.url))) as worker:
            for n, transition in enumerate(["pending", "firing", "escalated", "recovering", "resolved"]):
                commit(store, *(alert(f"van-{i}", transition, n) for i in range(20)))
            await until(lambda: len(receiver.got) >= 60, "all notices")
            await until(lambda: pending(store, "hook") == 0, "all to be settled")
            assert worker.count("hook", "delivered") == 60
            delays = worker.metrics.registry.get_sample_value(
                "emberwatch_notification_delay_seconds_count", {"sink": "hook"}
            )
            assert delays == 60

    with receiving() as receiver:
        asyncio.run(scenario())
        assert len(receiver.got) == 60
        for got in receiver.got:
            assert got.verified()["receiver"] == "hook"
        for i in range(20):
            assert told(receiver, f"van-{i}") == [f"van-{i}-1-{n}" for n in (1, 2, 4)]


def test_what_was_committed_before_the_worker_came_is_delivered(store: "redis.Redis", url: str, tmp_path: Path) -> None:
    """A worker that starts late finds what waited in the outbox since another was there."""

    async def scenario() -> None:
        sinks = sinks_of(tmp_path, webhook("hook", receiver.url))
        async with working(url, sinks):
            await until(lambda: len(store.keys("*:lease:hook")) == 4, "the leases")
        assert store.keys("*:lease:hook") == []  # a worker that is stopped leaves none
        commit(store, *(alert(f"van-{i}") for i in range(8)))
        async with working(url, sinks):
            await until(lambda: len(receiver.got) == 8, "what waited")

    with receiving() as receiver:
        asyncio.run(scenario())


def test_a_slow_and_a_dead_sink_hold_up_no_other(store: "redis.Redis", url: str, tmp_path: Path) -> None:
    """While one sink never answers and one is not there, a third has everything at once."""

    def hang(_: Got) -> Answer:
        time.sleep(2.0)
        return Answer()

    async def scenario() -> None:
        text = webhook("slow", slow.url, "timeout_s = 1.0") + webhook("dead", "http://127.0.0.1:9/hook")
        async with working(url, sinks_of(tmp_path, text + webhook("well", well.url))) as worker:
            commit(store, *(alert(f"van-{i}") for i in range(40)))
            await until(lambda: pending(store, "dead") == pending(store, "slow") == 40, "the others to be in hand")
            await until(lambda: worker.count("well", "delivered") == 40, "the answers")

    with receiving() as slow, receiving() as well:
        slow.answer = hang
        asyncio.run(scenario())


def test_a_sink_that_comes_back_gets_everything_in_order(store: "redis.Redis", url: str, tmp_path: Path) -> None:
    """Connections refused, then 503, then well: nothing is lost, and resolved comes after firing for every van."""

    async def scenario() -> None:
        async with working(url, sinks_of(tmp_path, webhook("hook", f"http://127.0.0.1:{port}/hook"))) as worker:
            commit(store, *(alert(f"van-{i}", "firing", 0) for i in range(12)))
            commit(store, *(alert(f"van-{i}", "resolved", 1) for i in range(12)))
            await until(lambda: worker.count("hook", "failed") >= 12, "failures")
            with receiving(port) as receiver:
                receiver.answer = lambda _: Answer(503)
                await until(lambda: len(receiver.got) >= 12, "refusals")
                refused = len(receiver.got)
                receiver.answer = lambda _: Answer()
                await until(lambda: pending(store, "hook") == 0, "all to be settled")
                for i in range(12):
                    delivered = [
                        got.id for got in receiver.got[refused:] if got.json["groupLabels"]["vehicle_id"] == f"van-{i}"
                    ]
                    assert delivered[-1] == f"van-{i}-1-1"
                    assert delivered.index(f"van-{i}-1-0") < delivered.index(f"van-{i}-1-1")
            assert worker.count("hook", "delivered") == 24
            assert worker.count("hook", "dead") == 0

    with receiving() as probe:
        port = probe.port
    asyncio.run(scenario())


def test_two_workers_share_and_one_takes_over(store: "redis.Redis", url: str, tmp_path: Path) -> None:
    """With two workers every notice is told once; when the one that delivers is stopped, the other goes on."""

    async def scenario() -> None:
        sinks = sinks_of(tmp_path, webhook("hook", receiver.url))
        async with working(url, sinks, lease_s=4.0) as second:
            async with working(url, sinks, lease_s=4.0) as first:
                commit(store, *(alert(f"van-{i}", "firing", 0) for i in range(30)))
                await until(lambda: len(receiver.got) >= 30, "the firing")
                await until(lambda: pending(store, "hook") == 0, "all to be settled")
                shares = first.count("hook", "delivered"), second.count("hook", "delivered")
                assert sum(shares) == 30
            commit(store, *(alert(f"van-{i}", "resolved", 1) for i in range(30)))
            await until(lambda: len(receiver.got) >= 60, "the resolved")
        assert sorted(receiver.ids()) == sorted(f"van-{i}-1-{n}" for i in range(30) for n in (0, 1))

    with receiving() as receiver:
        asyncio.run(scenario())


def test_what_a_dead_worker_had_taken_is_claimed(store: "redis.Redis", url: str, tmp_path: Path) -> None:
    """Entries pending in the name of a worker that is gone are told by whoever gets the lease."""
    sinks = sinks_of(tmp_path, webhook("hook", "http://127.0.0.1:9/hook"))

    async def scenario() -> None:
        async with working(url, sinks):
            await until(lambda: len(store.keys("*:lease:hook")) == 4, "the leases")
        commit(store, *(alert(f"van-{i}") for i in range(10)))
        for key in store.keys("*:transitions"):
            store.xreadgroup("hook", "dead-worker", {key: ">"})
        assert pending(store, "hook") == 10
        with receiving() as receiver:
            async with working(url, sinks_of(tmp_path, webhook("hook", receiver.url))):
                await until(lambda: len(receiver.got) == 10, "the claimed")
                await until(lambda: pending(store, "hook") == 0, "all to be settled")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("answer", "attempts", "reason"),
    [
        (Answer(422, body=b"no such vehicle"), 1, "422: no such vehicle"),
        (Answer(500), 3, "500"),
        (Answer(302, {"Location": "http://127.0.0.1:9/"}), 3, "302: redirects are not followed"),
    ],
)
def test_what_a_sink_will_not_have_becomes_a_dead_letter_and_can_be_redelivered(
    answer: Answer, attempts: int, reason: str, store: "redis.Redis", url: str, tmp_path: Path
) -> None:
    """Refused at once, failed for too long, redirected: a dead letter that says why, and the next of its alert goes on."""

    async def scenario() -> None:
        async with working(url, sinks_of(tmp_path, webhook("hook", receiver.url, "retry_for_s = 0"))) as worker:
            commit(store, alert("van-1", "firing", 0))
            await until(lambda: worker.count("hook", "dead") == 1, "the dead letter")
            await until(lambda: pending(store, "hook") == 0, "it to be settled")
            (letter,) = await worker.outbox.dead_letters()
            assert (letter["event_id"], letter["sink"], letter["attempts"]) == ("van-1-1-0", "hook", attempts)
            assert letter["reason"].startswith(reason)
            assert letter["alert"]["vehicle_id"] == "van-1"
            assert len(receiver.got) == attempts
            receiver.answer = lambda _: Answer()
            assert await worker.outbox.redeliver([letter["id"], "0:1-1"]) == [True, False]
            await until(lambda: len(receiver.got) == attempts + 1, "the redelivery")
            assert receiver.got[-1].id == "van-1-1-0"
            await until(lambda: store.keys("*:held") == [], "it to be settled")
            assert await worker.outbox.dead_letters() == []

    with receiving() as receiver:
        receiver.answer = lambda _: answer
        asyncio.run(scenario())


def test_an_answer_without_end_is_cut_off(store: "redis.Redis", url: str, tmp_path: Path) -> None:
    """Of ten megabytes of apology no more than the bound is read, and the notice counts as delivered."""

    async def scenario() -> None:
        async with working(url, sinks_of(tmp_path, webhook("hook", receiver.url))) as worker:
            commit(store, alert("van-1"))
            await until(lambda: worker.count("hook", "delivered") == 1, "the delivery")

    with receiving() as receiver:
        receiver.answer = lambda _: Answer(200, body=b"x" * 10_000_000)
        asyncio.run(scenario())
        assert len(receiver.got) == 1


def test_an_entry_that_cannot_be_read_blocks_nothing(store: "redis.Redis", url: str, tmp_path: Path) -> None:
    """Rubbish in the outbox is counted and passed over."""

    async def scenario() -> None:
        async with working(url, sinks_of(tmp_path, webhook("hook", receiver.url))) as worker:
            for partition in range(4):
                store.xadd(f"{{ew:{partition}}}:transitions", {"alert": "{"})
                store.xadd(f"{{ew:{partition}}}:transitions", {"other": "x"})
            commit(store, *(alert(f"van-{i}") for i in range(10)))
            await until(lambda: len(receiver.got) == 10, "the others")
            assert worker.count("hook", "unreadable") == 8

    with receiving() as receiver:
        asyncio.run(scenario())


class Muted:
    """Silences of vehicles, as service/alerting/silences.py gives them."""

    def __init__(self, *vehicles: str) -> None:
        self.vehicles = set(vehicles)

    async def active(self, now_ms: int) -> Sequence["Muted"]:
        """One silence for all of them."""
        assert now_ms > 1_700_000_000_000
        return [self]

    def matches(self, record: Record) -> bool:
        """Whether the vehicle is muted."""
        return record["vehicle_id"] in self.vehicles


def test_silences_hold_back_and_what_still_fires_is_told_when_they_end(
    store: "redis.Redis", url: str, tmp_path: Path
) -> None:
    """Three muted vans: one fires on and is told later, over a change of workers; one resolves untold; one was told before."""
    silences = Muted("on", "over")

    async def scenario() -> None:
        sinks = sinks_of(tmp_path, webhook("hook", receiver.url))
        async with working(url, sinks, silences) as worker:
            commit(store, alert("before", "firing", 0))
            await until(lambda: receiver.ids() == ["before-1-0"], "the van that is not muted yet")
            silences.vehicles.add("before")
            await asyncio.sleep(1.1)  # what is in force is asked for once a second
            commit(store, alert("on", "firing", 0), alert("over", "firing", 0), alert("over", "resolved", 1))
            commit(store, alert("before", "escalated", 1), alert("before", "resolved", 2))
            await until(lambda: worker.count("hook", "silenced") == 4, "the silenced")
            await until(lambda: "before-1-2" in receiver.ids(), "the end of what was told")
            await until(lambda: pending(store, "hook") == 0, "all to be settled")
        async with working(url, sinks, silences):
            silences.vehicles.clear()
            await until(lambda: "on-1-0" in receiver.ids(), "what fires when its silence ends")
            commit(store, alert("on", "resolved", 1))
            await until(lambda: "on-1-1" in receiver.ids(), "its end")
            await until(lambda: store.keys("*:held") == [], "all marks to be gone")

    with receiving() as receiver:
        asyncio.run(scenario())
        assert receiver.ids() == ["before-1-0", "before-1-2", "on-1-0", "on-1-1"]


def test_a_sink_is_told_what_it_asked_for(store: "redis.Redis", url: str, tmp_path: Path) -> None:
    """Transitions, rules and severities of a sink; everything else is settled without a word."""

    async def scenario() -> None:
        text = webhook("critical", receiver.url, 'severities = ["critical"]\ntransitions = ["firing", "escalated"]')
        async with working(url, sinks_of(tmp_path, text)):
            commit(store, alert("a", "firing", 0), alert("a", "escalated", 1, severity="critical"))
            commit(store, alert("a", "resolved", 2, severity="critical"), alert("b", "firing", 0, severity="critical"))
            await until(lambda: len(receiver.got) == 2, "both")
            await until(lambda: pending(store, "critical") == 0, "all to be settled")

    with receiving() as receiver:
        asyncio.run(scenario())
        assert sorted(receiver.ids()) == ["a-1-1", "b-1-0"]


def test_trimming_spares_what_a_sink_has_not_had_and_counts_what_it_cannot_spare(
    store: "redis.Redis", url: str, tmp_path: Path
) -> None:
    """Ten entries retained: delivered ones beyond go; undelivered ones stay up to the limit, and above it are counted."""

    async def scenario() -> None:
        sinks = sinks_of(tmp_path, webhook("dead", "http://127.0.0.1:9/hook"))
        async with working(url, sinks) as worker:
            vehicles = [name for name in map(str, range(1000)) if partition(name) == 0][:100]
            commit(store, *(alert(name, "recovering") for name in vehicles[:40]))  # nothing that is told
            await until(lambda: delivered_to(store, "dead") and pending(store, "dead") == 0, "the first to be settled")
            commit(store, *(alert(name) for name in vehicles[40:]))
            await until(lambda: pending(store, "dead") > 0, "the others to be taken")
            assert await worker.outbox.trim(["dead"], retained=10, limit=80) == 0
            assert store.xlen("{ew:0}:transitions") == 60  # all that were delivered are gone
            assert store.hget("{ew:0}:delivery", "trimmed") is not None
            assert await worker.outbox.trim(["dead"], retained=10, limit=25) == 35
            assert store.xlen("{ew:0}:transitions") == 25
            assert await worker.outbox.trim([], retained=10, limit=25) == 0  # nobody to wait for
            assert store.xlen("{ew:0}:transitions") == 10

    def partition(name: str) -> int:
        from service.store.store_keys import partition_of  # noqa: PLC0415

        return partition_of(name, 4)

    def delivered_to(client: "redis.Redis", sink: str) -> bool:
        (group,) = [g for g in client.xinfo_groups("{ew:0}:transitions") if g["name"].decode() == sink]
        return bool(group["last-delivered-id"] != b"0-0")

    asyncio.run(scenario())


def test_what_a_commit_cuts_off_is_counted(store: "redis.Redis", url: str) -> None:
    """Where nobody trims in time the commit script does, and the next trimming says how much that was."""
    from service.store.store import COMMIT  # noqa: PLC0415
    from service.store.store_keys import partition_keys, vehicle_keys  # noqa: PLC0415

    record, field = alert("van-1"), "van-1|thermal_risk"
    keys, at = partition_keys(0), vehicle_keys("van-1", 4)
    script = store.register_script(COMMIT.text)
    heads = [bytes(100 - i) + bytes([1] * i) for i in range(2)]
    for i in range(300):
        store.set(at.head, heads[i % 2])
        line = f"+{field} firing:warning {json.dumps(record | {'updated_ms': i})}"
        won = script(
            keys=[*keys[:6], at.head, at.journal, at.head, at.head],
            args=[100, 8, 16, 8, 1, "", 0, 0, 0, "van-1", heads[i % 2][:8], heads[i % 2], b"", b"", b"", 0, line],
        )
        assert won[0] >= 1

    async def trim() -> float:
        async with working(url, ()) as worker:
            return await worker.outbox.trim(["hook"])

    left = store.xlen(keys.transitions)
    assert left < 300
    assert asyncio.run(trim()) == 300 - left
    assert asyncio.run(trim()) == 0
    assert store.hget(keys.delivery, "trimmed") is not None
