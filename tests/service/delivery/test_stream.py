"""Listeners: everything in order, resumed where they were, told what they missed, and let go when they are too slow."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import redis

from service.delivery.delivery import Delivery
from service.delivery.events import Filter
from service.delivery.hub import Hub
from service.delivery.position import Position
from service.delivery.tail import News
from service.observe.metrics import Metrics
from tests.service.delivery.outboxes import PARTITIONS, alert, commit, until, working


class Ear:
    """One listener that notes what it hears."""

    def __init__(self) -> None:
        self.text = b""
        self.heard: list[tuple[str, str, Any]] = []  # event, id, data
        self.last_id = ""
        self.over = False

    def take(self, chunk: bytes) -> None:
        """Read the text format as a browser does."""
        self.text += chunk
        *blocks, self.text = self.text.split(b"\n\n")
        for block in blocks:
            fields = dict(line.split(": ", 1) for line in block.decode().split("\n") if not line.startswith(":"))
            self.last_id = fields.get("id", self.last_id)
            if "data" in fields:
                self.heard.append((fields["event"], self.last_id, json.loads(fields["data"])))

    def ids(self) -> list[str]:
        """Event ids of the alerts."""
        return [data["event_id"] for event, _, data in self.heard if event == "alert"]

    def kinds(self) -> list[str]:
        """Kinds of events."""
        return [event for event, _, _ in self.heard]


@asynccontextmanager
async def listening(delivery: Delivery, since: str | None = None, wants: Filter | None = None) -> AsyncIterator[Ear]:
    """A listener, from the moment on when it has joined."""
    ear = Ear()
    position = None if since is None else Position.parse(since, PARTITIONS)

    async def listen() -> None:
        async for chunk in delivery.listen(wants or Filter(), position, lambda _: None):
            ear.take(chunk)
        ear.over = True

    task = asyncio.create_task(listen())
    try:
        await until(lambda: bool(ear.last_id) or ear.over, "the listener to join")
        yield ear
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_listener_hears_everything_and_resumes_after_any_event(store: "redis.Redis", url: str) -> None:
    """Live, by filter, from the store after a pause, and at another worker: nothing left out, nothing twice."""

    async def scenario() -> None:
        async with working(url, ()) as first, working(url, ()) as second:
            only = Filter(vehicle_ids=frozenset({"van-3"}), transitions=frozenset({"resolved"}))
            async with listening(first.delivery) as ear, listening(first.delivery, None, only) as picky:
                commit(store, *(alert(f"van-{i}", "pending", 0) for i in range(30)))
                commit(store, *(alert(f"van-{i}", "resolved", 1) for i in range(30)))
                await until(lambda: len(ear.ids()) == 60, "all events")
                assert sorted(ear.ids()) == sorted(f"van-{i}-1-{n}" for i in range(30) for n in (0, 1))
                times = [int(event_id.split("~")[0]) for _, event_id, _ in ear.heard]
                assert times == sorted(times)
                await until(lambda: picky.ids() == ["van-3-1-1"], "what was asked for")
            commit(store, *(alert(f"van-{i}", "firing", 2) for i in range(30)))
            for late, i in enumerate((0, 17, 58, 59)):
                async with listening(second.delivery, ear.heard[i][1]) as again:
                    expected = 59 - i + 30 + late
                    await until(lambda: len(again.ids()) >= expected, "what came after")  # noqa: B023
                    assert again.ids()[: 59 - i] == ear.ids()[i + 1 :]
                    assert len(set(again.ids())) == len(again.ids()) == expected
                    commit(store, alert("late", "firing", i))
                    await until(lambda: again.ids()[-1] == f"late-1-{i}", "what comes live")  # noqa: B023
            assert first.metrics.registry.get_sample_value("emberwatch_alert_listeners") == 0

    asyncio.run(scenario())


def test_a_listener_from_before_what_is_kept_is_told(store: "redis.Redis", url: str) -> None:
    """After trimming the stream begins with `missed`, then everything that is kept; who missed nothing is not told so."""

    async def scenario() -> None:
        async with working(url, ()) as worker:
            async with listening(worker.delivery) as ear:
                commit(store, *(alert(f"van-{i}", "firing", 0) for i in range(40)))
                await until(lambda: len(ear.ids()) == 40, "all events")
            await worker.outbox.trim([], retained=2, limit=2)
            kept = sum(store.xlen(key) for key in store.keys("*:transitions"))
            assert kept < 40
            async with listening(worker.delivery, ear.heard[0][1]) as late:
                await until(lambda: len(late.ids()) == kept, "what is kept")
                assert late.kinds()[0] == "missed"
                assert late.heard[0][2]["partitions"] >= 1
            async with listening(worker.delivery, ear.heard[-1][1]) as current:
                assert current.heard == []

    asyncio.run(scenario())


def test_a_slow_listener_is_let_go_and_the_others_are_not(store: "redis.Redis", url: str) -> None:
    """More events than are kept for it while it does not listen: an `end` that says so; a position to resume from."""
    metrics = Metrics()
    hub = Hub(1, metrics.alert_listeners_ended, kept=5)

    async def scenario() -> None:
        async with working(url, ()) as worker:
            hub.start(["0-0"], 0)
            slow, well = hub.join(Filter()), hub.join(Filter())
            for n in range(3):
                entries = await entries_of(store, worker, n)
                hub.hear(News({0: entries}, 0))
                chunk = await hub.next_chunk(well)
                assert chunk is not None
                assert chunk.count(b"event: alert") == 4
            assert await hub.next_chunk(slow) is None
            assert slow.ended == "slow"
            assert hub.listeners == {slow, well}
            hub.leave(slow)
            await hub.close()
            assert await hub.next_chunk(well) is None
            assert well.ended == "stopping"

    async def entries_of(client: "redis.Redis", worker: Any, n: int) -> Any:
        for i in range(4):
            client.xadd("{ew:0}:transitions", {"alert": json.dumps(alert(f"van-{i}", n=n))})
        return (await worker.outbox.after({0: "0-0"}, 20))[0].entries[-4:]

    asyncio.run(scenario())
    ended = metrics.registry.get_sample_value("emberwatch_alert_listeners_ended_total", {"reason": "slow"})
    assert ended == 1


def test_a_connection_that_takes_nothing_is_waited_for_by_its_own_task(store: "redis.Redis", url: str) -> None:
    """News go straight to the connections; one that refuses gets the same later, in order, from its task; none gets anything twice."""

    class Pipe:
        """A connection."""

        def __init__(self) -> None:
            self.taken, self.open = [b""], True  # the listener's task writes to it as well

        def push(self, chunk: bytes) -> bool:
            """In the chunked coding."""
            if self.open:
                length, _, rest = chunk.partition(b"\r\n")
                assert rest[int(length, 16) :] == b"\r\n"
                self.taken.append(rest[:-2])
            return self.open

        def ids(self) -> list[str]:
            ear = Ear()
            ear.take(b"".join(self.taken))
            return ear.ids()

    async def scenario() -> None:
        async with working(url, ()) as worker:
            pipes = [Pipe(), Pipe()]

            async def listen(pipe: Pipe) -> None:
                async for chunk in worker.delivery.listen(Filter(), None, lambda _: None, pipe.push):
                    pipe.taken.append(chunk)

            tasks = [asyncio.create_task(listen(pipe)) for pipe in pipes]
            await until(lambda: all(len(pipe.taken) == 3 for pipe in pipes), "both to join")
            ids: list[str] = []
            for n, pipes[1].open in enumerate((True, False, False, True)):
                before = [len(pipe.taken) for pipe in pipes]
                ids += [f"van-{i}-1-{n}" for i in range(5)]
                commit(store, *(alert(f"van-{i}", n=n) for i in range(5)))
                await until(lambda: all(len(pipe.ids()) == len(ids) for pipe in pipes), "both to hear")  # noqa: B023
                assert all(len(pipe.taken) > had for pipe, had in zip(pipes, before, strict=True))
            assert sorted(pipes[0].ids()) == sorted(ids)
            assert pipes[0].ids() == pipes[1].ids()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert worker.delivery.hub.listeners == set()

    asyncio.run(scenario())


def test_many_listeners_share_one_reader(store: "redis.Redis", url: str) -> None:
    """What one listener more costs the store is nothing: three hundred listeners ask it no more often than one."""

    async def scenario() -> None:
        async with working(url, ()) as worker:
            ears = [Ear() for _ in range(300)]

            async def listen(ear: Ear) -> None:
                async for chunk in worker.delivery.listen(Filter(), None, lambda _: None):
                    ear.take(chunk)

            before = store.info("commandstats")["cmdstat_xrange"]["calls"]
            tasks = [asyncio.create_task(listen(ear)) for ear in ears]
            await until(lambda: all(ear.last_id for ear in ears), "all to join")
            after = store.info("commandstats")["cmdstat_xrange"]["calls"]
            commit(store, *(alert(f"van-{i}") for i in range(20)))
            await until(lambda: all(len(ear.ids()) == 20 for ear in ears), "all to hear everything", 60)
            assert after - before < 300
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert worker.delivery.hub.listeners == set()

    asyncio.run(scenario())
