"""What ends or begins a vehicle's session from outside: resets. The caller holds the vehicle."""

import secrets

import numpy as np
import structlog

from model.alert_machine import Phase
from service.alerting.alerts import Rule, Transition
from service.alerting.record import Instant
from service.engine.context import EngineContext
from service.engine.news import News, Newsroom, lines_of
from service.engine.residency import Residency
from service.engine.trend import Closed, written
from service.records.checksum import seal
from service.records.head import Heads, read_version
from service.store.changes import (
    ABSENT,
    FORGET_HISTORY,
    NO_BASE,
    Commit,
    Outcome,
    Rebase,
    Stored,
    TrendWrite,
    version_of,
)

logger = structlog.get_logger(__name__)


class Sessions:
    """Begins sessions in the store; the cache forgets the vehicle."""

    def __init__(self, context: EngineContext, newsroom: Newsroom, residency: Residency) -> None:
        self._layout = context.layout
        self._journals = context.journals
        self._newsroom = newsroom
        self._trends = context.trends
        self._residency = residency
        self._store = context.store
        self._metrics = context.metrics

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
        trend = self._closing_bin(head, before)
        seal(head)
        news = await self._closing(vehicle_id, before)
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
            alerts=lines_of(news).get(0, ""),
            trend=trend,
            samples=FORGET_HISTORY,
        )
        if (await self._store.commit([commit]))[0] < Outcome.WON:
            return None
        self._newsroom.announce(news)
        self._metrics.state_resets.labels("session").inc()
        logger.info("session reset", vehicle_id=vehicle_id, epoch=epoch)
        return epoch

    def _closing_bin(self, head: Heads, before: Stored | None) -> list[TrendWrite]:
        """The open bin of the session that ends goes into the ring, and on in the new head, in place."""
        try:
            old = self._layout.unpack(b"" if before is None else before.head)
        except ValueError:
            return []
        head["trend"] = old["trend"]
        if not old["trend"]["samples"][0] or old["trend"]["written"][0]:
            return []
        written(head)
        return self._trends.writes(Closed(self._trends.open_bins(old), np.zeros(1, np.int64)))[0]

    async def _closing(self, vehicle_id: str, before: Stored | None) -> list[News]:
        """What becomes of the alerts of the session that ends: open ones are resolved, pending ones lapse."""
        try:
            head = self._layout.unpack(b"" if before is None else before.head)[0]
        except ValueError:
            return []  # no session, or a head that cannot be read
        news = []
        at = Instant(
            int(head["last_ts_ms"]),
            int(head["seq"]),
            float(head["risk"]),
            float(head["surprise"]),
            int(head["last_ts_ms"]),
        )
        for rule in Rule:
            machine = head["alert"][rule]
            phase = Phase(int(machine["phase"]))
            if phase is not Phase.INACTIVE:
                machine["changes"] += 1
                to = "lapsed" if phase is Phase.PENDING else "resolved"
                change = Transition(rule, to, int(machine["changes"]), machine)
                why = await self._newsroom.said(vehicle_id, rule)
                news.append(News(0, change, self._newsroom.record(vehicle_id, head, change, at, why)))
        return news
