"""The deployment as plain processes: HAProxy, two workers, a Redis Cluster of three nodes, Prometheus, Alertmanager."""

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import torch

from model.checkpoint import load_checkpoint, save_checkpoint
from tests.balancer import Balancer
from tests.chaos.senders import Fleet
from tests.chaos.store_cluster import StoreCluster
from tests.chaos.truth import check
from tests.deploy_files import panels
from tests.monitors import Alertmanager, Prometheus
from tests.processes import ServiceProcess, wait_until

DRAIN_S = 2.5
PROGRAMS = {"haproxy": "haproxy", "prometheus": "prometheus", "prometheus-alertmanager": "prometheus-alertmanager"}
NEEDS_AN_ACCELERATOR = ("Accelerator memory", "Accelerator utilisation")


@dataclass(frozen=True, slots=True)
class Topology:
    """Everything that runs."""

    store: StoreCluster
    workers: list[ServiceProcess]
    balancer: Balancer
    prometheus: Prometheus
    alertmanager: Alertmanager


@pytest.fixture(scope="module")
def topology(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Topology]:
    """Started once for the tests below; they leave both workers running, but for the last."""
    for program, package in PROGRAMS.items():
        if shutil.which(program) is None:
            message = f"{program} is not installed (Debian: apt-get install {package})"
            pytest.fail(message) if os.environ.get("CI") else pytest.skip(message)
    folder = tmp_path_factory.mktemp("topology")
    store = StoreCluster(folder / "store")
    running: list[ServiceProcess | Balancer | Prometheus | Alertmanager] = []
    try:
        store.start()
        settings = {"max_batch_size": 64, "slots": 160, "drain_s": DRAIN_S}
        workers = [ServiceProcess(folder, store=store.url, name=f"worker-{i}", **settings) for i in range(2)]  # type: ignore[arg-type]
        running += workers
        for worker in workers:
            worker.launch()
        for worker in workers:
            worker.wait_until_ready()
        running.append(balancer := Balancer(folder / "haproxy.cfg", workers, sticky=True))
        running.append(alertmanager := Alertmanager(folder / "alertmanager"))
        targets = '", "'.join(f"127.0.0.1:{worker.port}" for worker in workers)
        addresses = {
            "127.0.0.1:8000": targets,
            "127.0.0.1:8404": f"127.0.0.1:{balancer.metrics_port}",
            "127.0.0.1:9093": f"127.0.0.1:{alertmanager.port}",
        }
        running.append(prometheus := Prometheus(folder / "prometheus", addresses, waits={"1m": "1s"}))
        yield Topology(store, workers, balancer, prometheus, alertmanager)
    finally:
        for process in reversed(running):
            process.stop_if_running() if isinstance(process, ServiceProcess) else process.stop()
        store.stop()


def test_every_panel_of_every_dashboard_shows_something(topology: Topology) -> None:
    """Under load, each query is accepted by a real Prometheus and has a result; recording rules included."""
    fleet = Fleet([topology.balancer.url], seed=1, n_vans=8)
    empty: list[str] = []

    def all_there() -> bool:
        empty[:] = [
            f"{panel.dashboard} / {panel.title}: {panel.expression}"
            for panel in panels()
            if panel.title not in NEEDS_AN_ACCELERATOR and not topology.prometheus.query(panel.expression)
        ]
        return not empty

    with fleet.sending():
        try:
            wait_until(all_there, "every panel to have data", timeout_s=60)
        except TimeoutError:
            pytest.fail("\n".join(["empty panels:", *empty]))
    for title in NEEDS_AN_ACCELERATOR:
        assert [topology.prometheus.query(panel.expression) for panel in panels() if panel.title == title] == [[]]
    assert topology.prometheus.query('up{job="haproxy"}')[0]["value"][1] == "1"
    heads = [list(node.client.scan_iter("*:head", count=1_000)) for node in topology.store.nodes]
    names = sorted(key.decode().split(":v:")[1].removesuffix(":head") for keys in heads for key in keys)
    assert names == sorted(van.vehicle_id for van in fleet.vans), "each van is on one node"


def restart(worker: ServiceProcess, checkpoint: Path | None = None) -> None:
    """As a roll-out does it: SIGTERM, wait for the end, start the next, wait until it is ready."""
    if checkpoint is not None:
        worker._environment["EMBERWATCH_CHECKPOINT"] = str(checkpoint)
    assert worker.stop() == 0
    worker.start()


@pytest.mark.slow
def test_a_rolling_update_loses_nothing(topology: Topology, tmp_path: Path) -> None:
    """Under load a worker is replaced, then both get other weights, then the old ones back; each sample counts once."""
    old, other, new = load_checkpoint(), load_checkpoint(), tmp_path / "other"
    with torch.no_grad():
        next(iter(other.network.parameters())).mul_(1.001)
    save_checkpoint(other, new)
    same = Fleet([topology.balancer.url], seed=2, n_vans=6, pause_s=0.2)  # the truth of each van is computed afterwards
    with same.sending():
        time.sleep(1.0)
        restart(topology.workers[0])
        time.sleep(1.0)
    check(topology.balancer.url, same.vans)
    assert "draining" in topology.workers[0].log
    assert {"400", "404", "409", "422", "500"}.isdisjoint(same.outcomes), same.outcomes

    fleet = Fleet([topology.balancer.url], seed=3, n_vans=6, pause_s=0.2)
    with fleet.sending():
        for checkpoint in (new, Path("model/weights")):
            for worker in topology.workers:
                time.sleep(0.5)
                restart(worker, checkpoint.absolute())
        time.sleep(1.0)
    with httpx.Client(base_url=topology.balancer.url, timeout=60.0) as http:
        assert http.get("/v1/model").json()["fingerprint"] == old.fingerprint()
        for van in fleet.vans:
            assert van.acknowledged > 2
            assert max(van.applied.values()) == 1, f"{van.vehicle_id}: a sample was applied twice"
            again = [van.drive.wire(i) for i in range(van.acknowledged)]
            answer = http.post(f"/v1/vehicles/{van.vehicle_id}/telemetry", json=again).json()
            assert answer["duplicate"] == van.acknowledged, f"{van.vehicle_id}: an acknowledged sample is not known"


def test_a_worker_that_is_asked_to_stop_first_says_that_it_is_not_ready(topology: Topology) -> None:
    """It still takes samples then, and ends by itself with exit code 0."""
    worker = topology.workers[0]
    assert worker._process is not None
    worker._process.terminate()
    wait_until(lambda: httpx.get(f"{worker.url}/readyz").status_code == 404, "the worker to drain", timeout_s=10)
    sample = {"ts": 1_760_000_000_000, "signals": {"speed": 3.0}}
    assert httpx.get(f"{worker.url}/livez").status_code == 200
    assert httpx.post(f"{worker.url}/v1/vehicles/late-van/telemetry", json=sample).json()["status"] == "applied"
    assert worker._process.wait(timeout=60) == 0
    worker.start()


def test_a_dead_worker_reaches_alertmanager_with_its_runbook(topology: Topology) -> None:
    """The rule as shipped, with a second instead of a minute; it names that worker and no other."""
    topology.workers[1].kill()
    dead = f"127.0.0.1:{topology.workers[1].port}"

    def told() -> list[tuple[str, str]]:
        return [
            (alert["labels"]["instance"], alert["annotations"]["runbook_url"])
            for alert in topology.alertmanager.alerts()
            if alert["labels"]["alertname"] == "EmberwatchDown"
        ]

    wait_until(lambda: dead in dict(told()), "the alert to arrive", timeout_s=60)
    # The other worker's, from when it was restarted in the test before, may not be resolved yet.
    wait_until(
        lambda: told() == [(dead, "docs/runbooks/EmberwatchDown.md")], "no other worker to be named", timeout_s=60
    )
