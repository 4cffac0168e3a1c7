"""The worker that delivers is killed between the delivery and its acknowledgement; so is the store."""

import os
import signal
import threading
from pathlib import Path

from service.delivery.outbox import lease_of
from tests.processes import ServiceProcess, ValkeyProcess, wait_until
from tests.service.delivery.outboxes import PARTITIONS, alert, commit, pending, sinks_of, webhook
from tests.service.delivery.receivers import Answer, Got, receiving

VANS = 12


def test_a_worker_killed_between_delivery_and_acknowledgement_loses_nothing(tmp_path: Path) -> None:
    """Kill -9 while the receiver has the notice and the worker no answer: another tells it again, with the same id."""
    valkey = ValkeyProcess(tmp_path / "valkey").start()
    with receiving() as receiver, valkey.client as client:
        sinks_of(tmp_path, webhook("hook", receiver.url, "concurrency = 1"))
        workers = {
            name: ServiceProcess(
                tmp_path, store=valkey.url, name=name, partitions=PARTITIONS, sinks_file=tmp_path / "sinks.toml",
                delivery_lease_s=2, backend="reference",
            )
            for name in ("first", "second")
        }  # fmt: skip
        first, second = workers["first"].start(), workers["second"]
        killing, killed = threading.Lock(), threading.Event()

        def die(got: Got) -> Answer:
            with killing:
                if not killed.is_set() and got.id.endswith("-3-1-0"):
                    os.kill(first.pid, signal.SIGKILL)
                    killed.set()
            return Answer()

        try:
            wait_until(lambda: all(client.exists(lease_of(p, "hook")) for p in range(PARTITIONS)), "the leases")
            second.launch()
            receiver.answer = die
            commit(client, *(alert(f"van-{i}", "firing", 0) for i in range(VANS)))
            wait_until(killed.is_set, "the worker's death")
            first.kill()
            commit(client, *(alert(f"van-{i}", "resolved", 1) for i in range(VANS)))
            second.wait_until_ready()
            expected = {f"van-{i}-1-{n}" for i in range(VANS) for n in (0, 1)}
            wait_until(lambda: set(receiver.ids()) == expected, "every notice")
            wait_until(lambda: pending(client, "hook") == 0, "every acknowledgement")
            ids = receiver.ids()
            assert max(ids.count(event) for event in expected) == 2
            assert ids.count("van-3-1-0") == 2
            for i in range(VANS):
                last_firing = len(ids) - 1 - ids[::-1].index(f"van-{i}-1-0")
                assert last_firing < ids.index(f"van-{i}-1-1")
        finally:
            for worker in workers.values():
                worker.stop_if_running()
            valkey.stop_if_running()


def test_a_store_that_dies_and_comes_back_loses_no_notice(tmp_path: Path) -> None:
    """Deliveries wait while the store is away, what was delivered meanwhile is acknowledged later, and the rest follows."""
    valkey = ValkeyProcess(tmp_path / "valkey", "--appendfsync", "always").start()
    with receiving() as receiver:
        sinks_of(tmp_path, webhook("hook", receiver.url))
        worker = ServiceProcess(
            tmp_path, store=valkey.url, partitions=PARTITIONS, sinks_file=tmp_path / "sinks.toml", delivery_lease_s=2,
            backend="reference",
        )  # fmt: skip
        gone = threading.Event()
        receiver.answer = lambda _: Answer() if gone.wait(30) else Answer(500)
        try:
            worker.start()
            with valkey.client as client:
                commit(client, *(alert(f"van-{i}", "firing", 0) for i in range(VANS)))
            wait_until(lambda: len(receiver.got) >= 1, "the first notice")
            valkey.kill()
            gone.set()
            valkey.start()
            with valkey.client as client:
                commit(client, *(alert(f"van-{i}", "resolved", 1) for i in range(VANS)))
                expected = {f"van-{i}-1-{n}" for i in range(VANS) for n in (0, 1)}
                wait_until(lambda: set(receiver.ids()) == expected, "every notice")
                wait_until(lambda: pending(client, "hook") == 0, "every acknowledgement")
        finally:
            gone.set()
            worker.stop_if_running()
            valkey.stop_if_running()
