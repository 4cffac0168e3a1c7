"""`emberwatch demo` and the other commands as their users run them."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from tests.processes import ServiceProcess, free_port, wait_until

CLI = [sys.executable, "-m", "service.cli"]


def valkeys(folder: Path) -> list[psutil.Process]:
    """Living Valkeys whose configuration is in this folder."""
    return [
        process
        for process in psutil.process_iter(["cmdline", "status"])
        if process.info["status"] != psutil.STATUS_ZOMBIE and str(folder) in " ".join(process.info["cmdline"] or [])
        and "valkey-server" in (process.info["cmdline"] or [""])[0]
    ]  # fmt: skip


def hear_ctrl_c() -> None:
    """A shell's background job ignores Ctrl-C, and so would its children; the demo's user is at a terminal."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.timeout(600)
def test_the_demo_streams_and_stops_cleanly_on_ctrl_c(tmp_path: Path) -> None:
    """It prints its URLs, vans arrive with risks, Ctrl-C ends it with exit code 0 and leaves data but no process."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [*CLI, "demo", "--port", str(port), "--data-dir", str(tmp_path), "--vans", "3", "--speed", "120"]
    words = tmp_path / "words.txt"  # a file: a pipe that nobody reads would stop the demo
    with words.open("w") as file:
        process = subprocess.Popen(command, stderr=file, preexec_fn=hear_ctrl_c)  # noqa: PLW1509  (no threads here)

    def applied() -> bool:
        try:
            return re.search(r'samples_total\{status="applied"\} [1-9]', httpx.get(f"{url}/metrics").text) is not None
        except httpx.TransportError:
            return False

    try:
        wait_until(applied, "the demo's first samples", timeout_s=400)  # on a bare machine everything is compiled first
        vans = httpx.get(f"{url}/v1/vehicles").json()["vehicles"]
        assert 1 <= len(vans) <= 3
        assert all(0 <= van["risk"] <= 1 for van in vans if van["risk"] is not None)
        time.sleep(1.0)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=60)
    finally:
        process.kill()
    said = words.read_text()
    assert process.returncode == 0, said
    assert url in said
    assert "stopping" in said
    assert "'applied'" in said
    assert "Traceback" not in said
    assert any((tmp_path / "appendonlydir").iterdir())
    assert valkeys(tmp_path) == []


def test_a_second_demo_goes_on_with_new_sessions(tmp_path: Path) -> None:
    """Run to its end twice on one data folder: the second is as accepted as the first."""
    command = [*CLI, "demo", "--port", str(free_port()), "--data-dir", str(tmp_path), "--vans", "1", "--hours", "0.1"]
    for _ in range(2):
        done = subprocess.run([*command, "--speed", "3600"], capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, done.stderr
        assert "samples: {'applied': " in done.stderr
        assert "late" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["replay", "nowhere.csv", "--format", "csv", "--vehicle", "v"], "nowhere.csv is not a file"),
        (["replay", __file__, "--format", "xls", "--vehicle", "v"], "format must be one of"),
        (["serve", "--host", "0.0.0.0"], "not loopback"),  # noqa: S104
        (["serve", "--backend", "cdua"], "backend"),
        (["state", "verify", "v", "nowhere.csv", "--format", "csv"], "nowhere.csv is not a file"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_two(arguments: list[str], message: str) -> None:
    """No traceback for a user's mistake."""
    done = subprocess.run([*CLI, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_simulated_van_can_be_replayed_and_verified(tmp_path: Path) -> None:
    """`simulate --detail wire` writes what `replay` and `state verify` read; the same seed writes the same bytes."""
    for name in ("one", "two"):
        options = ["--vans", "2", "--days", "0.02", "--seed", "5", "--detail", "wire", "--json"]
        done = subprocess.run(
            [*CLI, "simulate", "--out", str(tmp_path / name), *options], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["vans"] == 2
    files = sorted((tmp_path / "one").iterdir())
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in sorted((tmp_path / "two").iterdir())]
    service = ServiceProcess(tmp_path).start()
    try:
        common = [str(files[0]), "--format", "parquet", "--url", service.url]
        for command in (["replay", "--vehicle", "sim"], ["state", "verify", "sim"]):
            done = subprocess.run([*CLI, *command, *common], capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
    finally:
        service.stop_if_running()


def test_every_command_has_help() -> None:
    """`--help` of the command and its children."""
    for arguments in ([], ["serve"], ["replay"], ["demo"], ["simulate"], ["state"], ["state", "verify"]):
        done = subprocess.run([*CLI, *arguments, "--help"], capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 0, done.stderr
        assert "Usage" in done.stdout


def test_a_replay_without_a_service_says_so(tmp_path: Path) -> None:
    """After its retries the command gives up with the address it tried."""
    (tmp_path / "drive.csv").write_text("ts,speed\n2026-09-14T08:00:00Z,1\n")
    url = f"http://127.0.0.1:{free_port()}"
    command = [*CLI, "replay", str(tmp_path / "drive.csv"), "--format", "csv", "--vehicle", "v", "--url", url]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 2
    assert "no answer from" in done.stderr
