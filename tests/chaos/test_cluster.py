"""A cluster of three loses a node and gets it back."""

import random
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.chaos.conftest import StartWorker
from tests.chaos.senders import Fleet
from tests.chaos.store_cluster import StoreCluster
from tests.chaos.truth import check
from tests.chaos.vans import Van
from tests.processes import ServiceProcess, wait_until

SERVED_WITHIN_S = 40.0  # on a busy machine; alone it takes two or three


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[StoreCluster]:
    """Three nodes that serve."""
    made = StoreCluster(tmp_path)
    try:
        yield made.start()
    finally:
        made.stop()


def test_a_cluster_that_loses_a_node_waits_with_its_vans_only(
    seed: int, rng: random.Random, cluster: StoreCluster, start_worker: StartWorker
) -> None:
    """The vans of the lost node are deferred, all others go on; when it is back all are served and every state is exact."""
    lose_a_node(seed, rng, cluster, [start_worker(cluster.url) for _ in range(2)])


def lose_a_node(seed: int, rng: random.Random, cluster: StoreCluster, workers: list[ServiceProcess]) -> None:
    """Under load one node dies and comes back."""
    fleet = Fleet([worker.url for worker in workers], seed, n_vans=18, keep_s=10.0)
    lost = rng.choice(cluster.nodes)
    theirs = [van for van in fleet.vans if cluster.has(lost, van.vehicle_id)]
    others = [van for van in fleet.vans if van not in theirs]
    with fleet.sending():
        time.sleep(rng.uniform(0.5, 1.0))
        lost.kill()
        time.sleep(rng.uniform(1.5, 3.0))  # what was under way is answered; the others may know that it is gone, or not
        waiting = [van.acknowledged for van in theirs]
        wait_until_served(others, "the vans of the other nodes")
        assert [van.acknowledged for van in theirs] == waiting
        for worker in workers:
            assert httpx.get(f"{worker.url}/readyz").status_code == 200, "it serves the other nodes' vans"
            shown = httpx.get(f"{worker.url}/v1/fleet").json()
            assert shown["partitions_unreachable"] > 0
            assert {van.vehicle_id for van in others} <= set(shown["columns"]["vehicle_id"])
        lost.start()
        wait_until_served(fleet.vans, "all vans")
    for worker in workers:
        check(worker.url, fleet.vans)


def test_a_replica_takes_the_place_of_a_lost_node(
    seed: int, rng: random.Random, cluster: StoreCluster, start_worker: StartWorker
) -> None:
    """The workers find the new primary; what it lacked is healed by retries; the old one comes back as its replica."""
    lost = rng.choice(cluster.nodes)
    cluster.add_replica(lost)
    worker = start_worker(cluster.url)
    fleet = Fleet([worker.url], seed, n_vans=9, keep_s=10.0)
    with fleet.sending():
        time.sleep(rng.uniform(0.5, 1.0))
        lost.kill()
        wait_until_served(fleet.vans, "all vans, those of the lost node by its replica")
        lost.start()
        wait_until_served(fleet.vans, "all vans")
    check(worker.url, fleet.vans, lost_allowed=True)


def wait_until_served(vans: list[Van], which: str) -> None:
    """Until each of them has sent more than now."""
    before = [van.acknowledged for van in vans]
    wait_until(
        lambda: all(van.acknowledged > n for van, n in zip(vans, before, strict=True)),
        f"{which} to be served",
        timeout_s=SERVED_WITHIN_S,
    )


def test_the_nodes_join(cluster: StoreCluster) -> None:
    """The scenario's own ground: three nodes, every slot served, and a lost one comes back."""
    cluster.nodes[1].kill()
    time.sleep(1.5)
    cluster.nodes[1].start()
    wait_until(cluster.whole, "the nodes to agree again", timeout_s=30)
