"""Sample objects turned into columns; what has not the shape of a sample gets its error here."""

from typing import Any

from service.wire.decode_columns import SignalTable, WireColumns
from service.wire.decode_errors import RowErrors, short_name
from service.wire.json_body import Unparsed

SAMPLE_FIELDS = frozenset({"ts", "seq", "epoch", "signals"})
FLEET_FIELDS = SAMPLE_FIELDS | {"vehicle_id"}
NOTHING: dict[str, Any] = {}


def columns_of_rows(table: SignalTable, rows: list[object], vehicle_id: str | None, errors: RowErrors) -> WireColumns:
    """The columns of these objects. Rows that are no objects have None everywhere, and one error that says so.

    Args:
        table: the signals that are known.
        rows: as parsed.
        vehicle_id: of all rows, or None if each names its own.
        errors: what is wrong is added here.
    """
    fields = FLEET_FIELDS if vehicle_id is None else SAMPLE_FIELDS
    objects: list[dict[str, Any]] = []
    signals: list[dict[str, Any]] = []
    known = table.wire.keys()
    used: set[str] = set()
    for at, row in enumerate(rows):
        if type(row) is not dict:
            errors.close(at, not_an_object(row))
            objects.append(NOTHING)
            signals.append(NOTHING)
            continue
        if not row.keys() <= fields:
            refuse_unknown(row, fields, at, "", "unknown field", errors)
        values = row.get("signals")
        if type(values) is not dict:
            errors.add(at, "signals", "is required" if values is None else "must be an object")
            values = NOTHING
        elif not values.keys() <= known:
            refuse_unknown(values, known, at, "signals.", "unknown signal", errors)
        used.update(values)
        objects.append(row)
        signals.append(values)
    return WireColumns(
        len(rows),
        vehicle_id if vehicle_id is not None else [row.get("vehicle_id") for row in objects],
        [row.get("ts") for row in objects],
        optional("seq", objects),
        optional("epoch", objects),
        {name: [values.get(name) for values in signals] for name in known if name in used},
    )


def optional(field: str, objects: list[dict[str, Any]]) -> list[object] | None:
    """A column that need not be there."""
    return [row.get(field) for row in objects] if any(field in row for row in objects) else None


def refuse_unknown(given: dict[str, Any], known: Any, row: int, path: str, reason: str, errors: RowErrors) -> None:
    """An error for each name that is not known."""
    for name in given:
        if name not in known:
            errors.add(row, path + short_name(name), reason)


def not_an_object(row: object) -> str:
    """Why this is no sample."""
    return f"is not JSON: {row}" if type(row) is Unparsed else "must be an object"
