"""Three primaries of a cluster, joined by commands."""

from pathlib import Path
from typing import Self

from tests.processes import ValkeyProcess, free_port, wait_until

SLOTS = 16_384
NODE_TIMEOUT_MS = 1_000


class StoreCluster:
    """Three Valkeys that share the slots; without one of them the others serve their own."""

    def __init__(self, folder: Path) -> None:
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT_MS)]
        options += ["--cluster-require-full-coverage", "no"]
        self._buses = [free_port() for _ in range(3)]  # by default port + 10,000, which a free port may not have
        self.nodes = [
            ValkeyProcess(folder / f"node-{i}", *options, "--cluster-port", str(bus))
            for i, bus in enumerate(self._buses)
        ]

    @property
    def url(self) -> str:
        """Of any node."""
        return self.nodes[0].url

    def start(self) -> Self:
        """Start the nodes, share the slots out, introduce them to each other, and wait until all agree."""
        bounds = [SLOTS * i // 3 for i in range(4)]
        for node, first, end in zip(self.nodes, bounds[:-1], bounds[1:], strict=True):
            node.start().client.execute_command("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
        for number, node in enumerate(self.nodes):
            node.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for node, bus in zip(self.nodes[1:], self._buses[1:], strict=True):
            self.nodes[0].client.execute_command("CLUSTER", "MEET", "127.0.0.1", node.port, bus)
        wait_until(self.whole, "the nodes to agree")
        return self

    def whole(self) -> bool:
        """Whether every node sees every slot served by a node that answers."""
        infos = [node.client.execute_command("CLUSTER", "INFO") for node in self.nodes]
        return all(
            said(info, "cluster_state") == "ok" and said(info, "cluster_slots_ok") == str(SLOTS) for info in infos
        )

    def stop(self) -> None:
        """End all nodes."""
        for node in self.nodes:
            node.stop_if_running()


def said(info: object, name: str) -> str:
    """A line of CLUSTER INFO, however the client hands it over."""
    if isinstance(info, dict):
        return str(info[name])
    text = info.decode() if isinstance(info, bytes) else str(info)
    return dict(line.strip().split(":", 1) for line in text.splitlines() if ":" in line)[name]
