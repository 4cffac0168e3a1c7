"""A user's own recordings as a source of traces: checked as a whole first, then read vehicle by vehicle on demand.

A file holds one vehicle, whose id is the file's name, or has a column `vehicle_id` and holds any number of them.
What is kept is an index: of each vehicle, its files and rows. docs/training.md describes the files.
"""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.channels import ChannelSchema
from model.dataset import processes, run_all
from model.training.own_events import Event, read_events
from model.training.own_files import Bools, Millis, iso
from model.training.own_recordings import Part, check_file, read_part
from model.training.table_file import OwnDataError, is_table

logger = logging.getLogger(__name__)

HORIZON_MS = 7_200_000  # a label says whether an event starts within so long
VALIDATION_SHARE = 0.2  # of the vehicles


@dataclass(frozen=True, slots=True)
class RecordedVehicle:
    """Where one vehicle's samples are, and its events."""

    vehicle_id: str
    parts: tuple[Part, ...]  # in order of time
    events: tuple[Event, ...]  # in order of time

    @property
    def samples(self) -> int:
        """Rows with a value."""
        return sum(part.samples for part in self.parts)

    @property
    def warned_events(self) -> tuple[Event, ...]:
        """Events that start within the recording, or so soon after it that its last samples come before them."""
        first_ms, last_ms = self.parts[0].first_ms, self.parts[-1].last_ms
        return tuple(event for event in self.events if first_ms < event.start_ms <= last_ms + HORIZON_MS)


@dataclass(frozen=True, slots=True)
class RecordedTrace:
    """One vehicle's samples with labels from its events; see `model.dataset.Trace`."""

    vehicle_id: str
    ts_ms: Millis  # (L,)
    signals: NDArray[np.float32]  # (L, n_signals), NaN when absent
    label: Bools  # (L,)
    valid: Bools  # (L,)
    events_ms: Millis  # (n_events,)
    fault: str = ""


@dataclass(frozen=True, slots=True)
class RecordedFleet:
    """Recordings as a `model.dataset.TraceSource`; only the index travels between processes."""

    schema: ChannelSchema
    vehicles: tuple[RecordedVehicle, ...]

    def __len__(self) -> int:
        return len(self.vehicles)

    @property
    def max_length(self) -> int:
        """Samples of the vehicle that has most."""
        return max(vehicle.samples for vehicle in self.vehicles)

    def trace(self, index: int) -> RecordedTrace:
        """Read vehicle number `index`.

        Raises:
            OwnDataError: a file is no longer what was checked.
        """
        vehicle = self.vehicles[index]
        pieces = [piece for part in vehicle.parts for piece in read_part(part, self.schema)]
        ts_ms = np.concatenate([ts for ts, _ in pieces])
        label, valid = label_instants(ts_ms, vehicle.events)
        signals = np.concatenate([signals for _, signals in pieces])
        starts = np.array([event.start_ms for event in vehicle.events], np.int64)
        return RecordedTrace(vehicle.vehicle_id, ts_ms, signals, label, valid, starts)


def label_instants(ts_ms: Millis, events: Sequence[Event]) -> tuple[Bools, Bools]:
    """(label, valid), each (L,): an event starts within (t, t + 2 h]; none is going on.

    Args:
        ts_ms: (L,) epoch milliseconds.
        events: of this vehicle, in order, without overlap.
    """
    starts = np.array([event.start_ms for event in events] + [np.iinfo(np.int64).max // 2])
    ends = np.array([event.end_ms for event in events] + [0])
    following = np.searchsorted(starts, ts_ms, side="right")
    ongoing = (following > 0) & (ts_ms < ends[following - 1])
    return starts[following] - ts_ms <= HORIZON_MS, ~ongoing


@dataclass(frozen=True, slots=True)
class Index:
    """What a folder of recordings holds, every cell checked."""

    parts: Mapping[str, tuple[Part, ...]]  # by vehicle, in order of time; none where the files have only problems
    problems: tuple[str, ...]
    skipped: int  # rows without any value


def index_recordings(paths: Sequence[Path], schema: ChannelSchema, *, workers: int = 1, in_order: bool = True) -> Index:
    """Check these files and find each vehicle's rows in them.

    Args:
        paths: the files.
        schema: the signals that they may have.
        workers: processes that check files side by side.
        in_order: rows of a vehicle whose time does not rise are problems, and so are files that overlap.
    """
    with processes(min(workers, len(paths))) as pool:
        files = run_all(pool, partial(check_file, schema, in_order=in_order), paths, "checking recordings")
    problems = [problem for file in files for problem in file.problems]
    parts: dict[str, list[Part]] = {name: [] for file in files for name in file.vehicle_ids}
    for file in files:
        for part in file.parts:
            parts[part.vehicle_id].append(part)
    for pieces in parts.values():
        pieces.sort(key=lambda part: (part.first_ms, part.path))
        if in_order:
            problems += [overlap(a, b) for a, b in pairwise(pieces) if b.first_ms <= a.last_ms]
    by_vehicle = {name: tuple(parts[name]) for name in sorted(parts)}
    return Index(by_vehicle, tuple(problems), sum(file.skipped for file in files))


def open_fleet(folder: Path, events: Path, schema: ChannelSchema, *, workers: int = 1) -> RecordedFleet:
    """Check all recordings and events, and index them.

    Args:
        folder: of recordings.
        events: file of events.
        schema: the signals that the recordings may have.
        workers: processes that check files side by side.

    Raises:
        OwnDataError: with every problem that was found (the first ten in its message).
    """
    index = index_recordings(recording_files(folder, events), schema, workers=workers)
    problems = list(index.problems)
    listed: dict[str, tuple[Event, ...]] = {}
    try:
        listed = read_events(events, index.parts)
    except OwnDataError as error:
        problems += error.problems
    if problems:
        raise OwnDataError(problems)
    vehicles = tuple(RecordedVehicle(name, parts, listed.get(name, ())) for name, parts in index.parts.items())
    fleet = RecordedFleet(schema, tuple(vehicle for vehicle in vehicles if vehicle.samples))
    report(fleet, index.skipped)
    return fleet


def report(fleet: RecordedFleet, skipped: int) -> None:
    """Log what was found."""
    samples = sum(vehicle.samples for vehicle in fleet.vehicles)
    events = sum(len(vehicle.events) for vehicle in fleet.vehicles)
    warned = sum(len(vehicle.warned_events) for vehicle in fleet.vehicles)
    logger.info("%d vehicles, %d samples, %d events", len(fleet), samples, events)
    if skipped:
        logger.info("%d rows without any value are skipped, as the service refuses such samples", skipped)
    if warned < events:
        logger.warning("%d events have no samples before them and teach nothing", events - warned)


def recording_files(folder: Path, *apart: Path) -> list[Path]:
    """The files to read, by name, without those `apart`; others are named in the log.

    Raises:
        OwnDataError: there is no such folder, or no file to read in it.
    """
    if not folder.is_dir():
        raise OwnDataError([f"{folder} is not a folder"])
    besides = {path.resolve() for path in apart}
    entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    paths = [path for path in entries if path.is_file() and is_table(path) and path.resolve() not in besides]
    others = [path.name for path in entries if path not in paths]
    if not paths:
        raise OwnDataError([f"{folder} holds no file named *.csv, *.csv.gz or *.parquet"])
    if others:
        logger.warning("not read in %s: %s", folder, ", ".join(others))
    return paths


def overlap(a: Part, b: Part) -> str:
    """Two files that tell of the same time of one vehicle."""
    return f"{b.path}: {b.vehicle_id} starts at {iso(b.first_ms)}, before its end in {a.path} at {iso(a.last_ms)}"


def split(fleet: RecordedFleet) -> tuple[RecordedFleet, RecordedFleet]:
    """Training and validation vehicles, by a hash of their ids, so that a vehicle stays where it is as others come.

    If one part would have no vehicle with an event, or none at all, the vehicle with an event whose hash lies nearest
    to the boundary changes sides.

    Raises:
        OwnDataError: fewer than two vehicles have an event with samples before it.
    """
    ranked = sorted(fleet.vehicles, key=lambda vehicle: hash_share(vehicle.vehicle_id))
    with_event = [vehicle for vehicle in ranked if vehicle.warned_events]
    if len(with_event) < 2:
        raise OwnDataError([too_few(fleet, with_event)])
    held_back = {v.vehicle_id for v in ranked if hash_share(v.vehicle_id) < VALIDATION_SHARE}
    if not any(vehicle.vehicle_id in held_back for vehicle in with_event):
        held_back.add(with_event[0].vehicle_id)
    if all(vehicle.vehicle_id in held_back for vehicle in with_event):
        held_back.remove(with_event[-1].vehicle_id)
    parts = ([v for v in fleet.vehicles if (v.vehicle_id in held_back) == held] for held in (False, True))
    train, validation = (RecordedFleet(fleet.schema, tuple(part)) for part in parts)
    logger.info("%d vehicles to train on, %d to validate on", len(train), len(validation))
    return train, validation


def hash_share(vehicle_id: str) -> float:
    """A number in [0, 1) that is the same for this id everywhere and for ever."""
    return int.from_bytes(hashlib.sha256(vehicle_id.encode()).digest()[:8], "big") / 2**64


def too_few(fleet: RecordedFleet, with_event: Sequence[RecordedVehicle]) -> str:
    """Why there is nothing to learn or to judge by."""
    need = "training and validation need one vehicle each that has an event with samples in the two hours before it"
    if with_event:
        return f"{need}; only {with_event[0].vehicle_id} of {len(fleet)} vehicles has one"
    starts = [event.start_ms for vehicle in fleet.vehicles for event in vehicle.events]
    parts = [part for vehicle in fleet.vehicles for part in vehicle.parts]
    recorded = f"{iso(min(p.first_ms for p in parts))} to {iso(max(p.last_ms for p in parts))}"
    return f"{need}; events start from {iso(min(starts))} to {iso(max(starts))}, recordings run from {recorded}"
