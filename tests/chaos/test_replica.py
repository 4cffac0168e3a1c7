"""A replica that had fallen behind is promoted: the store goes back in time under the workers' feet."""

import random
import time
from pathlib import Path

import httpx

from tests.chaos.conftest import StartWorker
from tests.chaos.counters import counter
from tests.chaos.proxy import Proxy
from tests.chaos.senders import Fleet
from tests.chaos.truth import check, check_losses
from tests.processes import ValkeyProcess, wait_until

REGRESSIONS = "emberwatch_store_regressions_total"


def follow(replica: ValkeyProcess, primary_port: int) -> None:
    """Make it a replica and wait until it has everything."""
    replica.client.execute_command("REPLICAOF", "127.0.0.1", primary_port)
    wait_until(lambda: replica.client.info("replication").get("master_link_status") == "up", "the replica to follow")


def test_promotion_of_a_stale_replica_is_healed_by_retries(
    seed: int, rng: random.Random, tmp_path: Path, store: ValkeyProcess, start_worker: StartWorker
) -> None:
    """What the replica lacks is missing at first, and nothing else; devices that send it again make every van whole."""
    replica = ValkeyProcess(tmp_path / "replica").start()
    try:
        with Proxy(store.port) as replication, Proxy(store.port) as proxy:
            workers = [start_worker(proxy.url) for _ in range(2)]
            follow(replica, replication.port)
            fleet = Fleet([worker.url for worker in workers], seed, keep_s=60.0)
            with fleet.sending():
                time.sleep(rng.uniform(0.5, 1.5))
                stale_since = time.monotonic()
                replication.stall()
                time.sleep(rng.uniform(0.3, 1.0))
                proxy.refuse()
                store.kill()
                fleet.wait_until_all_failed()
                with fleet.silence():
                    replica.client.execute_command("REPLICAOF", "NO", "ONE")
                    proxy.heal(replica.port)
                    for worker in workers:
                        worker.wait_until_ready()
                    # A commit may reach the primary and be answered just before the stall reaches the replica's link.
                    lost = check_losses(workers[0].url, fleet.vans, stale_since - 0.2)
                    assert lost > 0, "the replica was not stale"
                time.sleep(rng.uniform(0.3, 0.8))
            for worker in workers:
                check(worker.url, fleet.vans, lost_allowed=True)
    finally:
        replica.stop_if_running()


def test_a_store_that_went_back_is_noticed_and_counted(
    tmp_path: Path, store: ValkeyProcess, start_worker: StartWorker
) -> None:
    """The van's next request shows it to the worker that remembers more; what is sent again is applied again."""
    replica = ValkeyProcess(tmp_path / "replica").start()
    try:
        with Proxy(store.port) as replication, Proxy(store.port) as proxy:
            worker = start_worker(proxy.url)
            follow(replica, replication.port)
            (van,) = Fleet([worker.url], 1, n_vans=1).vans
            with httpx.Client(base_url=worker.url) as http:

                def send(i: int, vehicle_id: str = van.vehicle_id) -> str:
                    answer = http.post(f"/v1/vehicles/{vehicle_id}/telemetry", json=[van.drive.wire(i)])
                    return "deferred" if answer.status_code == 503 else str(answer.json()["items"][0]["status"])

                assert [send(i) for i in range(10)] == ["applied"] * 10
                wait_until(
                    lambda: replica.client.info("replication")["slave_repl_offset"] == offset(store), "all of it"
                )
                replication.stall()
                assert [send(i) for i in range(10, 15)] == ["applied"] * 5
                replica.client.execute_command("REPLICAOF", "NO", "ONE")
                proxy.heal(replica.port)
                wait_until(lambda: send(0, "another") != "deferred", "the worker to have new connections")
                assert counter(worker.url, REGRESSIONS) == 0
                assert [send(i) for i in range(8, 17)] == ["duplicate"] * 2 + ["applied"] * 7
                assert counter(worker.url, REGRESSIONS) == 1
            van.acknowledged = 17
            check(worker.url, [van], lost_allowed=True)
    finally:
        replica.stop_if_running()


def offset(primary: ValkeyProcess) -> int:
    """How far the primary's stream of commands has come."""
    return int(primary.client.info("replication")["master_repl_offset"])
