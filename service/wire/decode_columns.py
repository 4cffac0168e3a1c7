"""Checks whole columns at once: from plain lists of wire values to arrays, with field and reason for each bad row.

The checks of one sample and of thousands are the same code.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from model.channels import ChannelSchema
from service.samples import CURRENT_EPOCH, NO_SEQ, Samples
from service.wire.aliases import WireSignal, wire_signals
from service.wire.decode_errors import RowErrors
from service.wire.decode_times import REQUIRED, decode_times, integers, whole
from service.wire.json_body import NotFinite

VEHICLE_ID_PATTERN = r"^[A-Za-z0-9._:-]{1,64}$"
VEHICLE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}")
VEHICLE_IDS = re.compile(r"(?:[A-Za-z0-9._:-]{1,64}\n)*+")  # of a whole request, each ended by a newline
MAX_SEQ = 2**53 - 1  # JSON numbers are exact up to here
MAX_EPOCH = 2**32 - 1
NUMBERS = frozenset({int, float, type(None)})
ID_RULE = "must be letters, digits, . _ : - ; at most 64"


@dataclass(frozen=True, slots=True)
class WireColumns:
    """The rows of one request, each column a list of n values as they were parsed, None where absent.

    Attributes:
        n: rows.
        vehicle_ids: one per row, or the one vehicle that all rows are of.
        ts: one per row.
        seq, epoch: one per row, or None if no row has any.
        signals: by the name under which they were sent; every name is known to the decoder.
    """

    n: int
    vehicle_ids: list[object] | str
    ts: list[object]
    seq: list[object] | None
    epoch: list[object] | None
    signals: Mapping[str, list[object]]


@dataclass(frozen=True, slots=True)
class SignalTable:
    """The signals of one checkpoint as arrays, and the names they go by.

    Attributes:
        names: wire order.
        units: of each.
        minimum, maximum: (n_signals,) accepted range.
        wire: every accepted name.
        latitude, longitude: their places, or None if the schema has no positions.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    minimum: NDArray[np.float64]
    maximum: NDArray[np.float64]
    wire: Mapping[str, WireSignal]
    latitude: int | None
    longitude: int | None

    @staticmethod
    def of(schema: ChannelSchema) -> "SignalTable":
        """The table of a checkpoint's schema."""
        names = schema.signal_names
        place = {name: i for i, name in enumerate(names)}
        paired = {"latitude", "longitude"} <= place.keys()
        return SignalTable(
            names,
            tuple(signal.unit for signal in schema.signals),
            np.array([signal.minimum for signal in schema.signals], np.float64),
            np.array([signal.maximum for signal in schema.signals], np.float64),
            wire_signals(schema),
            place["latitude"] if paired else None,
            place["longitude"] if paired else None,
        )


def check_columns(table: SignalTable, columns: WireColumns, errors: RowErrors) -> Samples:
    """All rows as samples; what is found wrong is added to `errors`, and such rows hold nothing of use."""
    n = columns.n
    one = columns.vehicle_ids
    ids = [one] * n if isinstance(one, str) else check_ids(one, errors)
    ts_ms = decode_times(columns.ts, errors)
    seq = check_integers(columns.seq, n, "seq", 0, MAX_SEQ, NO_SEQ, errors)
    epoch = check_integers(columns.epoch, n, "epoch", 1, MAX_EPOCH, CURRENT_EPOCH, errors)
    return Samples.of(ids, ts_ms, seq, epoch, check_signals(table, columns.signals, n, errors))


def check_ids(column: list[object], errors: RowErrors) -> list[str]:
    """Vehicle ids; one match for the whole column where all are well."""
    try:
        joined = "\n".join(column) + "\n"  # type: ignore[arg-type]  # raises where one is no string
    except TypeError:
        joined = ""
    # An id that holds a newline would pass as two; the count tells. NotFinite is a string too, but no other is.
    if joined.count("\n") == len(column) and VEHICLE_IDS.fullmatch(joined) and set(map(type, column)) == {str}:
        return column  # type: ignore[return-value]
    ids = []
    for row, value in enumerate(column):
        good = type(value) is str and VEHICLE_ID.fullmatch(value) is not None
        if not good:
            errors.add(row, "vehicle_id", REQUIRED if value is None else ID_RULE)
        ids.append(value if good else "")
    return ids  # type: ignore[return-value]


def check_integers(
    column: list[object] | None, n: int, field: str, low: int, high: int, absent: int, errors: RowErrors
) -> NDArray[np.int64]:
    """(n,) int64 within [low, high]; `absent` where there is none and where it is refused."""
    if column is None:
        return filled(n, absent)
    values = integers(column) if set(map(type, column)) == {int} else None
    # count_nonzero, here and below: on one row it takes a fifth of the time of any().
    if values is not None and not np.count_nonzero((values < low) | (values > high)):
        return values
    read = []
    for row, value in enumerate(column):
        number = whole(value)
        good = number is not None and low <= number <= high
        if not good and value is not None:
            errors.add(row, field, integer_rule(number, low, high))
        read.append(number if good else absent)
    return np.array(read, np.int64)


def filled(n: int, value: int) -> NDArray[np.int64]:
    """(n,) of one value."""
    column = np.empty(n, np.int64)
    column.fill(value)
    return column


def integer_rule(value: int | None, low: int, high: int) -> str:
    """Why this is not an integer within [low, high]; None: it is none at all."""
    if value is None:
        return "must be an integer"
    return f"must be {'at least' if value < low else 'at most'} {low if value < low else high}"


def check_signals(
    table: SignalTable, columns: Mapping[str, list[object]], n: int, errors: RowErrors
) -> NDArray[np.float64]:
    """(n, n_signals) float64 in the schema's order and units, NaN where absent."""
    names = list(columns)
    lists = list(columns.values())
    signals = np.empty((n, len(table.names)))
    signals.fill(np.nan)
    unread: NDArray[np.bool_] | None = None
    if not NUMBERS.issuperset(map(type, chain.from_iterable(lists))):
        lists, unread = refuse_other_kinds(names, lists, n, errors)
    if names:
        sent = np.array(lists, np.float64).reshape(len(names), n)
        wire = [table.wire[name] for name in names]
        if any(signal.factor != 1.0 for signal in wire):
            sent *= np.array([[signal.factor] for signal in wire])
        places = [signal.place for signal in wire]
        if len(set(places)) == len(places):
            signals[:, places] = sent.T
        else:
            merge_names(table, names, sent, signals, errors)
    check_ranges(table, columns, signals, errors)
    check_presence(table, signals, unread, errors)
    return signals


def refuse_other_kinds(
    names: list[str], lists: list[list[object]], n: int, errors: RowErrors
) -> tuple[list[list[object]], NDArray[np.bool_]]:
    """The lists with None in place of what is no number, and which rows had such."""
    unread = np.zeros(n, np.bool_)
    clean = []
    for name, column in zip(names, lists, strict=True):
        for row, value in enumerate(column):
            if type(value) not in NUMBERS:
                errors.add(row, f"signals.{name}", f"must be a {'finite ' if type(value) is NotFinite else ''}number")
                unread[row] = True
        clean.append([value if type(value) in NUMBERS else None for value in column])
    return clean, unread


def merge_names(
    table: SignalTable,
    names: list[str],
    sent: NDArray[np.float64],
    signals: NDArray[np.float64],
    errors: RowErrors,
) -> None:
    """Several names of one signal: each row may use one of them. `sent`: (n_names, n) in our units."""
    first: dict[int, list[int]] = {}
    for at, name in enumerate(names):
        first.setdefault(table.wire[name].place, []).append(at)
    for place, spellings in first.items():
        for at in spellings:
            present = ~np.isnan(sent[at])
            for row in np.flatnonzero(present & ~np.isnan(signals[:, place])).tolist():
                other = next(names[k] for k in spellings if not np.isnan(sent[k, row]))
                errors.add(
                    row, f"signals.{names[at]}", f"is another name of {table.names[place]}, which {other} gives already"
                )
            signals[present, place] = sent[at, present]


def check_ranges(
    table: SignalTable, columns: Mapping[str, list[object]], signals: NDArray[np.float64], errors: RowErrors
) -> None:
    """Values outside the schema's range, by the name under which they were sent."""
    low, high = signals < table.minimum, signals > table.maximum
    outside = low | high
    if not np.count_nonzero(outside):
        return
    for row, place in np.argwhere(outside).tolist():
        name, own = sent_as(table, columns, row, place), table.names[place]
        bound = table.minimum[place] if low[row, place] else table.maximum[place]
        rule = f"must be {'at least' if low[row, place] else 'at most'} {bound:g} {table.units[place]}"
        errors.add(row, f"signals.{name}", rule if name == own else f"{rule} as {own}, is {signals[row, place]:g}")


def sent_as(table: SignalTable, columns: Mapping[str, list[object]], row: int, place: int) -> str:
    """The name under which this row gave this signal."""
    spellings = (name for name in columns if table.wire[name].place == place)
    return next((name for name in spellings if columns[name][row] is not None), table.names[place])


def check_presence(
    table: SignalTable, signals: NDArray[np.float64], unread: NDArray[np.bool_] | None, errors: RowErrors
) -> None:
    """A fix has both coordinates or neither; an empty sample says nothing. `unread`: rows that were refused for a value."""
    absent = np.isnan(signals)
    empty = np.logical_and.reduce(absent, axis=1)
    if table.latitude is not None and table.longitude is not None:
        alone = absent[:, table.latitude] != absent[:, table.longitude]
        if np.count_nonzero(alone):
            for row in kept(alone, unread):
                missing = "latitude" if absent[row, table.latitude] else "longitude"
                errors.add_once(
                    row, "signals", f"{missing} is missing: latitude and longitude come together or not at all"
                )
    if np.count_nonzero(empty):
        for row in kept(empty, unread):
            errors.add_once(row, "signals", "no signal has a value")


def kept(rows: NDArray[np.bool_], unread: NDArray[np.bool_] | None) -> list[int]:
    """The rows meant, less those whose value was there but refused."""
    return np.flatnonzero(rows if unread is None else rows & ~unread).tolist()
