"""Vehicles from a running service into files and back, over HTTP."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from time import sleep
from typing import Any, TypeVar
from urllib.parse import quote

from service.client import RETRY_DELAYS_S, Client, ClientError, Refused, Unavailable
from service.records.vehicle_export import MEDIA_TYPE, ExportError, unpack_export

SUFFIX = ".ewv"
CONNECTIONS = 4  # requests under way at once
PAGE = 1_000

Result = TypeVar("Result")
Advance = Callable[[], None]


class NoFiles(ClientError):
    """There is nothing to import where the caller points."""


@dataclass(slots=True)
class Moved:
    """What became of the vehicles.

    Attributes:
        done: ids that were written or imported.
        skipped: ids that have no state to export, with the reason.
        refused: files or ids that could not be moved, with the reason.
        n_bytes: of all that were moved.
    """

    done: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    n_bytes: int = 0

    def to_json(self, verb: str) -> dict[str, Any]:
        """For a report."""
        return {
            verb: len(self.done),
            "bytes": self.n_bytes,
            "skipped": [{"vehicle_id": name, "reason": why} for name, why in self.skipped.items()],
            "refused": [{"what": name, "reason": why} for name, why in self.refused.items()],
        }


def listed_vehicles(client: Client) -> list[str]:
    """Ids of all vehicles that the service knows. Raises ClientError."""
    found: dict[str, None] = {}  # a vehicle whose risk changes may be on two pages
    cursor = ""
    while True:
        page = patiently(client.get, f"/v1/vehicles?limit={PAGE}{cursor}")
        found |= dict.fromkeys(vehicle["vehicle_id"] for vehicle in page["vehicles"])
        if page["next_cursor"] is None:
            return list(found)
        cursor = f"&cursor={quote(page['next_cursor'], safe='')}"


def export_vehicles(client: Client, vehicle_ids: Iterable[str], folder: Path, advance: Advance) -> Moved:
    """Write each vehicle to a file of its own; a file is there in full or not at all.

    Raises:
        Unavailable: the service cannot be reached any more.
        OSError: a file cannot be written.
    """
    moved = Moved()
    folder.mkdir(parents=True, exist_ok=True)

    def fetch(vehicle_id: str) -> tuple[str, bytes | Refused]:
        try:
            return vehicle_id, patiently(client.content, state_path(vehicle_id))
        except Refused as error:
            return vehicle_id, error

    for vehicle_id, data in in_parallel(fetch, vehicle_ids):
        if isinstance(data, Refused):
            (moved.skipped if data.status == 404 else moved.refused)[vehicle_id] = str(data)
        else:
            write_whole(folder / file_name(vehicle_id), data)
            moved.done.append(vehicle_id)
            moved.n_bytes += len(data)
        advance()
    return moved


def import_files(client: Client, files: Iterable[Path], advance: Advance, *, replace: bool) -> Moved:
    """Put each file's vehicle into the service, as it is in the file.

    Args:
        client: of the service.
        files: as `export_vehicles` writes them.
        advance: called after each.
        replace: also where the vehicle is further in the service than in the file.

    Raises:
        Unavailable: the service cannot be reached any more.
    """
    moved = Moved()
    headers = {"Content-Type": MEDIA_TYPE} | ({"If-Match": "*"} if replace else {})
    fresh = {"Content-Type": MEDIA_TYPE}

    def put(file: Path) -> tuple[Path, int, str | Exception]:
        try:
            data = file.read_bytes()
            vehicle_id = unpack_export(data).vehicle_id
            path = state_path(vehicle_id)
            try:
                patiently(client.put, path, data, headers)
            except Refused as error:
                if not replace or error.status != 412:
                    raise
                patiently(client.put, path, data, fresh)  # there is none to replace
        except (OSError, ExportError, Refused) as error:
            return file, 0, error
        return file, len(data), vehicle_id

    for file, size, outcome in in_parallel(put, files):
        if isinstance(outcome, Exception):
            moved.refused[str(file)] = str(outcome)
        else:
            moved.done.append(outcome)
            moved.n_bytes += size
        advance()
    return moved


def files_in(paths: Iterable[Path]) -> list[Path]:
    """These files, and those in these folders. Raises NoFiles if there is none."""
    found = [file for path in paths for file in (sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path])]
    if not found:
        raise NoFiles(f"there is no file *{SUFFIX} to import")
    return found


def state_path(vehicle_id: str) -> str:
    """Where the service has a vehicle's state."""
    return f"/v1/vehicles/{quote(vehicle_id, safe='')}/state"


def file_name(vehicle_id: str) -> str:
    """A name that every file system takes."""
    return quote(vehicle_id, safe="") + SUFFIX


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under another name and move it into its place."""
    unfinished = path.with_name(path.name + ".unfinished")
    with unfinished.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def patiently(call: Callable[..., Result], *arguments: Any) -> Result:
    """Call again while the service asks for patience. Raises Unavailable when it does so for too long."""
    for delay in RETRY_DELAYS_S:
        try:
            return call(*arguments)
        except Unavailable:
            sleep(delay)
    return call(*arguments)


def in_parallel(work: Callable[[Any], Result], items: Iterable[Any]) -> Iterator[Result]:
    """Results in order, a few items ahead of the consumer; what is under way is finished when one fails."""
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        futures = []
        for item in items:
            futures.append(pool.submit(work, item))
            if len(futures) >= 2 * CONNECTIONS:
                yield futures.pop(0).result()
        for future in futures:
            yield future.result()
