"""Recordings (model/training/own_recordings.py: CSV and Parquet, a simulated fleet's too) as days, vehicle by vehicle.

Every cell is checked before; what cannot be used is refused with file, row and column. Repeated and late rows are not bad
data here: a logger's files have them, and the service has a verdict for them. They are dropped and counted.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.channels import SIGNALS, VAN_SCHEMA
from model.dataset import processes, run_all
from model.studies.capacity.day_sums import LONGITUDE, SIGNALS_USED, DayCourse
from model.studies.capacity.local_days import LocalClock, civil, nautical
from model.studies.capacity.risk_days import RiskCourse, RiskDay
from model.training.own_data import index_recordings, recording_files
from model.training.own_recordings import Part, read_part
from model.training.table_file import OwnDataError

logger = logging.getLogger(__name__)

Millis = NDArray[np.int64]
Singles = NDArray[np.float32]

WARM_UP_DAYS = 2  # the model was trained on sequences of 48 hours
FIRST = -1_000_000  # before every day
COLUMNS = [SIGNALS.index(name) for name in SIGNALS_USED]


@dataclass(frozen=True, slots=True)
class VehicleDays:
    """One vehicle's days as they were summed."""

    vehicle_id: str
    zone: str  # where its days begin
    days: NDArray[np.void]  # (n,) DAY_DTYPE
    charges: NDArray[np.void]  # (m,) CHARGE_DTYPE
    risk: dict[int, RiskDay]  # by day; empty when the model was not asked


def read_days(folder: Path, *, zone: str | None, risk_days: int | None, workers: int) -> list[VehicleDays]:
    """All vehicles of a folder, streamed.

    Args:
        folder: of recordings, as for `emberwatch train`.
        zone: IANA name of the zone in which days begin; None: each vehicle's nautical zone.
        risk_days: the last days of each vehicle that the product's model scores, beginning with a zero state
            WARM_UP_DAYS before them; None: all days, from the first sample.
        workers: processes.

    Raises:
        OwnDataError: cells that cannot be used, with file, row and column.
        ValueError: there is no such zone.
    """
    clock = None if zone is None else civil(zone)
    index = index_recordings(recording_files(folder), VAN_SCHEMA, workers=workers, in_order=False)
    if index.problems:
        raise OwnDataError(index.problems)
    if index.skipped:
        logger.info("%d rows without any value are skipped, as the service refuses such samples", index.skipped)
    vehicles = [parts for parts in index.parts.values() if sum(part.samples for part in parts)]
    with processes(min(workers, len(vehicles))) as pool:
        return run_all(pool, partial(vehicle_days, clock, risk_days), vehicles, "days")


def vehicle_days(clock: LocalClock | None, risk_days: int | None, parts: tuple[Part, ...]) -> VehicleDays:
    """One vehicle's days, from batch to batch of its files."""
    clock = clock or nautical(first_longitude(parts))
    course = DayCourse(clock)
    scored = None if risk_days == 0 else RiskCourse(clock)
    last_ms = max(part.last_ms for part in parts)
    shown_from = FIRST if risk_days is None else int(clock.days(np.array([last_ms]))[0]) - risk_days + 1
    finished = []
    for ts_ms, signals in samples(parts):
        finished.append(course.advance(ts_ms, signals[:, COLUMNS]))
        if scored is not None:
            due = clock.days(ts_ms) >= shown_from - WARM_UP_DAYS
            scored.advance(ts_ms[due], signals[due])
    finished.append(course.finish())
    return VehicleDays(
        vehicle_id=parts[0].vehicle_id,
        zone=clock.name,
        days=np.concatenate([part.days for part in finished]),
        charges=np.concatenate([part.charges for part in finished]),
        risk={} if scored is None else {day: r for day, r in scored.days().items() if day >= shown_from},
    )


def samples(parts: tuple[Part, ...]) -> Iterator[tuple[Millis, Singles]]:
    """Batches of one vehicle's files, in order."""
    for part in parts:
        yield from read_part(part, VAN_SCHEMA)


def first_longitude(parts: tuple[Part, ...]) -> float | None:
    """The median of the first batch with a fix; None without any."""
    for _, signals in samples(parts):
        known = signals[:, COLUMNS[LONGITUDE]]
        known = known[~np.isnan(known)]
        if len(known):
            return float(np.median(known))
    return None
