"""From what the store holds to a state at work: snapshot and replay, or a cold start with its reason."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.runtime import ModelRuntime
from service.records.head import HeadLayout, Heads
from service.records.journal import KEEP, Entries, Journal, JournalLayout
from service.records.state_codec import Snapshot, StateCodecError, unpack_snapshot
from service.store.changes import ABSENT, NO_BASE, Rebase, Stored, version_of


@dataclass(frozen=True, slots=True)
class Restored:
    """A vehicle as it goes into the cache.

    Attributes:
        head: (1,).
        version: what the store holds as its version; a salvaged head's own bytes would differ from it.
        base: (1,) BASE_DTYPE that its next journal entries follow.
        answered: the last entries, to answer retries from.
        snapshot: the state to start from; None: zero.
        replay: entries to carry it over.
        rebase: what the next commit must do to the journal; None: append to it.
        reset: why the state was given up, None if it was not.
        from_history: the state was scanned from what the vehicle sent; the store has not got it yet.
    """

    head: Heads
    version: bytes
    base: NDArray[np.void]
    answered: Entries
    snapshot: Snapshot | None = None
    replay: Entries | None = None
    rebase: Rebase | None = None
    reset: tuple[str, str] | None = None  # kind, for the counter, and the reason in words
    from_history: bool = False

    @property
    def source(self) -> str | None:
        """Where the state came from, for the counter; None if there is none."""
        if self.from_history:
            return "history"
        if self.replay is not None and len(self.replay):
            return "journal"
        return "snapshot" if self.snapshot is not None else None


class ForeignModel(ValueError):
    """A state that belongs to another model than the one in service."""


class Rehydrator:
    """Restores vehicles for one model."""

    def __init__(self, layout: HeadLayout, journals: JournalLayout) -> None:
        self._layout = layout
        self._journals = journals

    def restore(self, stored: Stored | None, old_snapshot: bytes | None) -> Restored:
        """One vehicle as found in the store.

        Args:
            stored: None: it was never heard of.
            old_snapshot: key of the snapshot that it has, to be unlinked if it cannot be used.
        """
        if stored is None:
            head = self._layout.new_session(1)
            return self._afresh(head, ABSENT, self._journals.entries(0), Rebase(b"", None, NO_BASE, 0, None))
        version = version_of(stored.head)
        try:
            head = self._layout.unpack(stored.head)
            journal = self._journals.unpack(stored.journal, head)
        except ValueError as error:
            head = self._layout.salvage(stored.head)
            rebase = Rebase(b"", None, NO_BASE, 0, old_snapshot)
            return self._afresh(head, version, self._journals.entries(0), rebase, ("unusable", str(error)))
        try:
            snapshot = self._snapshot(stored, head, journal)
        except ValueError as error:
            kind = "model" if isinstance(error, ForeignModel) else "unusable"
            head = self._layout.salvage(stored.head)
            rebase = Rebase(b"", None, stored.base, KEEP, old_snapshot)
            return self._afresh(head, version, journal.entries, rebase, (kind, str(error)))
        replay = journal.replay(int(head["accepted"][0]))
        return Restored(head, version, journal.base, journal.entries, snapshot, replay)

    def _snapshot(self, stored: Stored, head: Heads, journal: Journal) -> Snapshot | None:
        """The state that the journal continues; None: zero. Raises ValueError if it cannot be used."""
        if not self._layout.is_current(head[0]):
            raise ForeignModel(f"it belongs to model {bytes(head['fingerprint'][0]).hex()}")
        base = journal.base[0]
        if not base["nonce"]:
            return None
        if stored.snapshot is None:
            raise StateCodecError("the snapshot that the journal continues is not in the store")
        snapshot = unpack_snapshot(stored.snapshot)
        if snapshot.fingerprint != self._layout.fingerprint:
            raise ForeignModel(f"its snapshot belongs to model {snapshot.fingerprint}")
        if (snapshot.epoch, snapshot.seq) != (int(base["epoch"]), int(base["seq"])):
            raise StateCodecError("the snapshot is of another sample than the journal's base says")
        return snapshot

    def _afresh(
        self, head: Heads, version: bytes, answered: Entries, rebase: Rebase, reset: tuple[str, str] | None = None
    ) -> Restored:
        """A zero state from the next sample on, whose journal has to begin there."""
        base = self._journals.base(int(head["epoch"][0]), int(head["accepted"][0]))
        return Restored(head, version, base, answered, rebase=rebase._replace(base=base.tobytes()), reset=reset)


def put_states(runtime: ModelRuntime, slots: NDArray[np.int64], restored: Sequence[Restored]) -> None:
    """Bring the states of vehicles into their slots (vehicles,): zero or snapshot, then all replays in one scan.

    Raises:
        ValueError: a snapshot has other shapes than the model.
    """
    held = [i for i, vehicle in enumerate(restored) if vehicle.snapshot is not None]
    runtime.zero(np.delete(slots, held))
    snapshots = [vehicle.snapshot for vehicle in restored if vehicle.snapshot is not None]
    if held:
        runtime.write(slots[held], np.stack([s.conv for s in snapshots]), np.stack([s.ssm for s in snapshots]))
    replays = [(i, v.replay) for i, v in enumerate(restored) if v.replay is not None and len(v.replay)]
    if replays:
        entries = np.concatenate([replay for _, replay in replays])
        runtime.replay(
            slots[[i for i, _ in replays]],
            np.array([len(replay) for _, replay in replays]),
            np.ascontiguousarray(entries["inputs"]),
            np.ascontiguousarray(entries["ratio"]),
        )
