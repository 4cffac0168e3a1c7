"""A real Prometheus and a real Alertmanager with the configurations that are shipped, addresses and intervals replaced."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import REPOSITORY
from tests.processes import free_port, wait_until

DEPLOY = REPOSITORY / "deploy"


def answers(url: str) -> bool:
    """Whether somebody says 200 there."""
    try:
        return httpx.get(url).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


class Monitor:
    """A process with a port of its own."""

    def __init__(self, command: list[str], port: int) -> None:
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            wait_until(lambda: answers(f"{self.url}/-/ready"), command[0], timeout_s=60)
        except TimeoutError:
            self.stop()
            raise

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


class Alertmanager(Monitor):
    """Alone, without a cluster of its kind."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        options = [f"--config.file={DEPLOY / 'alertmanager' / 'alertmanager.yml'}", f"--storage.path={folder}"]
        options += [f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
        super().__init__(["prometheus-alertmanager", *options], port)

    def alerts(self) -> list[dict[str, Any]]:
        """Those that it has been told of."""
        return list(httpx.get(f"{self.url}/api/v2/alerts").raise_for_status().json())


class Prometheus(Monitor):
    """With the shipped rules.

    Args:
        folder: for its data and the configuration as it runs.
        addresses: what stands for the addresses in the shipped file.
        waits: what stands for the `for` of rules.
    """

    def __init__(self, folder: Path, addresses: Mapping[str, str], waits: Mapping[str, str]) -> None:
        text = (DEPLOY / "prometheus" / "prometheus.yml").read_text().replace("5s", "1s")
        for shipped, ours in addresses.items():
            assert shipped in text
            text = text.replace(shipped, ours)
        rules = (DEPLOY / "prometheus" / "rules" / "emberwatch.yml").read_text()
        for shipped, ours in waits.items():
            assert f"for: {shipped}" in rules
            rules = rules.replace(f"for: {shipped}\n", f"for: {ours}\n")
        (folder / "rules").mkdir(parents=True)
        (folder / "rules" / "emberwatch.yml").write_text(rules)
        (folder / "prometheus.yml").write_text(text)
        port = free_port()
        options = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
        super().__init__(["prometheus", *options, f"--web.listen-address=127.0.0.1:{port}"], port)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Result of an instant query; fails on an expression that Prometheus refuses."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression})
        assert answer.status_code == httpx.codes.OK, f"{expression}: {answer.text}"
        return list(answer.json()["data"]["result"])
