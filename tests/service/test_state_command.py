"""`emberwatch state` as typed: files of vehicles from one service to another, and what its exit codes say."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from service.cli import app
from service.cli.vehicle_files import file_name
from tests.processes import ServiceProcess, ValkeyProcess
from tests.service.conftest import sample

N_VANS = 12


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServiceProcess, ValkeyProcess]]:
    """A service with some vans, one of which has no sample in its session, and its store."""
    store = ValkeyProcess(tmp_path_factory.mktemp("store")).start()
    process = ServiceProcess(tmp_path_factory.mktemp("source"), store=store.url, snapshot_every=5).start()
    with httpx.Client(base_url=process.url) as http:
        for van in range(N_VANS):
            body = [sample(i) for i in range(3 + van)]
            assert http.post(f"/v1/vehicles/van:{van}/telemetry", json=body).status_code == 200
        http.post("/v1/vehicles/reset-van/sessions")
    yield process, store
    process.stop_if_running()
    store.stop_if_running()


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    """An empty service with the embedded store."""
    process = ServiceProcess(tmp_path_factory.mktemp("target")).start()
    yield process
    process.stop_if_running()


def run(*arguments: object, **environment: str) -> tuple[int, dict[str, Any]]:
    """The command's exit code and its JSON."""
    result = CliRunner().invoke(app, ["state", *map(str, arguments), "--json"], env=environment)
    return result.exit_code, json.loads(result.stdout) if result.stdout.strip() else {}


def test_a_fleet_moves_by_files(
    source: tuple[ServiceProcess, ValkeyProcess], target: ServiceProcess, tmp_path: Path
) -> None:
    """All vans, as they were; importing again changes nothing; what went on is not taken back unless one insists."""
    code, report = run("export", tmp_path, "--url", source[0].url)
    assert (code, report["exported"], report["refused"]) == (0, N_VANS, [])
    assert [skipped["vehicle_id"] for skipped in report["skipped"]] == ["reset-van"]
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) == report["bytes"]
    for _ in range(2):
        assert run("import", tmp_path, "--url", target.url)[1]["imported"] == N_VANS
    with httpx.Client() as http:
        for van in range(N_VANS):
            path = f"/v1/vehicles/van:{van}"
            one, two = (http.get(f"{service.url}{path}").json() for service in (source[0], target))
            assert one | {"stored_bytes": 0} == two | {"stored_bytes": 0}
        http.post(f"{target.url}/v1/vehicles/van:3/telemetry", json=[sample(i) for i in range(6, 9)])
        code, report = run("import", tmp_path / file_name("van:3"), "--url", target.url)
        assert (code, report["imported"]) == (1, 0)
        assert "If-Match" in report["refused"][0]["reason"]
        assert run("import", tmp_path / file_name("van:3"), "--replace", "--url", target.url)[0] == 0
        assert http.get(f"{target.url}/v1/vehicles/van:3").json()["seq"] == 5


def test_what_cannot_be_moved_is_named(
    source: tuple[ServiceProcess, ValkeyProcess], target: ServiceProcess, tmp_path: Path
) -> None:
    """Exit code 1 and the name where one fails, 2 where nothing can be done; no half a file stays."""
    code, report = run("export", tmp_path, "van:1", "nobody", "--url", source[0].url)
    assert (code, report["exported"], [refused["what"] for refused in report["refused"]]) == (1, 1, ["nobody"])
    file = tmp_path / file_name("van:1")
    file.write_bytes(file.read_bytes()[:-1])
    code, report = run("import", tmp_path, "--url", target.url)
    assert (code, report["imported"]) == (1, 0)
    assert "van%3A1" in report["refused"][0]["what"]
    (tmp_path / "empty").mkdir()
    assert run("import", tmp_path / "empty", "--url", target.url)[0] == 2
    assert run("verify", "van:1")[0] == 2


def test_the_store_is_verified(source: tuple[ServiceProcess, ValkeyProcess]) -> None:
    """Whole, then one snapshot with a flipped bit, one journal cut short and one head damaged."""
    code, report = run("verify", "--store", source[1].url)
    assert (code, report) == (0, {"vehicles": N_VANS + 1, "broken": [], "agrees": True})
    with source[1].client as store:
        snapshot = next(key for key in store.scan_iter("*:v:van:9:snap:*"))
        journal = next(key for key in store.scan_iter("*:v:van:8:journal"))
        head = next(key for key in store.scan_iter("*:v:van:7:head"))
        kept = {key: store.get(key) for key in (snapshot, journal, head)}
        store.setrange(snapshot, 5_000, bytes([kept[snapshot][5_000] ^ 4]))
        store.set(journal, kept[journal][:-1])
        store.setrange(head, 200, bytes([kept[head][200] ^ 1]))
        code, report = run("verify", EMBERWATCH_STORE=source[1].url)
        assert code == 1
        assert {b["vehicle_id"]: b["kind"] for b in report["broken"]} == dict.fromkeys(
            ("van:7", "van:8", "van:9"), "unusable"
        )
        for key, value in kept.items():
            store.set(key, value)
    assert run("verify", "--store", source[1].url)[0] == 0


def test_the_embedded_store_is_found(target: ServiceProcess, tmp_path: Path) -> None:
    """By its data folder; where none runs, that is said."""
    folder = str(target.folder / "data")
    assert run("verify", EMBERWATCH_DATA_DIR=folder)[0] == 0
    assert run("verify", EMBERWATCH_DATA_DIR=str(tmp_path))[0] == 2
