"""What ends or begins a vehicle's session from outside: resets. The caller holds the vehicle."""

import json
import secrets
from typing import Any

import structlog

from service.alerts import RULE, AlertPolicy, Transition, alert_record
from service.checksum import seal
from service.commits import FORGET
from service.head import HeadLayout, Phase, read_version
from service.journal import JournalLayout
from service.metrics import Metrics
from service.residency import Residency
from service.store import ABSENT, NO_BASE, Commit, Outcome, Rebase, Store, Stored, version_of

logger = structlog.get_logger(__name__)


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
        self._residency.drop([vehicle_id])
        before = await self._store.peek(vehicle_id)
        version = read_version(b"" if before is None else before.head)
        epoch = 1 if version is None else version.epoch + 1
        head = self._layout.new_session(epoch)
        head["nonce"] = secrets.randbits(64) | 1
        seal(head)
        alerts, resolves = self._closing_alert(vehicle_id, before)
        commit = Commit(
            vehicle_id,
            expected=ABSENT if before is None else version_of(before.head),
            head=head.tobytes(),
            entries=b"",
            rebase=Rebase(
                base=self._journals.base(epoch, 0).tobytes(),
                snapshot=None,
                expected=NO_BASE if before is None else before.base,
                keep=0,
                old=None if before is None else self._store.snapshot_key(vehicle_id, before),
            ),
            alerts=alerts,
        )
        if (await self._store.commit([commit]))[0] < Outcome.WON:
            return None
        if resolves:
            self._metrics.alert_transitions.labels(RULE, "resolved").inc()
        self._metrics.state_resets.labels("session").inc()
        logger.info("session reset", vehicle_id=vehicle_id, epoch=epoch)
        return epoch

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
