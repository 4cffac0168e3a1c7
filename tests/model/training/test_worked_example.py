"""docs/training.md does what it says: its worked example is run as it stands, on a tiny fleet."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from model.checkpoint import load_checkpoint
from model.training.own_channels import read_channels
from tests.conftest import REPOSITORY
from tests.processes import free_port, wait_until

TEXT = (REPOSITORY / "docs" / "training.md").read_text()


def example() -> list[str]:
    """The shell blocks of the worked example, in order."""
    section = TEXT.partition("\n## Worked example\n")[2].partition("\n## ")[0]
    return re.findall(r"```bash\n(.*?)```", section, re.DOTALL)


def environment(folder: Path, port: int) -> dict[str, str]:
    """One in which `emberwatch` and `python` are this very code, and the service has a port of its own."""
    programs = folder / "bin"
    programs.mkdir()
    for name, arguments in (("emberwatch", "-m service.cli "), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments}"$@"\n')
        program.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(REPOSITORY),
        "EMBERWATCH_PORT": str(port),
    }


def shell(block: str, folder: Path, env: dict[str, str]) -> str:
    """Run a block in the folder; its standard output."""
    done = subprocess.run(["bash", "-ec", block], cwd=folder, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_worked_example_works(tmp_path: Path) -> None:
    """Simulate, list events, train, serve: the service answers with a risk of the model that was just trained."""
    simulate, events, train, serve, ask = example()
    port = free_port()
    env = environment(tmp_path, port)
    for block in (simulate, events, train):
        shell(block, tmp_path, env)
    rows = (tmp_path / "events.csv").read_text().splitlines()
    assert rows[0] == "vehicle_id,start"
    assert len(rows) > 2
    checkpoint = load_checkpoint(tmp_path / "model")
    assert checkpoint.config.d_model == 16
    assert checkpoint.provenance["training"]["finetune_steps"] == 10
    assert list((tmp_path / "model" / "tensorboard").iterdir())
    url = f"http://127.0.0.1:{port}"
    log = (tmp_path / "service.log").open("wb")
    service = subprocess.Popen(["bash", "-ec", f"exec {serve}"], cwd=tmp_path, env=env, stdout=log, stderr=log)
    try:
        wait_until(lambda: service.poll() is not None or is_ready(url), "the service")
        assert service.poll() is None, (tmp_path / "service.log").read_text()
        output = shell(ask.replace("http://127.0.0.1:8000", url).replace("curl -s", "curl -sS --fail"), tmp_path, env)
    finally:
        service.terminate()
        service.wait(timeout=60)
        log.close()
    model, end = json.JSONDecoder().raw_decode(output)
    answer = json.loads(output[end:])
    assert model["fingerprint"] == checkpoint.fingerprint()
    assert answer["status"] == "applied"
    assert 0.0 < answer["risk"] < 1.0


def is_ready(url: str) -> bool:
    """Whether the service takes samples."""
    try:
        return httpx.get(f"{url}/readyz").status_code == 200
    except httpx.TransportError:
        return False


def test_the_documents_channel_schema_is_one(tmp_path: Path) -> None:
    """The JSON of the page is accepted as it stands."""
    (tmp_path / "channels.json").write_text(re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)[0])
    schema = read_channels(tmp_path / "channels.json")
    assert schema.signal_names == ("lift_height", "hydraulic_temperature", "brake_events")
    assert [channel.core for channel in schema.channels] == [True, False, True]
    assert schema.channels[2].per_interval
