"""Three primaries of a cluster, joined by commands, and a replica that may take over from one of them."""

from pathlib import Path
from typing import Self

from redis.crc import key_slot

from service.settings import Settings
from service.store.store_keys import vehicle_keys
from tests.processes import ValkeyProcess, free_port, wait_until

SLOTS = 16_384
N_PRIMARIES = 3
BOUNDS = [SLOTS * i // N_PRIMARIES for i in range(N_PRIMARIES + 1)]
NODE_TIMEOUT_MS = 1_000


class StoreCluster:
    """Three Valkeys that share the slots; without one of them the others serve their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._buses: list[int] = []
        self.nodes = [self._node(f"node-{i}") for i in range(N_PRIMARIES)]
        self._replicas: list[ValkeyProcess] = []

    def _node(self, name: str) -> ValkeyProcess:
        bus = free_port()  # by default port + 10,000, which a free port may not have
        self._buses.append(bus)
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)]
        options += ["--cluster-require-full-coverage", "no", "--cluster-port", str(bus)]
        return ValkeyProcess(self._folder / name, *options)

    @property
    def url(self) -> str:
        """The cluster, found by any of its nodes."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self.nodes)
        return f"redis-cluster://{hosts}"

    def start(self) -> Self:
        """Start the nodes, share the slots out, introduce them to each other, and wait until all agree."""
        for node, first, end in zip(self.nodes, BOUNDS[:-1], BOUNDS[1:], strict=True):
            node.start().client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for number, node in enumerate(self.nodes):
            node.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node, bus in zip(self.nodes[1:], self._buses[1:], strict=True):
            self.nodes[0].client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        wait_until(self.whole, "the nodes to agree")
        return self

    def has(self, node: ValkeyProcess, vehicle_id: str) -> bool:
        """Whether the vehicle belonged to this node when the cluster started."""
        slot = key_slot(vehicle_keys(vehicle_id, Settings.model_fields["partitions"].default).head)
        i = self.nodes.index(node)
        return BOUNDS[i] <= slot < BOUNDS[i + 1]

    def add_replica(self, primary: ValkeyProcess) -> None:
        """One more node that has everything this one has, and takes its place when it is lost."""
        replica = self._node("replica").start()
        self._replicas.append(replica)
        replica.client.execute_command(
            "CLUSTER", "MEET", "127.0.0.1", primary.port, self._buses[self.nodes.index(primary)]
        )
        name = primary.client.execute_command("CLUSTER", "MYID").decode()
        wait_until(lambda: name in str(replica.client.execute_command("CLUSTER", "NODES")), "the replica to know it")
        wait_until(self.whole, "the nodes to agree")
        replica.client.execute_command("CLUSTER", "REPLICATE", name)
        wait_until(
            lambda: replica.client.info("replication").get("master_link_status") == "up", "the replica to follow"
        )

    def whole(self) -> bool:
        """Whether every node sees every slot served by a node that answers."""
        infos = [node.client.execute_command("CLUSTER", "INFO") for node in self.nodes]
        return all(
            said(info, "cluster_state") == "ok" and said(info, "cluster_slots_ok") == str(SLOTS) for info in infos
        )

    def stop(self) -> None:
        """End all nodes."""
        for node in [*self.nodes, *self._replicas]:
            node.stop_if_running()


def said(info: object, name: str) -> str:
    """A line of CLUSTER INFO, however the client hands it over."""
    if isinstance(info, dict):
        return str(info[name])
    text = info.decode() if isinstance(info, bytes) else str(info)
    return dict(line.strip().split(":", 1) for line in text.splitlines() if ":" in line)[name]
