"""The examples of docs/alerts.md are run as they stand, against a service in which a van's alert fires."""

import json
import re
import subprocess
from pathlib import Path

import httpx

from model.alert_machine import CHANGES
from service.alerting.schemas import Alert
from service.settings import Settings
from tests.conftest import REPOSITORY
from tests.processes import ServiceProcess
from tests.service.conftest import sample

TEXT = (REPOSITORY / "docs" / "alerts.md").read_text()


def test_every_example_works(tmp_path: Path) -> None:
    """List, acknowledge, silence: each block succeeds and does what the page says."""
    blocks = re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL)
    service = ServiceProcess(tmp_path, alert_threshold=1e-6, resolve_threshold=5e-7, alert_for_s=0.0).start()
    try:
        httpx.post(f"{service.url}/v1/vehicles/van-1/telemetry", json=[sample(i) for i in range(61)], timeout=60.0)
        answers = []
        for block in blocks:
            script = block.replace("http://127.0.0.1:8000", service.url).replace("curl -s", "curl -sS --fail -w '\\n'")
            done = subprocess.run(["bash", "-ec", script], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
            answers.append([json.loads(line) for line in done.stdout.splitlines() if line])
    finally:
        service.stop_if_running()
    (listed,), (acknowledged,), (silence, silences) = answers
    assert [alert["vehicle_id"] for alert in listed["alerts"]] == ["van-1"]
    assert acknowledged["id"] == listed["alerts"][0]["id"]
    assert acknowledged["acknowledged"]["by"] == "ann"
    assert silence["state"] == "pending"
    assert silences["silences"] == [silence]


def test_every_change_field_and_setting_is_documented() -> None:
    """The page names every change of an alert, every field of its record, and every setting with its default."""
    for change in (*CHANGES, "acknowledged"):
        assert f"| `{change}` |" in TEXT, change
    for name in set(Alert.model_fields) - {"vehicle_id", "transition", "acknowledged", "peak_risk", "surprise"}:
        assert f"`{name}`" in TEXT, name
    settings, table = Settings(), TEXT.split("## Settings")[1].split("\n## ")[0]
    names = [name.lower() for name in re.findall(r"`([A-Z_]{6,})`", table)]
    assert set(names) == {n for n in Settings.model_fields if "alert_" in n or "threshold" in n or "anomaly" in n} | {
        "stale_after_s"
    }
    for row in re.findall(r"^\| (`.*?) \| (.*?) \|", table, re.MULTILINE):
        shown = [part.strip() for part in row[1].split(",")]
        for name, value in zip(re.findall(r"`(\w+)`", row[0]), shown * 3, strict=False):
            default = getattr(settings, name.lower())
            words = (
                "the checkpoint's"
                if default is None
                else str(default).lower()
                if isinstance(default, bool)
                else f"{default:g}"
            )
            assert words == value, name


def test_the_tests_that_the_page_names_exist() -> None:
    """Of each trouble in the table, file and name; `::name` alone is of the file before."""
    named = 0
    file = ""
    for path, name in re.findall(r"`([a-z_/]+\.py)?(?:::(test_\w+))?`", TEXT):
        file = path or file
        if file and (path or name):
            text = (REPOSITORY / "tests" / file).read_text()
            assert not name or f"def {name}(" in text, f"{file}::{name}"
            named += 1
    assert named > 15
