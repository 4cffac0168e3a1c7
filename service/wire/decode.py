"""A request's body as samples, whatever shape it came in: objects, lines or columns."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.channels import ChannelSchema
from service.errors import BodyTooLarge, InvalidColumns, UnreadableBody
from service.samples import FieldError, Samples
from service.wire.decode_columns import SignalTable, WireColumns, check_columns
from service.wire.decode_errors import RowErrors, short_name
from service.wire.decode_rows import columns_of_rows
from service.wire.plain_sample import PlainSample

COLUMNS = frozenset({"vehicle_id", "ts", "seq", "epoch"})  # beside the signals


@dataclass(frozen=True, slots=True)
class Decoded:
    """What a request holds.

    Attributes:
        n: rows of the request.
        samples: the readable ones, in order.
        rows: (len(samples),) where each stands in the request; None if every row is readable.
        errors: by row, why it is not readable.
    """

    n: int
    samples: Samples
    rows: NDArray[np.int64] | None
    errors: dict[int, tuple[FieldError, ...]]


class Decoder:
    """Reads samples with one checkpoint's signals.

    Raises:
        ValueError: a signal has the name of another column.
    """

    def __init__(self, schema: ChannelSchema, max_samples: int, max_vehicles: int) -> None:
        if clash := COLUMNS & set(schema.signal_names):
            raise ValueError(f"a signal cannot be called {', '.join(sorted(clash))}: that is another column's name")
        self.schema = schema
        self.max_samples = max_samples
        self.thread = ThreadPoolExecutor(1, "decode")  # starts with its first work
        self._max_vehicles = max_vehicles
        self._table = SignalTable.of(schema)
        self._plain = PlainSample(self._table)

    def one(self, data: dict[str, object], vehicle_id: str) -> Decoded:
        """One sample object of a vehicle."""
        plain = self._plain.read(data, vehicle_id)
        return self.rows([data], vehicle_id) if plain is None else Decoded(1, plain, None, {})

    def rows(self, rows: list[object], vehicle_id: str | None) -> Decoded:
        """Sample objects, each with its vehicle unless `vehicle_id` is given.

        Raises:
            BodyTooLarge: too many samples or vehicles.
        """
        self._check_count(len(rows))
        errors = RowErrors()
        return self._decoded(columns_of_rows(self._table, rows, vehicle_id, errors), errors)

    def columns(self, data: object, vehicle_id: str | None) -> Decoded:
        """Columns by name; without one for the vehicles if `vehicle_id` is given.

        Raises:
            InvalidColumns: a column is unknown, missing, no array, or of another length; nothing was read.
            BodyTooLarge: too many samples or vehicles.
        """
        if not isinstance(data, dict):
            raise UnreadableBody(f"columns is a JSON {json_kind(data)}; send an object of arrays")
        n = self._check_column_set(data, vehicle_id)
        self._check_count(n)
        signals = {name: column for name, column in data.items() if name not in COLUMNS}
        ids = data["vehicle_id"] if vehicle_id is None else vehicle_id
        return self._decoded(WireColumns(n, ids, data["ts"], data.get("seq"), data.get("epoch"), signals), RowErrors())

    def _check_column_set(self, data: Mapping[str, object], vehicle_id: str | None) -> int:
        """The number of rows."""
        needed = ("ts",) if vehicle_id is not None else ("vehicle_id", "ts")
        wrong = [(name, "is required") for name in needed if name not in data]
        n = len(ts) if isinstance(ts := data.get("ts"), list) else None
        for name, column in data.items():
            if name == "vehicle_id" and vehicle_id is not None:
                wrong.append((name, "the vehicle is in the path"))
            elif name not in COLUMNS and name not in self._table.wire:
                wrong.append((name, "unknown signal"))
            elif not isinstance(column, list):
                wrong.append((name, "must be an array"))
            elif n is not None and len(column) != n:
                wrong.append((name, f"has {len(column)} values, ts has {n}"))
        if wrong or n is None:
            raise InvalidColumns.of([(f"columns.{short_name(name)}", reason) for name, reason in wrong])
        return n

    def _check_count(self, n: int) -> None:
        if n > self.max_samples:
            raise BodyTooLarge(
                f"the request has {n} samples, the limit is {self.max_samples}", limit_samples=self.max_samples
            )

    def _decoded(self, columns: WireColumns, errors: RowErrors) -> Decoded:
        samples = check_columns(self._table, columns, errors)
        vehicles = 1 if isinstance(columns.vehicle_ids, str) else len(set(samples.vehicle_ids))
        if vehicles > self._max_vehicles:
            raise BodyTooLarge(
                f"the request has {vehicles} vehicles, the limit is {self._max_vehicles}",
                limit_vehicles=self._max_vehicles,
            )
        if not errors:
            return Decoded(columns.n, samples, None, {})
        good = np.array([row for row in range(columns.n) if row not in errors], np.int64)
        return Decoded(columns.n, samples.take(good), good, errors.by_row())


def json_kind(value: object) -> str:
    """What JSON calls it."""
    kinds = {dict: "object", list: "array", bool: "boolean", type(None): "null"}
    return kinds.get(type(value), "string" if isinstance(value, str) else "number")
