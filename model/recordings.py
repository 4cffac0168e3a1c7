"""Telemetry logs from files, as wire signals in our units.

    format   origin                       what is assumed
    leafspy  LeafSpy Pro CSV              Speed in mph and Elv in feet (both agree with GPS and map for an imperial
                                          setting); `Motor Temp` is degC + 40 (its neighbours read 40 when absent);
                                          SOC in 1e-4 %; amps positive on discharge; hottest of the four thermistors
    bmw-i3   TU Munich driving cycles     seconds from the start; current negative on discharge, as recorded
    csv      our own                      columns `ts` and wire signals by name; empty is absent
    parquet  our own                      as csv; needs the `train` extra

Recordings have no sample numbers: the row number (from 0) is the seq. Files may be gzipped.
"""

import csv
import gzip
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.channels import SIGNALS

# Trips of the BMW set carry no date; this one only has to be the same every time.
BMW_START_MS = 1_577_836_800_000  # 2020-01-01T00:00:00Z
METRES_PER_FOOT = 0.3048
METRES_PER_SECOND_PER_MPH = 0.44704

Row = Mapping[str, str]


class RecordingError(ValueError):
    """A file that cannot be read; the message gives file, row and column."""


@dataclass(frozen=True, slots=True)
class Recording:
    """One vehicle's log."""

    ts_ms: NDArray[np.int64]  # (length,) epoch milliseconds
    signals: NDArray[np.float64]  # (length, n_signals) in wire order, NaN when absent


@dataclass(frozen=True, slots=True)
class RowFormat:
    """How one kind of row becomes a timestamp and signals; each field reads its columns."""

    ts_ms: tuple[str, Callable[[str], int]]
    signals: Mapping[str, tuple[str, Callable[[str], float]]]


def number(text: str) -> float:
    """A float; empty or 'none' is absent (NaN)."""
    return math.nan if text.strip().lower() in {"", "none"} else float(text)


def scaled(factor: float, offset: float = 0.0) -> Callable[[str], float]:
    """A float times `factor` plus `offset`."""
    return lambda text: number(text) * factor + offset


def degrees_minutes(text: str) -> float:
    """`-117 25.75793` (degrees, decimal minutes) as decimal degrees."""
    degrees, minutes = text.split()
    return math.copysign(abs(float(degrees)) + float(minutes) / 60.0, -1.0 if degrees.startswith("-") else 1.0)


def fahrenheit(text: str) -> float:
    """Degrees Fahrenheit as Celsius."""
    return (number(text) - 32.0) / 1.8


def time_ms(text: str) -> int:
    """RFC 3339 with a zone, or epoch milliseconds."""
    if text.isdigit():
        return int(text)
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return round(moment.timestamp() * 1000)


LEAFSPY = RowFormat(
    ts_ms=("epoch time", lambda text: round(float(text) * 1000)),
    signals={
        "latitude": ("Lat", degrees_minutes),
        "longitude": ("Long", degrees_minutes),
        "altitude": ("Elv", scaled(METRES_PER_FOOT)),
        "speed": ("Speed", scaled(METRES_PER_SECOND_PER_MPH)),
        "state_of_charge": ("SOC", scaled(1e-4)),
        "motor_temperature": ("Motor Temp", scaled(1.0, -40.0)),
        "pack_current": ("Pack Amps", number),
        "pack_temperature": ("hottest thermistor", number),
        "ambient_temperature": ("Ambient", fahrenheit),
    },
)
LEAFSPY_THERMISTORS = ("Pack T1 C", "Pack T2 C", "Pack T3 C", "Pack T4 C")

BMW_I3 = RowFormat(
    ts_ms=("time_s", lambda text: BMW_START_MS + round(float(text) * 1000)),
    signals={
        "altitude": ("elevation_m", number),
        "speed": ("speed_kmh", scaled(1.0 / 3.6)),
        "state_of_charge": ("state_of_charge_pct", number),
        "pack_current": ("pack_current_a", scaled(-1.0)),
        "pack_temperature": ("pack_temperature_max_c", number),
        "ambient_temperature": ("ambient_temperature_c", number),
    },
)

OURS = RowFormat(ts_ms=("ts", time_ms), signals={name: (name, number) for name in SIGNALS})

FORMATS = ("leafspy", "bmw-i3", "csv", "parquet")


def read_recording(path: Path, form: str) -> Recording:
    """Read a whole log.

    Raises:
        RecordingError: unknown format, missing file or column, or a value that is not what its column holds.
    """
    if form not in FORMATS:
        raise RecordingError(f"format must be one of {', '.join(FORMATS)}, got {form!r}")
    if not path.is_file():
        raise RecordingError(f"{path} is not a file")
    if form == "parquet":
        return convert(path, parquet_rows(path), OURS)
    try:
        if form == "leafspy":
            return convert(path, (with_hottest(row) for row in csv_rows(path)), LEAFSPY)
        return convert(path, csv_rows(path), BMW_I3 if form == "bmw-i3" else OURS)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise RecordingError(f"{path} cannot be read: {error}") from error


def csv_rows(path: Path) -> Iterator[Row]:
    """Rows by column name, from plain or gzipped text."""
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file, restval="")


def parquet_rows(path: Path) -> Iterator[Row]:
    """Rows by column name as text, so that both formats share one conversion."""
    try:
        import pyarrow.parquet as pq  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise RecordingError("reading parquet needs pyarrow: pip install 'emberwatch[train]'") from error
    for batch in pq.ParquetFile(path).iter_batches():
        for row in batch.to_pylist():
            yield {name: "" if value is None else str(value) for name, value in row.items()}


def with_hottest(row: Row) -> Row:
    """The row with a column for the hottest of the thermistors that are fitted."""
    readings = [number(row.get(name, "")) for name in LEAFSPY_THERMISTORS]
    fitted = [reading for reading in readings if not math.isnan(reading)]
    return {**row, "hottest thermistor": str(max(fitted)) if fitted else ""}


def convert(path: Path, rows: Iterator[Row], form: RowFormat) -> Recording:
    """Rows into arrays, with a name for whatever cannot be converted."""
    ts_ms: list[int] = []
    signals: list[list[float]] = []
    for number_of_row, row in enumerate(rows):
        if number_of_row == 0:
            check_columns(path, row, form)

        def read(column: str, parse: Callable[[str], float], row: Row = row, n: int = number_of_row) -> float:
            try:
                return parse(row[column])
            except (ValueError, TypeError) as error:
                raise RecordingError(f"{path}, row {n}, column {column!r}: {row[column]!r}: {error}") from error

        ts_ms.append(int(read(*form.ts_ms)))
        known = {name: read(*field) for name, field in form.signals.items() if field[0] in row}
        signals.append([known.get(name, math.nan) for name in SIGNALS])
    if not ts_ms:
        raise RecordingError(f"{path} has no rows")
    return Recording(np.array(ts_ms, np.int64), np.array(signals))


def check_columns(path: Path, row: Row, form: RowFormat) -> None:
    """A foreign file has all the columns of its format; ours has `ts` and at least one signal."""
    wanted = [form.ts_ms[0], *(column for column, _ in form.signals.values())]
    missing = [column for column in wanted if column not in row]
    if form is OURS:
        unknown = sorted(set(row) - {"ts", *SIGNALS})
        if unknown:
            raise RecordingError(f"{path}: unknown columns {', '.join(unknown)}; known are ts, {', '.join(SIGNALS)}")
        missing = [] if "ts" in row and len(missing) < len(SIGNALS) else ["ts and at least one signal"]
    if missing:
        raise RecordingError(f"{path}: missing columns {', '.join(missing)}")
