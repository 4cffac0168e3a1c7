"""Server-Sent Events, written once for all who listen: entries of the outbox in one order, with the position after each."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from service.delivery.notice import Record, event_id_of, severity_of, transition_of
from service.delivery.outbox import Entry
from service.delivery.position import EntryId, Position, entry_id


@dataclass(frozen=True, slots=True)
class Filter:
    """What a listener wants to hear of; empty means all."""

    vehicle_ids: frozenset[str] = frozenset()
    rules: frozenset[str] = frozenset()
    severities: frozenset[str] = frozenset()
    transitions: frozenset[str] = frozenset()

    def wants(self, record: Record) -> bool:
        """Whether a change is to be told."""
        return (
            (not self.vehicle_ids or record["vehicle_id"] in self.vehicle_ids)
            and (not self.rules or record["rule"] in self.rules)
            and (not self.severities or severity_of(record) in self.severities)
            and (not self.transitions or transition_of(record) in self.transitions)
        )


@dataclass(frozen=True, slots=True)
class Heard:
    """One change of an alert, as an event."""

    record: Record
    text: bytes
    at: EntryId
    partition: int


def in_order(entries: Mapping[int, Iterable[Entry]], floor_ms: int, last: dict[int, EntryId]) -> list[Heard]:
    """Entries of all partitions by time, those of a partition in their order; `last` is brought up to date."""
    merged = sorted((entry_id(entry.id), p, entry) for p, some in entries.items() for entry in some)
    found = []
    for at, partition, entry in merged:
        last[partition] = at
        if entry.record is not None:
            data = entry.record | {"transition": transition_of(entry.record), "event_id": event_id_of(entry.record)}
            found.append(Heard(data, written("alert", data, Position.at(floor_ms, last)), at, partition))
    return found


def written(event: str, data: Mapping[str, Any], position: Position | None = None) -> bytes:
    """An event in the text format of the HTML standard, 9.2."""
    head = b"" if position is None else b"id: %s\n" % str(position).encode()
    return head + b"event: %s\ndata: %s\n\n" % (event.encode(), orjson.dumps(data))


def ending(reason: str) -> bytes:
    """The last event of a stream: why it ends, and that it may be resumed."""
    return written("end", {"reason": reason, "resume": "connect again with Last-Event-ID"})


def heartbeat(position: Position) -> bytes:
    """A comment that keeps the connection open, with the position: who filters much need not go far back."""
    return b": heartbeat\nid: %s\n\n" % str(position).encode()
