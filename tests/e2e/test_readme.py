"""The README's requests are run as they stand, against a live service, and its command against one's own Redis."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY
from tests.processes import ServiceProcess, ValkeyProcess, free_port, wait_until

TEXT = (REPOSITORY / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)


def answers(block: str, url: str) -> list[Any]:
    """What the requests of a block answer."""
    script = block.replace("http://127.0.0.1:8000", url).replace("curl -s", "curl -sS --fail -w '\\n'")
    done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines() if line]


def test_the_readmes_requests_work(tmp_path: Path) -> None:
    """Each curl block succeeds; the first answers with the members that the README shows."""
    shown = json.loads(re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)[0])
    assert len(BLOCKS) == 2
    service = ServiceProcess(tmp_path).start()
    try:
        first, (array, vehicle, listing, alerts, session) = (answers(block, service.url) for block in BLOCKS)
        assert set(first[0]) == set(shown)
        assert {name: first[0][name] for name in ("i", "status", "seq", "phase", "warming_up")} == {
            name: shown[name] for name in ("i", "status", "seq", "phase", "warming_up")
        }
        assert array["applied"] == 2
        assert vehicle["seq"] == 3
        assert [v["vehicle_id"] for v in listing["vehicles"]] == ["van-1"]
        assert alerts["alerts"] == []
        assert session == {"vehicle_id": "van-1", "epoch": 2}
    finally:
        service.stop_if_running()


def test_the_readmes_command_serves_from_ones_own_redis(tmp_path: Path) -> None:
    """As it stands there, but for the address of the Redis and a free port; the sample is in that Redis afterwards."""
    (command,) = re.findall(r"\.venv/bin/emberwatch (serve --store redis://localhost:6379/0)", TEXT)
    store, port = ValkeyProcess(tmp_path / "redis"), free_port()
    store.start()
    arguments = command.replace("redis://localhost:6379/0", store.url).split()
    environment = {**os.environ, "EMBERWATCH_PORT": str(port)}
    with (tmp_path / "service.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "service.cli", *arguments], env=environment, stdout=log, stderr=log
        )
    try:
        up = ["curl", "-sf", f"http://127.0.0.1:{port}/readyz"]
        wait_until(lambda: subprocess.run(up, capture_output=True, check=False).returncode == 0, "the service")
        assert answers(BLOCKS[0], f"http://127.0.0.1:{port}")[0]["status"] == "applied"
        with store.client as client:
            assert [key.decode().split(":v:")[1] for key in client.scan_iter("*:head")] == ["van-1:head"]
    finally:
        process.terminate()
        process.wait(60)
        store.stop_if_running()
