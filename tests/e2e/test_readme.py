"""The README's requests are run as they stand, against a live service."""

import json
import re
import subprocess
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.processes import ServiceProcess


def test_the_readmes_requests_work(tmp_path: Path) -> None:
    """Each curl block succeeds; the first answers with the members that the README shows."""
    text = (REPOSITORY / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
    shown = json.loads(re.findall(r"```json\n(.*?)```", text, re.DOTALL)[0])
    assert len(blocks) == 2
    service = ServiceProcess(tmp_path).start()
    try:
        outputs = []
        for block in blocks:
            script = block.replace("http://127.0.0.1:8000", service.url).replace("curl -s", "curl -sS --fail -w '\\n'")
            done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            outputs.append([json.loads(line) for line in done.stdout.splitlines() if line])
        assert set(outputs[0][0]) == set(shown)
        assert {name: outputs[0][0][name] for name in ("i", "status", "seq", "phase", "warming_up")} == {
            name: shown[name] for name in ("i", "status", "seq", "phase", "warming_up")
        }
        array, vehicle, listing, alerts, session = outputs[1]
        assert array["applied"] == 2
        assert vehicle["seq"] == 3
        assert [v["vehicle_id"] for v in listing["vehicles"]] == ["van-1"]
        assert alerts["alerts"] == []
        assert session == {"vehicle_id": "van-1", "epoch": 2}
    finally:
        service.stop_if_running()
