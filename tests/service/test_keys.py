"""API keys: stored as hashes, asked for by scope, rotated under a running service."""

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from service.client import Client, ClientError, Tally
from service.gate.access import scope_of
from service.gate.keys import LOOK_AGAIN_S, KeyRing, KeysFileError, edit_keys, hash_secret, identify, new_key, read_keys
from tests.processes import ServiceProcess, wait_until
from tests.service.conftest import create, sample
from tests.service.test_bad_input import assert_problem


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`emberwatch keys ...`."""
    command = [sys.executable, "-m", "service.cli", "keys", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def create_by_command(file: Path, *scopes: str, name: str = "test") -> str:
    """A key that the command made."""
    options = [part for scope in scopes for part in ("--scope", scope)]
    done = run("create", "--file", str(file), "--name", name, *options, "--json")
    assert done.returncode == 0, done.stderr
    key: str = json.loads(done.stdout)["key"]
    return key


def bearer(key: str) -> dict[str, str]:
    """The header that carries a key."""
    return {"Authorization": f"Bearer {key}"}


def test_the_file_holds_only_hashes(tmp_path: Path) -> None:
    """Neither key nor secret is in it, and only its owner may read it."""
    file = tmp_path / "keys.json"
    key = create_by_command(file, "ingest", "read", name="depot 7")
    text = file.read_text()
    assert key not in text
    assert key.rsplit("_", 1)[1] not in text
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    (record,) = read_keys(file).values()
    assert (record.name, record.scopes) == ("depot 7", ("ingest", "read"))
    assert identify(read_keys(file), key) == record


def test_list_shows_no_secrets_and_revoke_ends_a_key(tmp_path: Path) -> None:
    """The commands say what is there; exit codes say whether it worked."""
    file = tmp_path / "keys.json"
    key, other = create_by_command(file, "admin", name="ops"), create(file, "read", name="page")
    listed = run("list", "--file", str(file), "--json")
    keys = json.loads(listed.stdout)["keys"]
    assert [(k["name"], k["scopes"]) for k in keys] == [("ops", ["admin"]), ("page", ["read"])]
    assert set(keys[0]) == {"id", "name", "scopes", "created"}
    assert run("revoke", keys[0]["id"], "--file", str(file)).returncode == 0
    assert identify(read_keys(file), key) is None
    assert identify(read_keys(file), other) is not None
    assert run("revoke", keys[0]["id"], "--file", str(file)).returncode == 1
    assert run("create", "--file", str(file), "--name", "x", "--scope", "write").returncode == 2
    assert run("list", "--file", str(tmp_path / "none.json")).returncode == 2


def test_identify_knows_only_whole_keys() -> None:
    """Another secret, another id, a cut or lengthened key, and rubbish are nobody."""
    record, key = new_key("a", ("read",))
    keys = {record.id: record}
    assert identify(keys, key) == record
    other = new_key("b", ("read",))[1]
    wrong = [other, key[:-1], key + "A", key.upper(), "", "ew__", f"ew_{record.id}_{other.rsplit('_', 1)[1]}", "ü" * 60]
    assert [identify(keys, text) for text in wrong] == [None] * len(wrong)
    assert hash_secret("a") != hash_secret("b")


def test_every_secret_is_compared_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known id or not, well formed or not: one hash and one constant-time comparison of equal lengths."""
    import hmac  # noqa: PLC0415

    record, key = new_key("a", ("read",))
    lengths = []
    compare = hmac.compare_digest

    def watched(a: str, b: str) -> bool:
        lengths.append((len(a), len(b)))
        return compare(a, b)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    for text in (key, key[:-1] + "_", "ew_000000000000_" + key.rsplit("_", 1)[1], "rubbish"):
        identify({record.id: record}, text)
    assert lengths == [(64, 64)] * 4


def test_a_new_call_is_closed_until_somebody_decides() -> None:
    """Reads need `read`, telemetry `ingest`, everything else `admin`; only probes and documentation are open."""
    assert scope_of("GET", "/livez") is None
    assert scope_of("GET", "/readyz") is None
    assert scope_of("GET", "/openapi.json") is None
    assert scope_of("GET", "/metrics") == "read"
    assert scope_of("GET", "/v1/vehicles/van-1/state") == "read"
    assert scope_of("POST", "/v1/telemetry") == "ingest"
    assert scope_of("POST", "/v1/vehicles/van-1/telemetry") == "ingest"
    for method, path in (
        ("POST", "/v1/vehicles/van-1/sessions"),
        ("PUT", "/v1/vehicles/van-1/state"),
        ("DELETE", "/v1/vehicles/van-1"),
        ("POST", "/v1/vehicles/a/b/telemetry"),
        ("POST", "/v1/telemetry/"),
        ("POST", "/livez"),
        ("PUT", "/v1/something/new"),
    ):
        assert scope_of(method, path) == "admin", (method, path)


BAD_FILES = {
    "empty": "",
    "no json": "{",
    "another version": '{"version": 2, "keys": []}',
    "no keys": '{"version": 1}',
    "a list": "[]",
    "a key without hash": '{"version": 1, "keys": [{"id": "a", "name": "b", "scopes": ["read"], "created": ""}]}',
    "a bad hash": '{"version": 1, "keys": [{"id": "a", "name": "b", "scopes": ["read"], "created": "", "hash": "x"}]}',
    "a bad scope": json.dumps(
        {"version": 1, "keys": [{"id": "a", "name": "b", "scopes": ["all"], "created": "", "hash": "0" * 64}]}
    ),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_file_leaves_the_old_keys_in_force(name: str, tmp_path: Path) -> None:
    """At the start it is refused; later it is counted, once per change, and nobody is locked out or let in."""
    bad, file = tmp_path / "bad.json", tmp_path / "keys.json"
    bad.write_text(BAD_FILES[name])
    with pytest.raises(KeysFileError, match=r"bad\.json"):
        KeyRing(bad, lambda: None)
    record, key = new_key("a", ("read",))
    with edit_keys(file) as keys:
        keys[record.id] = record
    now, errors = [0.0], []
    ring = KeyRing(file, lambda: errors.append(1), clock=lambda: now[0])
    file.write_text(BAD_FILES[name])
    for _ in range(3):
        now[0] += LOOK_AGAIN_S
        assert ring.identify(key) == record
    assert len(errors) == 1
    file.unlink()
    now[0] += LOOK_AGAIN_S
    assert ring.identify(key) == record
    assert len(errors) == 2
    with edit_keys(file):
        pass
    now[0] += LOOK_AGAIN_S
    assert ring.identify(key) is None


@pytest.fixture(scope="module")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key file with one key that nobody uses."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    create(file, "read", name="first")
    return file


@pytest.fixture(scope="module")
def guarded_service(tmp_path_factory: pytest.TempPathFactory, keys_file: Path) -> Iterator[ServiceProcess]:
    """A service that asks for keys, reachable from elsewhere."""
    folder = tmp_path_factory.mktemp("guarded")
    process = ServiceProcess(folder, keys_file=keys_file, host="0.0.0.0")  # noqa: S104
    yield process.start()
    process.stop_if_running()


@pytest.fixture(scope="module")
def guarded(guarded_service: ServiceProcess) -> Iterator[httpx.Client]:
    """A client without a key."""
    with httpx.Client(base_url=guarded_service.url, timeout=30.0) as client:
        yield client


def test_without_a_key_only_probes_and_documentation_answer(guarded: httpx.Client, vehicle: str) -> None:
    """401 with the challenge, for reads, writes and paths that do not exist."""
    for path in ("/livez", "/readyz", "/openapi.json", "/docs"):
        assert guarded.get(path).status_code == 200
    for method, path in (
        ("GET", "/metrics"),
        ("GET", "/v1/vehicles"),
        ("GET", "/v1/model"),
        ("POST", f"/v1/vehicles/{vehicle}/telemetry"),
        ("POST", f"/v1/vehicles/{vehicle}/sessions"),
        ("DELETE", f"/v1/vehicles/{vehicle}"),
        ("GET", "/v1/nothing"),
    ):
        response = guarded.request(method, path, json=sample(0))
        document = assert_problem(response, 401)
        assert document["type"].endswith("unauthenticated")
        assert response.headers["WWW-Authenticate"] == 'Bearer realm="emberwatch"'


def test_keys_open_what_their_scope_says(guarded: httpx.Client, keys_file: Path, vehicle: str) -> None:
    """Each scope its own calls and no other's; admin all; 403 names what is missing. New keys work within a second."""
    keys = {scope: create(keys_file, scope) for scope in ("ingest", "read", "admin")}
    time.sleep(LOOK_AGAIN_S + 0.1)
    calls = {
        "ingest": ("POST", f"/v1/vehicles/{vehicle}/telemetry", 200),
        "read": ("GET", f"/v1/vehicles/{vehicle}", 200),
        "admin": ("POST", f"/v1/vehicles/{vehicle}/sessions", 201),
    }
    for needed, (method, path, status) in calls.items():
        for scope, key in keys.items():
            response = guarded.request(method, path, json=sample(0), headers=bearer(key))
            if scope in {needed, "admin"}:
                assert response.status_code in {status, 409}, (needed, scope, response.text)
            else:
                document = assert_problem(response, 403)
                assert document["scope"] == needed
                challenge = response.headers["WWW-Authenticate"]
                assert f'error="insufficient_scope", scope="{needed}"' in challenge
    assert guarded.get("/metrics", headers=bearer(keys["read"])).status_code == 200


def test_wrong_credentials_are_a_401(guarded: httpx.Client, keys_file: Path) -> None:
    """Unknown keys, other schemes, two headers: all nobody, none an error of ours."""
    key = create(keys_file, "read")
    time.sleep(LOOK_AGAIN_S + 0.1)
    assert guarded.get("/v1/vehicles", headers={"Authorization": f"bearer   {key}"}).status_code == 200
    for value in (f"Bearer {key}x", f"Basic {key}", key, "Bearer", "Bearer " + "x" * 5_000, "\xff\xfe"):
        response = guarded.get("/v1/vehicles", headers=[(b"Authorization", value.encode("latin-1"))])
        assert assert_problem(response, 401)
        assert 'error="invalid_token"' in response.headers["WWW-Authenticate"]
    twice = [("Authorization", f"Bearer {key}"), ("Authorization", f"Bearer {key}")]
    assert_problem(guarded.get("/v1/vehicles", headers=twice), 401)


def test_a_body_is_not_read_for_nobody(guarded: httpx.Client) -> None:
    """The refusal comes before a long body has been sent."""
    started = time.perf_counter()
    assert_problem(guarded.post("/v1/telemetry", content=(b" " * 65_536 for _ in range(100))), 401)
    assert time.perf_counter() - started < 5.0


def test_rotation_without_restart(
    guarded: httpx.Client, guarded_service: ServiceProcess, keys_file: Path, vehicle: str
) -> None:
    """A new key works, then the old one is revoked, and sending never stops; a torn file changes nothing and is said."""
    old = create(keys_file, "ingest")
    time.sleep(LOOK_AGAIN_S + 0.1)
    path = f"/v1/vehicles/{vehicle}/telemetry"
    assert guarded.post(path, json=sample(0), headers=bearer(old)).status_code == 200
    new = create(keys_file, "ingest")
    assert guarded.post(path, json=sample(1), headers=bearer(old)).status_code == 200
    wait_until(lambda: guarded.post(path, json=sample(2), headers=bearer(new)).status_code == 200, "the new key", 5.0)
    good = keys_file.read_text()
    keys_file.write_text(good[: len(good) // 2])
    time.sleep(LOOK_AGAIN_S + 0.1)
    assert guarded.post(path, json=sample(3), headers=bearer(new)).status_code == 200
    assert "the key file is bad, the old keys stay in force" in guarded_service.log
    keys_file.write_text(good)
    assert run("revoke", old.split("_")[1], "--file", str(keys_file)).returncode == 0
    wait_until(lambda: guarded.post(path, json=sample(4), headers=bearer(old)).status_code == 401, "the end", 5.0)
    assert guarded.post(path, json=sample(4), headers=bearer(new)).status_code == 200


def test_a_bad_file_refuses_to_start(tmp_path: Path) -> None:
    """Exit code 2 and one line that names the file."""
    file = tmp_path / "keys.json"
    file.write_text("{")
    command = [sys.executable, "-m", "service.cli", "serve", "--keys-file", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    assert "keys.json" in done.stderr
    assert "Traceback" not in done.stderr


def test_keys_never_reach_the_log(guarded: httpx.Client, guarded_service: ServiceProcess, keys_file: Path) -> None:
    """Neither good nor bad ones."""
    key = create(keys_file, "read")
    guarded.get("/v1/vehicles", headers=bearer(key))
    guarded.get("/v1/vehicles", headers=bearer(f"{key}x"))
    assert key not in guarded_service.log
    assert "ew_" not in guarded_service.log


def test_the_client_sends_its_key(guarded_service: ServiceProcess, keys_file: Path, vehicle: str) -> None:
    """As replay and demo use it; without a key it says what the service said."""
    key = create(keys_file, "ingest", "read")
    time.sleep(LOOK_AGAIN_S + 0.1)
    tally = Tally()
    with Client(guarded_service.url, key) as client:
        client.send(vehicle, [sample(i) for i in range(5)], tally)
        assert client.get(f"/v1/vehicles/{vehicle}")["seq"] == 4
        with pytest.raises(ClientError, match="403: this needs a key with scope admin"):
            client.post(f"/v1/vehicles/{vehicle}/sessions")
    assert tally.statuses == {"applied": 5}
    with Client(guarded_service.url) as nobody, pytest.raises(ClientError, match="401: send an API key"):
        nobody.get("/v1/vehicles")


def test_replay_takes_its_key_from_the_environment(
    guarded_service: ServiceProcess, keys_file: Path, vehicle: str, tmp_path: Path
) -> None:
    """`emberwatch replay` with EMBERWATCH_API_KEY; without it, exit code 2 and the service's words."""
    key = create(keys_file, "ingest")
    recording = tmp_path / "drive.csv"
    recording.write_text("ts,speed\n" + "".join(f"{sample(i)['ts']},{i}\n" for i in range(4)))
    options = ["--format", "csv", "--vehicle", vehicle, "--url", guarded_service.url, "--json"]
    command = [sys.executable, "-m", "service.cli", "replay", str(recording), *options]
    time.sleep(LOOK_AGAIN_S)
    environment = {**os.environ, "EMBERWATCH_API_KEY": key}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["applied"] == 4
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "send an API key" in refused.stderr
