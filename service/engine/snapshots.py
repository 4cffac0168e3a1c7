"""Snapshots off the hot path: states copied between two samples are packed, written and pointed to in the background.

A state is copied just before its vehicle's next sample changes it, so what is copied is what a commit stored. Whether
that commit is still part of the vehicle's history is asked by the script that moves the base (service/store/flip.lua).
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import structlog
from numpy.typing import NDArray

from service.engine.context import EngineContext
from service.engine.residency import Residency
from service.errors import StoreUnavailable
from service.records.head import Heads
from service.records.journal import BASE_DTYPE
from service.records.state_codec import Snapshot, SnapshotDtype, pack_snapshot
from service.records.state_rounding import roundings
from service.store.changes import Flip, Outcome

logger = structlog.get_logger(__name__)

MAX_WAITING = 256  # states copied and not yet written; what does not fit stays due
MAX_COPIED = 96  # of one batch: more than are due of 4,096 vehicles, few enough to be copied while others wait
WRITTEN_TOGETHER = (
    8,
    32,
)  # few, so that commits get their turn; more where many wait: each group waits for the event loop

Singles = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Copied:
    """A state to be written, and where it belongs."""

    vehicle_id: str
    slot: int
    expected: bytes  # base of the journal when it was copied
    base: NDArray[np.void]  # (1,), that names it
    proof: bytes
    conv: Singles
    ssm: Singles


def fresh_nonce() -> int:
    """A writer's own: not 0, which means that there is no snapshot."""
    return secrets.randbits(64) | 1


class Snapshotter:
    """Writes the snapshots of one worker, a few at a time."""

    def __init__(self, context: EngineContext, residency: Residency) -> None:
        roundings()  # compiled now, not when the first snapshot is due
        self._fingerprint = context.fingerprint
        self._journals = context.journals
        self._residency = residency
        self._store = context.store
        self._metrics = context.metrics
        self._every = context.options.snapshot_every
        self._dtype: SnapshotDtype = context.options.snapshot_dtype
        self._waiting: deque[Copied] = deque()
        self._task: asyncio.Task[None] | None = None

    @property
    def room(self) -> int:
        """How many more states a batch may hand over."""
        return min(MAX_COPIED, MAX_WAITING - len(self._waiting))

    def hand_over(
        self,
        vehicle_ids: Sequence[str],
        slots: NDArray[np.int64],
        heads: Heads,
        states: tuple[Singles, Singles],
    ) -> None:
        """Take states (n,) as they were at these heads (n,); they are written soon."""
        for i, (vehicle_id, slot) in enumerate(zip(vehicle_ids, slots.tolist(), strict=True)):
            head = heads[i]
            base = self._journals.base(int(head["epoch"]), int(head["accepted"]), int(head["seq"]), fresh_nonce())
            expected, proof = self._residency.bases[slot].tobytes(), head["nonce"].tobytes()
            conv, ssm = states
            self._waiting.append(Copied(vehicle_id, slot, expected, base, proof, conv[i], ssm[i]))
            self._residency.due[slot] = int(head["accepted"]) + self._every  # not again while this one is on its way
        if self._waiting and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._write(), name="snapshots")

    async def close(self) -> None:
        """Finish what is in hand."""
        if self._task is not None:
            await self._task

    async def _write(self) -> None:
        while self._waiting:
            least, most = WRITTEN_TOGETHER
            together = min(len(self._waiting), max(least, min(most, len(self._waiting) // 4)))
            group = [self._waiting.popleft() for _ in range(together)]
            try:
                flips = await asyncio.to_thread(self._pack, group)
                outcomes = await self._store.flip(flips)
            except StoreUnavailable:
                outcomes = [Outcome.NO_SNAPSHOT] * len(group)  # the journal still has it all
            except Exception:
                logger.exception("snapshots failed", size=len(group))
                outcomes = [Outcome.NO_SNAPSHOT] * len(group)
            await self._settle(group, outcomes)

    def _pack(self, group: list[Copied]) -> list[Flip]:
        """Bytes and checksums, which let the interpreter's lock go."""
        packed = []
        for copied in group:  # one by one: side by side they would have to be copied once more
            epoch, seq = int(copied.base["epoch"][0]), int(copied.base["seq"][0])
            packed.append(pack_snapshot(Snapshot(self._fingerprint, epoch, seq, copied.conv, copied.ssm), self._dtype))
        return [
            Flip(copied.vehicle_id, copied.expected, copied.base.tobytes(), snapshot, copied.proof)
            for copied, snapshot in zip(group, packed, strict=True)
        ]

    async def _settle(self, group: list[Copied], outcomes: list[int]) -> None:
        """Move the cached bases along; whoever was overtaken by another worker learns its base."""
        overtaken = []
        for copied, outcome in zip(group, outcomes, strict=True):
            result = {Outcome.WON: "written", Outcome.LOST: "overtaken"}.get(outcome, "failed")
            self._metrics.snapshots.labels(result).inc()
            if not self._still_there(copied):
                continue
            if outcome == Outcome.WON:
                self._residency.rebased(copied.slot, copied.base)
            elif outcome == Outcome.LOST:
                overtaken.append(copied)
            else:
                self._residency.due[copied.slot] = 0  # at its next sample
        if overtaken:
            await self._learn_bases(overtaken)

    async def _learn_bases(self, overtaken: list[Copied]) -> None:
        try:
            bases = await self._store.bases([copied.vehicle_id for copied in overtaken])
        except StoreUnavailable:
            return
        for copied, data in zip(overtaken, bases, strict=True):
            # With the old base in place our head is the one that is behind: the next commit will find out.
            if self._still_there(copied) and len(data) == BASE_DTYPE.itemsize and data != copied.expected:
                self._residency.rebased(copied.slot, np.frombuffer(data, BASE_DTYPE))

    def _still_there(self, copied: Copied) -> bool:
        """Whether the slot still holds the vehicle with the base that it had."""
        slot = self._residency.slot(copied.vehicle_id)
        return slot == copied.slot and self._residency.bases[slot].tobytes() == copied.expected
