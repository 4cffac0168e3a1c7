"""A vehicle as the store has it, and what can be asked to become of it."""

from collections.abc import Sequence
from typing import NamedTuple

from service.records.head import VERSION
from service.records.journal import BASE_DTYPE

ABSENT = b""  # version of a vehicle without head
NO_BASE = b""
FORGET_HISTORY = b"-"


class Stored(NamedTuple):
    """A vehicle as found in the store."""

    head: bytes
    journal: bytes | None
    snapshot: bytes | None  # None if the base names none, or if it is gone

    @property
    def base(self) -> bytes:
        """The base of its journal, or NO_BASE."""
        return NO_BASE if self.journal is None else self.journal[: BASE_DTYPE.itemsize]


class Rebase(NamedTuple):
    """A new beginning of a journal, as part of a commit."""

    base: bytes
    snapshot: bytes | None  # what the base names; None for the zero state
    expected: bytes  # the base that is there, or NO_BASE to take any
    keep: int  # entries of the old journal to keep for retries
    old: bytes | None  # key of the snapshot that nobody will need any more


class Commit(NamedTuple):
    """One vehicle's change: from the version that it was computed from to a new head."""

    vehicle_id: str
    expected: bytes  # the version of the head, or ABSENT
    head: bytes
    entries: bytes  # of the journal
    rebase: Rebase | None
    alerts: str = ""  # what becomes of the vehicle's alerts, line by line (service/store/commit.lua)
    trend: Sequence["TrendWrite"] = ()
    samples: bytes = b""  # for the history, or FORGET_HISTORY


class TrendWrite(NamedTuple):
    """What goes where in a vehicle's ring."""

    offset: int
    data: bytes  # nothing: the ring goes
    ring_bytes: int  # a ring is made at its full length, which it then keeps: growing it would reserve as much again


class Flip(NamedTuple):
    """A snapshot to be written, and the journal that shall point to it."""

    vehicle_id: str
    expected: bytes  # base
    base: bytes
    snapshot: bytes
    proof: bytes  # nonce of the commit whose state the snapshot holds, 8 bytes


class Outcome:
    """What the scripts say of one vehicle."""

    WON, WON_WITHOUT_JOURNAL, WON_WITH_BLOCK, LOST, NO_SNAPSHOT = 1, 2, 3, 0, -1
    UNKNOWN = -2  # its server did not say


def version_of(head: bytes) -> bytes:
    """The part of a head that commits compare."""
    return head[: VERSION.size]
