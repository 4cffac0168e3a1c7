"""The examples of docs/api.md are run as they stand, against a service that asks for keys."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from service.gate.access import scope_of
from tests.conftest import REPOSITORY
from tests.processes import ServiceProcess
from tests.service.conftest import create

TEXT = (REPOSITORY / "docs" / "api.md").read_text()
EXAMPLE = re.compile(r"```bash\n(.*?)```\n\n```json\n(.*?)```", re.DOTALL)


def shape(value: Any) -> Any:
    """What must agree between what is shown and what is answered: names, words and whole numbers, not measured ones."""
    if isinstance(value, dict):
        return {name: shape(part) for name, part in value.items()}
    if isinstance(value, list):
        return [shape(part) for part in value]
    return "a number" if isinstance(value, float) else value


def test_every_example_answers_as_shown(tmp_path: Path) -> None:
    """Each block succeeds with the key and gives the members, verdicts and counts that the page shows."""
    examples = EXAMPLE.findall(TEXT)
    assert len(examples) == TEXT.count("```bash") >= 5
    key = create(tmp_path / "keys.json", "ingest", "read")
    service = ServiceProcess(tmp_path, keys_file=tmp_path / "keys.json").start()
    try:
        for script, shown in examples:
            text = script.replace("http://127.0.0.1:8000", service.url).replace("curl -s", "curl -sS --fail")
            done = subprocess.run(
                ["bash", "-ec", text], capture_output=True, text=True, check=False, env={**os.environ, "KEY": key}
            )
            assert done.returncode == 0, done.stderr
            assert shape(json.loads(done.stdout)) == shape(json.loads(shown)), script
    finally:
        service.stop_if_running()


def test_the_scopes_are_as_documented() -> None:
    """The table of scopes says what the code asks for."""
    rows = dict(re.findall(r"^\| (none|`\w+`) \| (.*) \|$", TEXT, re.MULTILINE))
    for call in re.findall(r"`([A-Z]+ /\S+?)`", rows["none"] + rows["`ingest`"]):
        method, path = call.split()
        wanted = None if call in rows["none"] else "ingest"
        assert scope_of(method, path.replace("{vehicle_id}", "van-1")) == wanted
    assert scope_of("GET", "/metrics") == "read"
    assert scope_of("POST", "/v1/vehicles/van-1/sessions") == "admin"


def test_the_limits_are_as_documented() -> None:
    """Every setting of the table exists, with the default that it shows."""
    from service.settings import Settings  # noqa: PLC0415

    settings = Settings()
    table = TEXT.split("## Limits")[1].split("##")[0]
    names = {name.lower() for name in re.findall(r"`([A-Z_]{6,})`", table)}
    assert len(names) == 14
    assert names <= set(Settings.model_fields)
    for name, shown in (
        ("max_body_bytes", "16 MiB"), ("max_inflight_bytes", "256 MiB"), ("max_samples_per_request", "40,000"),
        ("max_vehicles_per_request", "20,000"), ("max_vehicles", "100,000"), ("max_queue", "65,536"), ("max_inflight_requests", "2,048"),
        ("max_connections", "4,096"), ("head_timeout_s", "10 s"), ("body_timeout_s", "30 s"), ("keep_alive_s", "75 s"),
    ):  # fmt: skip
        value = getattr(settings, name)
        forms = {f"{value:,}", f"{value / 2**20:g} MiB", f"{value:g} s"}
        assert shown in forms, name
        assert shown in next(line for line in table.splitlines() if f"`{name.upper()}`" in line)
