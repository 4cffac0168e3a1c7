"""From changes of alerts to what is committed with them and told: records with their reasons, lines for the script, log, metrics."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import structlog

from service.alerting.alerts import Rule, Transition
from service.alerting.explanation import Explainer, Forecast
from service.alerting.record import (
    NEWS_OF_THE_CAUSE,
    Instant,
    Record,
    Why,
    alert_record,
    dumped,
    field_of,
    read_record,
)
from service.engine.advance import Advanced, Batch
from service.engine.context import EngineContext
from service.errors import StoreUnavailable
from service.records.journal import KEEP, Entries

logger = structlog.get_logger(__name__)

# What begins a line for the script, see service/store/commit.lua.
TELL, REPLACE_QUIETLY, FORGET_AND_TELL, FORGET = "+", "=", "~", "-"
NOT_OPEN = "-"
URGENT = frozenset({"firing", "escalated", "stale"})


@dataclass(frozen=True, slots=True)
class News:
    """One change and the record of it. `place` is the vehicle's in its batch."""

    place: int
    transition: Transition
    record: Record


def line_of(record: Record, *, quietly: bool = False) -> str:
    """What the script is asked to do with a record."""
    place = field_of(record["vehicle_id"], record["rule"])
    if record["phase"] == "inactive":
        return f"{FORGET_AND_TELL}{place} {NOT_OPEN} {dumped(record)}"
    is_open = NOT_OPEN if record["phase"] == "resolved" else f"{record['phase']}:{record['severity']}"
    return f"{REPLACE_QUIETLY if quietly else TELL}{place} {is_open} {dumped(record)}"


def lines_of(news: Sequence[News]) -> dict[int, str]:
    """What the script is asked, by place."""
    lines: dict[int, list[str]] = {}
    for one in news:
        lines.setdefault(one.place, []).append(line_of(one.record))
    return {place: "\n".join(of_vehicle) for place, of_vehicle in lines.items()}


class Newsroom:
    """Makes records of changes, and tells of them once they are committed."""

    def __init__(self, context: EngineContext, explainer: Explainer) -> None:
        self._policy = context.policy
        self._explainer = explainer
        self._fingerprint = context.fingerprint
        self._journals = context.journals
        self._store = context.store
        self._metrics = context.metrics

    async def __call__(self, vehicle_ids: Sequence[str], batch: Batch, advanced: Advanced) -> list[News]:
        """Records of all changes of a batch, in order. Reads what the store has of their vehicles: changes are rare.

        A store that cannot tell only makes the explanation poorer; the commit that follows will find out by itself.
        """
        ends = np.cumsum(batch.lengths)
        places = np.searchsorted(ends, [change.row for change in advanced.transitions], side="right").tolist()
        wanted = [(vehicle_ids[i], change.rule.word) for i, change in zip(places, advanced.transitions, strict=True)]
        try:
            found = await self._store.alerts.background(wanted, KEEP)
        except StoreUnavailable:
            found = [(b"", None)] * len(wanted)
        news: list[News] = []
        before: dict[tuple[str, str], Record] = {}  # what is committed later in this very batch follows on it
        for place, change, key, (journal, stored) in zip(places, advanced.transitions, wanted, found, strict=True):
            known = before.get(key) or read_record(stored)
            first = int(ends[place] - batch.lengths[place])
            entries = np.concatenate((self._tail(journal), advanced.entries[first : change.row + 1]))[-KEEP:]
            why = self._why(change, advanced.heads[place], entries, batch, advanced, known)
            entry = advanced.entries[change.row]
            ts_ms = int(entry["ts_ms"])
            at = Instant(ts_ms, int(entry["seq"]), float(entry["risk"]), float(entry["surprise"]), ts_ms)
            record = self.record(vehicle_ids[place], advanced.heads[place], change, at, why)
            before[key] = record
            news.append(News(place, change, record))
        return news

    def record(self, vehicle_id: str, head: np.void, change: Transition, at: Instant, why: Why) -> Record:
        """The record of one change."""
        return alert_record(self._policy, vehicle_id, head, change, at, why, self._fingerprint)

    async def said(self, vehicle_id: str, rule: Rule) -> Why:
        """What the stored alert of a vehicle and a rule says of its cause."""
        (_, stored), *_ = await self._store.alerts.background([(vehicle_id, rule.word)], 0)
        known = read_record(stored) or {}
        return Why(known.get("contributions", []), known.get("course", []))

    def _tail(self, journal: bytes) -> Entries:
        """The entries in the end of a journal, whatever of its base may come before them."""
        size = self._journals.dtype.itemsize
        return np.frombuffer(journal, self._journals.dtype, offset=len(journal) % size)

    def _why(
        self,
        change: Transition,
        head: np.void,
        entries: Entries,
        batch: Batch,
        advanced: Advanced,
        known: Record | None,
    ) -> Why:
        """Explained anew where it gets worse; else what made it fire stays said."""
        if change.to not in NEWS_OF_THE_CAUSE and known is not None:
            return Why(known.get("contributions", []), self._explainer.course(entries))
        row = change.row
        forecast = Forecast(advanced.forecast_mean[row], advanced.forecast_log_scale[row])
        return self._explainer(change, head, entries, batch.samples.signals[row], forecast)

    def announce(self, news: Sequence[News]) -> None:
        """Count and log changes that are committed."""
        for one in news:
            to, record = one.transition.to, one.record
            self._metrics.alert_transitions.labels(record["rule"], to).inc()
            if to != "lapsed":
                level = logging.WARNING if to in URGENT else logging.INFO
                logger.log(level, "alert", **record)
