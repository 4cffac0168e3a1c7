"""HAProxy with the configuration that is shipped, its addresses replaced."""

import subprocess
from pathlib import Path

import httpx

from tests.conftest import REPOSITORY
from tests.processes import ServiceProcess, free_port, wait_until


class Balancer:
    """HAProxy in front of two workers."""

    def __init__(self, config: Path, workers: list[ServiceProcess], *, sticky: bool) -> None:
        text = (REPOSITORY / "deploy" / "haproxy" / "haproxy.cfg").read_text()
        port = free_port()
        ports = {8080: port, 8404: free_port(), 8001: workers[0].port, 8002: workers[1].port}
        for shipped, ours in ports.items():
            assert f"127.0.0.1:{shipped}" in text
            text = text.replace(f"127.0.0.1:{shipped}", f"127.0.0.1:{ours}")
        if not sticky:
            assert "balance hash path,url_dec,field(4,/)" in text
            text = text.replace("balance hash path,url_dec,field(4,/)", "balance roundrobin")
        config.write_text(text)
        checked = subprocess.run(["haproxy", "-c", "-f", str(config)], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        assert "WARNING" not in checked.stdout + checked.stderr
        self.url, self.metrics_port = f"http://127.0.0.1:{port}", ports[8404]
        self._process = subprocess.Popen(["haproxy", "-db", "-f", str(config)], stdout=subprocess.DEVNULL)
        try:
            wait_until(self._ready, "haproxy", timeout_s=20)
        except TimeoutError:
            self.stop()
            raise

    def _ready(self) -> bool:
        try:
            return httpx.get(f"{self.url}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()
