"""API keys: what they look like, the file that holds their hashes, and who a request's key is.

A key is `ew_<id>_<secret>`: the id is public and finds the record, the secret is 256 random bits. Only a BLAKE2b hash of the
secret is stored. A slow hash (scrypt, Argon2) protects passwords that can be guessed; 256 random bits cannot, however
fast the hash, and a slow one would let anybody spend our processor with wrong keys.
"""

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

logger = structlog.get_logger(__name__)

SCOPES = ("ingest", "read", "admin")
ADMIN = "admin"  # may do everything
KEY = re.compile(r"ew_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
HASH = re.compile(r"[0-9a-f]{64}")
FILE_VERSION = 1
LOOK_AGAIN_S = 1.0  # a change of the file is noticed within this time
NOBODY = "0" * 64


class KeysFileError(ValueError):
    """The key file cannot be used; says why."""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key as it is stored.

    Attributes:
        id: public part of the key.
        name: whose it is.
        scopes: a subset of SCOPES.
        created: RFC 3339 time.
        hash: BLAKE2b-256 of the secret, hexadecimal.
    """

    id: str
    name: str
    scopes: tuple[str, ...]
    created: str
    hash: str

    def may(self, scope: str) -> bool:
        """Whether the key has this scope; `admin` has all."""
        return scope in self.scopes or ADMIN in self.scopes


def new_key(name: str, scopes: tuple[str, ...]) -> tuple[ApiKey, str]:
    """A key and its text, which is shown once and stored nowhere."""
    identity, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    created = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return ApiKey(identity, name, scopes, created, hash_secret(secret)), f"ew_{identity}_{secret}"


def hash_secret(secret: str) -> str:
    """BLAKE2b-256, hexadecimal."""
    return hashlib.blake2b(secret.encode(), digest_size=32, person=b"emberwatch key").hexdigest()


def identify(keys: dict[str, ApiKey], text: str) -> ApiKey | None:
    """Whose key this is. Compares in constant time, and also where there is nothing to compare with."""
    parts = KEY.fullmatch(text)
    identity, secret = parts.groups() if parts else ("", "")
    known = keys.get(identity)
    same = hmac.compare_digest(hash_secret(secret), known.hash if known else NOBODY)
    return known if same else None


def read_keys(path: Path) -> dict[str, ApiKey]:
    """The keys of a file by id.

    Raises:
        KeysFileError: it cannot be read, or holds anything but keys.
    """
    try:
        data = json.loads(path.read_text())
        if data["version"] != FILE_VERSION:
            raise KeysFileError(f"{path}: version is {data['version']}, this service reads {FILE_VERSION}")
        keys = [ApiKey(**record | {"scopes": tuple(record["scopes"])}) for record in data["keys"]]
    except OSError as error:
        raise KeysFileError(f"{path}: {error.strerror}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, KeysFileError):
            raise
        raise KeysFileError(f"{path} is not a key file: {type(error).__name__}: {error}") from error
    for key in keys:
        if not (isinstance(key.hash, str) and HASH.fullmatch(key.hash)) or not set(key.scopes) <= set(SCOPES):
            raise KeysFileError(f"{path}: key {key.id!r} has a bad hash or an unknown scope")
    return {key.id: key for key in keys}


@contextmanager
def edit_keys(path: Path) -> Iterator[dict[str, ApiKey]]:
    """The keys of a file, which is replaced at the end by what became of them; one editor at a time.

    Raises:
        KeysFileError: the file is there but cannot be used.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        keys = read_keys(path) if path.exists() else {}
        yield keys
        write_keys(path, keys)


def write_keys(path: Path, keys: dict[str, ApiKey]) -> None:
    """Replace the file in one step, readable by its owner only: a service that reads meanwhile sees the old or the new."""
    data: dict[str, Any] = {"version": FILE_VERSION, "keys": [asdict(key) for key in keys.values()]}
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    with os.fdopen(descriptor, "w") as file:
        json.dump(data, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)


class KeyRing:
    """The keys in force: those of a file, read again when it changes.

    A file that turns bad, or vanishes, leaves the last good keys in force and is said in the log and counted.

    Raises:
        KeysFileError: at the start there is no good file.
    """

    def __init__(
        self, path: Path, on_bad_file: Callable[[], None], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._on_bad_file = on_bad_file
        self._clock = clock
        self._seen = file_version(path)
        self._keys = read_keys(path)
        self._look_at = clock() + LOOK_AGAIN_S

    def identify(self, text: str) -> ApiKey | None:
        """Whose key this is, by the file as it is now or was a second ago."""
        if self._clock() >= self._look_at:
            self._look()
        return identify(self._keys, text)

    def _look(self) -> None:
        self._look_at = self._clock() + LOOK_AGAIN_S
        version = file_version(self._path)
        if version == self._seen:
            return
        self._seen = version
        try:
            self._keys = read_keys(self._path)
        except KeysFileError as error:
            self._on_bad_file()
            logger.error("the key file is bad, the old keys stay in force", reason=str(error), keys=len(self._keys))  # noqa: TRY400
        else:
            logger.info("keys read again", keys=len(self._keys))


def file_version(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file does; None if it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
