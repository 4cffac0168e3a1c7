"""The journal: what a vehicle's session accepted lately, and the state that those samples continue.

One Redis string per vehicle: a base, then entries of fixed size. The base names the snapshot that holds the first
`base.accepted` samples of the session (nonce 0: the zero state); an entry is one accepted sample with the network's inputs,
so that replay is a scan from the snapshot without preprocessing, and with the answer it got, so that a retry is told the
same. The number of the first entry is not stored: the head knows how many samples the session accepted, and the last entry
is the last of them. Head and journal are always read and written together.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from service.records.checksum import intact, record_dtype, seal
from service.records.head import Heads
from service.samples import NO_SEQ

KEEP = 64  # entries that stay for retries although a snapshot holds their samples
LAYOUT = 1

Entries = NDArray[np.void]
Rings = NDArray[np.void]

BASE_DTYPE = np.dtype(
    [
        ("epoch", "<u4"),
        ("accepted", "<u4"),  # samples of the session that the snapshot holds
        ("seq", "<i8"),  # of the last of them; with the nonce the name of the snapshot's key
        ("nonce", "<u8"),  # of the snapshot's writer; 0: the state is zero, there is no snapshot
        ("layout", "<u2"),
        ("entry_bytes", "<u2"),
        ("check", "<u4"),
    ]
)
# What a retry is told, by slot and by sample number modulo KEEP.
ANSWER_DTYPE = np.dtype(
    [
        ("seq", "<i8"),  # NO_SEQ: nothing here
        ("ts_ms", "<i8"),
        ("digest", "<u8"),
        ("risk", "<f4"),
        ("surprise", "<f4"),
        ("phase", "u1"),
    ],
    align=True,
)


class JournalError(ValueError):
    """A journal that does not continue its head; the message says why."""


@dataclass(frozen=True, slots=True)
class Journal:
    """One vehicle's journal as read."""

    base: NDArray[np.void]  # (1,) BASE_DTYPE
    entries: Entries  # (n,), the last n samples of the session

    def replay(self, accepted: int) -> Entries:
        """The entries that the snapshot does not hold, of a session that accepted so many samples."""
        pending = accepted - int(self.base["accepted"][0])
        return self.entries[len(self.entries) - pending :]


class JournalLayout:
    """The entry's dtype for one checkpoint."""

    def __init__(self, d_input: int) -> None:
        self.dtype = record_dtype(
            [
                ("seq", "<i8"),
                ("ts_ms", "<i8"),
                ("digest", "<u8"),
                ("nonce", "<u8"),  # of the commit; it makes the entry, and with it all that came before, unmistakable
                ("risk", "<f4"),
                ("surprise", "<f4"),
                ("ratio", "<f4"),
                ("check", "<u4"),
                ("inputs", "<f4", (d_input,)),
                ("phase", "u1"),
            ]
        )

    def entries(self, n: int) -> Entries:
        """So many entries to fill."""
        return np.zeros(n, self.dtype)

    def base(self, epoch: int, accepted: int, seq: int = NO_SEQ, nonce: int = 0) -> NDArray[np.void]:
        """A sealed base; (1,)."""
        base = np.zeros(1, BASE_DTYPE)
        base["epoch"], base["accepted"], base["seq"], base["nonce"] = epoch, accepted, seq, nonce
        base["layout"], base["entry_bytes"] = LAYOUT, self.dtype.itemsize
        seal(base)
        return base

    def unpack(self, data: bytes | None, head: Heads) -> Journal:
        """The journal that belongs to a head (1,).

        Raises:
            JournalError: missing, damaged, of another layout or session, or with samples missing.
        """
        if data is None or len(data) < BASE_DTYPE.itemsize:
            raise JournalError("the journal is missing")
        base = np.frombuffer(data, BASE_DTYPE, 1)
        if not intact(base)[0]:
            raise JournalError("the journal's base is damaged")
        if (int(base["layout"][0]), int(base["entry_bytes"][0])) != (LAYOUT, self.dtype.itemsize):
            raise JournalError("the journal has another layout")
        if (len(data) - BASE_DTYPE.itemsize) % self.dtype.itemsize:
            raise JournalError("the journal ends in the middle of an entry")
        entries = np.frombuffer(data, self.dtype, offset=BASE_DTYPE.itemsize)
        self._check(base, entries, head)
        return Journal(base, entries)

    def _check(self, base: NDArray[np.void], entries: Entries, head: Heads) -> None:
        """Raise JournalError unless the entries lead from the base to the head."""
        accepted = int(head["accepted"][0])
        pending = accepted - int(base["accepted"][0])
        if base["epoch"][0] != head["epoch"][0] or not 0 <= pending <= len(entries) <= accepted:
            raise JournalError(
                f"the journal of session {int(base['epoch'][0])} with {len(entries)} entries after sample "
                f"{int(base['accepted'][0])} does not lead to sample {accepted} of session {int(head['epoch'][0])}"
            )
        if not intact(entries).all():
            raise JournalError("an entry of the journal is damaged")
        if len(entries) and any(entries[name][-1] != head[name][0] for name in ("seq", "nonce")):
            raise JournalError("the journal's last entry is not the head's last sample")


def empty_rings(n_slots: int) -> Rings:
    """Answers by slot, (n_slots, KEEP) ANSWER_DTYPE, with nothing in them."""
    rings = np.zeros((n_slots, KEEP), ANSWER_DTYPE)
    rings["seq"] = NO_SEQ
    return rings


def remember(rings: Rings, slots: NDArray[np.int64], numbers: NDArray[np.int64], entries: Entries) -> None:
    """Keep the answers of accepted samples (n,), in place; within a slot in order.

    Args:
        rings: by slot.
        slots: (n,) of each entry's vehicle.
        numbers: (n,) of each entry's sample in its session.
        entries: (n,).
    """
    answers: Any = np.zeros(len(entries), ANSWER_DTYPE)
    for name in ANSWER_DTYPE.names or ():
        answers[name] = entries[name]
    rings[slots, numbers % KEEP] = answers
