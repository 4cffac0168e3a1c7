"""`emberwatch alerts`, and that erasing a vehicle leaves nothing of it among what could not be delivered."""

import asyncio
import json
from typing import Any

import pytest
import redis
from prometheus_client import Histogram
from typer.testing import CliRunner

from service.cli import app
from service.delivery.notice import Notice
from service.delivery.outbox import DEAD_LETTERS, Outbox, partition_for
from service.store.store import Store
from service.store.store_keys import partition_keys
from tests.service.delivery.outboxes import PARTITIONS, alert, commit


def command(url: str, *arguments: str, partitions: int = PARTITIONS) -> tuple[int, Any]:
    """Exit code and JSON of `emberwatch alerts ...`."""
    environment = {"EMBERWATCH_PARTITIONS": str(partitions), "EMBERWATCH_STORE": url}
    done = CliRunner().invoke(app, ["alerts", *arguments, "--json"], env=environment)
    return done.exit_code, json.loads(done.stdout) if done.stdout else done.output


def bury(url: str, *letters: tuple[str, str]) -> None:
    """Dead letters of sinks about vehicles."""

    async def work() -> None:
        outbox = Outbox(url, PARTITIONS, 5.0)
        for sink, vehicle in letters:
            notice = Notice.of(alert(vehicle), 1_795_000_000_000)
            await outbox.bury(partition_for(notice.record, PARTITIONS), sink, notice, "422: no", 1, 1_795_000_000_001)
        await outbox.close()

    asyncio.run(work())


def test_dead_letters_are_listed_and_handed_back(store: "redis.Redis", url: str) -> None:
    """By sink, by id and all; what is handed back waits for its sink, and an id that is unknown is said."""
    store.set("ew:partitions", PARTITIONS)
    assert command(url, "dead-letters") == (0, {"dead_letters": []})
    bury(url, ("duty", "van-1"), ("duty", "van-2"), ("am", "van-1"))
    code, found = command(url, "dead-letters", "--sink", "duty")
    assert code == 0
    assert {letter["alert"]["vehicle_id"] for letter in found["dead_letters"]} == {"van-1", "van-2"}
    first = found["dead_letters"][0]
    assert (first["reason"], first["attempts"], first["transition"]) == ("422: no", 1, "firing")
    assert command(url, "redeliver", first["id"], "0:1-1") == (
        1, {"redelivering": [first["id"]], "unknown": ["0:1-1"]}
    )  # fmt: skip
    code, done = command(url, "redeliver")
    assert (code, len(done["redelivering"])) == (0, 2)
    assert command(url, "dead-letters") == (0, {"dead_letters": []})
    waiting = [str(field) for p in range(PARTITIONS) for field in store.hkeys(partition_keys(p).held)]
    assert sorted(field.split("|")[1] for field in waiting) == ["am", "duty", "duty"]


def test_the_wrong_store_is_refused(store: "redis.Redis", url: str) -> None:
    """One that no service has used, or of another number of partitions: exit code 2, and why."""
    assert command(url, "dead-letters")[0] == 2
    store.set("ew:partitions", 16)
    code, text = command(url, "dead-letters")
    assert code == 2
    assert "EMBERWATCH_PARTITIONS=16" in str(text).replace("\n", "")


def test_dead_letters_are_bounded(store: "redis.Redis", url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest go."""
    monkeypatch.setattr("service.delivery.outbox.DEAD_LETTERS", 3)
    assert DEAD_LETTERS > 3
    bury(url, *(("duty", "van-1") for _ in range(5)))
    partition = partition_for(alert("van-1"), PARTITIONS)
    assert store.xlen(partition_keys(partition).dead) == 3


def test_erasing_a_vehicle_erases_what_could_not_be_delivered(store: "redis.Redis", url: str) -> None:
    """Dead letters, letters handed back and marks of silences of the vehicle go; its neighbours' stay."""
    store.set("ew:partitions", PARTITIONS)
    names = [f"van-{i}" for i in range(50)]
    gone, stays = next((a, b) for a in names for b in names if a < b and same_partition(a, b))
    keys = partition_keys(partition_for(alert(gone), PARTITIONS))
    bury(url, ("duty", gone), ("duty", stays))
    assert command(url, "redeliver")[0] == 0
    bury(url, ("duty", gone), ("duty", stays))
    for name in (gone, stays):
        store.hset(keys.held, f"silenced|duty|{name}|thermal_risk", "{}")
        commit(store, alert(name))

    async def erase() -> None:
        duration = Histogram("store", "for the test", ["op"], registry=None)
        erasing = Store(url, PARTITIONS, 5.0, duration, entry_bytes=144)
        assert await erasing.erase(gone, None, ["thermal_risk"])
        await erasing.close()

    asyncio.run(erase())
    assert store.xlen(keys.dead) == store.xlen(keys.transitions) == 1
    left = store.hgetall(keys.held)
    assert len(left) == 2
    assert gone not in str(left) + str(store.xrange(keys.dead)) + str(store.xrange(keys.transitions))


def same_partition(a: str, b: str) -> bool:
    """Whether two vehicles are kept together, and neither's name is part of the other's."""
    return partition_for(alert(a), PARTITIONS) == partition_for(alert(b), PARTITIONS) and a not in b
