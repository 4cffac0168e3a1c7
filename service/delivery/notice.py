"""One change of an alert, as it is to be told."""

from dataclasses import dataclass
from typing import Any

Record = dict[str, Any]  # an alert as service/alerting stores it

OPENING = frozenset({"firing", "escalated", "stale", "fresh"})  # what a silence holds back
ENDED = frozenset({"resolved", "lapsed", "pending", "inactive"})


@dataclass(frozen=True, slots=True)
class Notice:
    """What a sink is told.

    Attributes:
        record: the alert.
        transition: what happened to it.
        event_id: the same however often this is delivered.
        born_ms: when the change was committed, by the store's clock.
        fresh: on its way for the first time, not held back by a silence or by a dead sink: its delay is measured.
    """

    record: Record
    transition: str
    event_id: str
    born_ms: int
    fresh: bool = True

    @staticmethod
    def of(record: Record, born_ms: int) -> "Notice":
        """The notice of an entry of the outbox."""
        return Notice(record, transition_of(record), event_id_of(record), born_ms)

    @property
    def key(self) -> str:
        """Whose alert: at most one is open for a vehicle and rule, so what is told of it has one order."""
        return key_of(self.record)


def key_of(record: Record) -> str:
    """Vehicle and rule."""
    return f"{record['vehicle_id']}|{record['rule']}"


def transition_of(record: Record) -> str:
    """What happened; records of before the full machine have only the phase."""
    return str(record.get("transition") or record["phase"])


def event_id_of(record: Record) -> str:
    """Of this transition, whoever computes it and however often it is sent."""
    return str(record.get("event_id") or f"{record['id']}-{transition_of(record)}-{record['updated_ms']}")


def is_open(record: Record) -> bool:
    """Whether the alert has fired and not ended: a stale one is open, and so is one that recovers."""
    return record.get("fired_ms") is not None and record["phase"] not in ENDED


def severity_of(record: Record) -> str:
    """Critical, unless the record says otherwise."""
    return str(record.get("severity") or "critical")
