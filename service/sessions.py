"""What ends or begins a vehicle's session from outside: resets, imported states, erasure. The caller holds the vehicle."""

import json
from dataclasses import replace
from typing import Any, NamedTuple

import structlog

from service.alerts import RULE, AlertPolicy, Transition, alert_record
from service.checksum import seal
from service.commits import FORGET
from service.errors import StateChanged
from service.head import HeadLayout, Heads, Phase, read_version
from service.journal import JournalLayout
from service.metrics import Metrics
from service.residency import Residency
from service.snapshots import fresh_nonce
from service.state_codec import Snapshot, pack_snapshot
from service.store import ABSENT, NO_BASE, Commit, Outcome, Rebase, Store, Stored, version_of

logger = structlog.get_logger(__name__)


class StateVersion(NamedTuple):
    """What tells one state of a vehicle from another; the parts of its ETag."""

    epoch: int
    seq: int
    nonce: int


class Sessions:
    """Begins sessions in the store; the cache forgets the vehicle."""

    def __init__(
        self,
        layout: HeadLayout,
        journals: JournalLayout,
        policy: AlertPolicy,
        residency: Residency,
        store: Store,
        metrics: Metrics,
    ) -> None:
        self._layout = layout
        self._journals = journals
        self._policy = policy
        self._residency = residency
        self._store = store
        self._metrics = metrics

    async def begin(self, vehicle_id: str) -> int | None:
        """Commit the next session with a zero state; its epoch, or None if another worker was faster.

        Raises:
            StoreUnavailable: nothing was changed, or that is not known.
        """
        before = await self._look(vehicle_id)
        version = read_version(b"" if before is None else before.head)
        epoch = 1 if version is None else version.epoch + 1
        if not await self._replace(vehicle_id, before, self._layout.new_session(epoch), None):
            return None
        self._metrics.state_resets.labels("session").inc()
        logger.info("session reset", vehicle_id=vehicle_id, epoch=epoch)
        return epoch

    async def install(self, vehicle_id: str, snapshot: Snapshot, expected: StateVersion | None) -> int | None:
        """Commit a session that goes on from a state; its epoch, or None if another worker was faster.

        It is the vehicle's next session, or the state's own if the vehicle is new here. Samples up to the state's seq
        count as accepted; what preprocessing had learned is not part of a state, so the vehicle warms up again.

        Raises:
            StateChanged: `expected` was given and is not what the store has.
            StoreUnavailable: nothing was changed, or that is not known.
        """
        before = await self._look(vehicle_id)
        version = read_version(b"" if before is None else before.head)
        if expected is not None and (
            version is None or StateVersion(version.epoch, version.seq, version.nonce) != expected
        ):
            raise StateChanged(f"the state of {vehicle_id} is another one by now", vehicle_id=vehicle_id)
        epoch = max(snapshot.epoch, 1) if version is None else version.epoch + 1
        head = self._layout.new_session(epoch)
        if snapshot.seq >= 0:
            head["seq"], head["intervals"][0, 0], head["n_intervals"] = snapshot.seq, (0, snapshot.seq), 1
        if not await self._replace(vehicle_id, before, head, replace(snapshot, epoch=epoch)):
            return None
        self._metrics.state_resets.labels("import").inc()
        logger.info("state imported", vehicle_id=vehicle_id, epoch=epoch, seq=snapshot.seq)
        return epoch

    async def erase(self, vehicle_id: str) -> bool:
        """Delete the vehicle; False if it was not there. Raises StoreUnavailable."""
        self._residency.drop([vehicle_id])
        return await self._store.delete(vehicle_id)

    async def _look(self, vehicle_id: str) -> Stored | None:
        """The vehicle as stored; the cache forgets it."""
        self._residency.drop([vehicle_id])
        return await self._store.peek(vehicle_id)

    async def _replace(self, vehicle_id: str, before: Stored | None, head: Heads, state: Snapshot | None) -> bool:
        """Commit a session's first head (1,) and the state it goes on from; whether it won."""
        head["nonce"] = fresh_nonce()
        seal(head)
        alerts, resolves = self._closing_alert(vehicle_id, before)
        base = self._journals.base(int(head["epoch"][0]), 0, int(head["seq"][0]), 0 if state is None else fresh_nonce())
        commit = Commit(
            vehicle_id,
            expected=ABSENT if before is None else version_of(before.head),
            head=head.tobytes(),
            entries=b"",
            rebase=Rebase(
                base=base.tobytes(),
                snapshot=None if state is None else pack_snapshot(state),
                expected=NO_BASE if before is None else before.base,
                keep=0,
                old=None if before is None else self._store.snapshot_key(vehicle_id, before),
            ),
            alerts=alerts,
        )
        if (await self._store.commit([commit]))[0] < Outcome.WON:
            return False
        if resolves:
            self._metrics.alert_transitions.labels(RULE, "resolved").inc()
        return True

    def _closing_alert(self, vehicle_id: str, before: Stored | None) -> tuple[str, bool]:
        """What becomes of the alert of the session that ends: a firing one is resolved, a pending one lapses."""
        try:
            head = self._layout.unpack(b"" if before is None else before.head)[0]
        except ValueError:
            return "", False  # no session, or another layout's: its alert machine cannot be read
        alert, phase = head["alert"], Phase(int(head["alert"]["phase"]))
        if phase is Phase.PENDING:
            return FORGET, False
        if phase is not Phase.FIRING:
            return "", False
        closing = Transition(0, "resolved", int(alert["first_crossed_ms"]), int(alert["fired_ms"]))
        record: dict[str, Any] = alert_record(
            self._policy,
            vehicle_id,
            head,
            closing,
            ts_ms=int(head["last_ts_ms"]),
            seq=int(head["seq"]),
            risk=float(head["risk"]),
            fingerprint=self._layout.fingerprint,
        )
        return json.dumps(record), True
