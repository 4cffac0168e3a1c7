"""What time alone changes: pending alerts of silent vehicles fire, open ones go stale.

Each partition is swept by the worker that holds its lease; a lease that is not renewed passes on within seconds. The lease
only spares work: what a sweep changes goes through the same compare-and-set as a sample's commit, so two sweepers, or a
sweeper and a sample, cannot both win.
"""

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import structlog

from model.alert_machine import NOWHEN, SILENCE_MS, Phase, Severity, pass_time
from service.alerting.alerts import Rule, told
from service.alerting.record import Instant, Record, Why, converted, dumped, read_record
from service.alerting.silences import Silences
from service.alerting.stored import StoredAlerts
from service.engine.context import EngineContext
from service.engine.news import News, Newsroom, lines_of
from service.engine.residency import Residency
from service.errors import StoreUnavailable
from service.records.checksum import seal
from service.records.head import LAYOUT, Heads
from service.store.changes import Commit, Outcome, Stored, version_of

logger = structlog.get_logger(__name__)

INTERVAL_S = 1.0
LEASE_S = 5.0
PARTITIONS_AT_ONCE = 256  # in one interval: a data set of more takes several for a round
BEGINNING = ("layout", "heard_ms", "alert")  # what is read of the heads of all open alerts
SETTLED = frozenset({"stale"})  # phases that time changes no further


class Seen(NamedTuple):
    """An open alert as the index has it."""

    vehicle_id: str
    rule: Rule
    phase: str
    severity: str


class Sweeper:
    """Sweeps the partitions of one data set for one worker."""

    def __init__(self, context: EngineContext, newsroom: Newsroom, residency: Residency) -> None:
        self._layout = context.layout
        self._limits = context.policy.packed()
        self._newsroom = newsroom
        self._residency = residency
        self._claims = context.claims
        self._store = context.store
        self._stored = StoredAlerts(context.store)
        self._silences = Silences(context.store)
        self._metrics = context.metrics
        self._clock = context.clock
        self._owner = secrets.token_hex(8)
        self._next = 0
        self._open: dict[int, Counter[tuple[str, str]]] = {}  # what fires in the partitions that are ours
        of: Any = context.layout.dtype.fields
        self._begins = np.dtype(
            {"names": BEGINNING, "formats": [of[n][0] for n in BEGINNING], "offsets": [of[n][1] for n in BEGINNING]}
        )

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(INTERVAL_S)
            try:
                await self.sweep()
            except StoreUnavailable:
                continue  # logged where it happened
            except Exception:
                logger.exception("a sweep failed; the next one tries again")

    async def sweep(self, lease_s: float = LEASE_S) -> None:
        """One round, or a part of one where there are many partitions.

        Raises:
            StoreUnavailable: not everything was seen to.
        """
        total = self._store.partitions
        due = sorted({(self._next + i) % total for i in range(min(PARTITIONS_AT_ONCE, total))})
        self._next = (self._next + len(due)) % total
        mine = await self._stored.lease(due, self._owner, lease_s * max(1.0, total / PARTITIONS_AT_ONCE))
        for partition in mine:
            if partition not in self._open:
                await self._take_over(partition)
        found = await self._stored.open_in(mine)
        for partition in due:
            self._open.pop(partition, None)
        seen = []
        for partition, places in found.items():
            alerts = [alert for place, text in places.items() if (alert := read_place(place, text)) is not None]
            seen += alerts
            self._open[partition] = Counter((a.rule.word, a.severity) for a in alerts if a.phase != "pending")
        self._count()
        if 0 in mine:  # silences belong to no partition
            await self._silences.sweep(round(1_000 * self._clock()))
        await self._settle_silent([alert for alert in seen if alert.phase not in SETTLED])

    def _count(self) -> None:
        """Into the metric; workers' counts add up, since each partition is swept by one."""
        firing = sum(self._open.values(), Counter[tuple[str, str]]())
        for rule in Rule:
            for severity in Severity:
                word = severity.name.lower()
                self._metrics.alerts_firing.labels(rule.word, word).set(firing[rule.word, word])

    async def _take_over(self, partition: int) -> None:
        """Alerts of a version before rules become ours; their machines do when their heads are read."""
        for vehicle_id, data in (await self._stored.from_before_rules(partition)).items():
            record = converted(json.loads(data))
            is_open = record["phase"] != "resolved"
            place = f"{record['phase']}:{record['severity']}" if is_open else None
            await self._stored.take_over(partition, vehicle_id, record["rule"], dumped(record), place)
            logger.info("alert of an earlier version taken over", vehicle_id=vehicle_id, phase=record["phase"])

    async def _settle_silent(self, alerts: Sequence[Seen]) -> None:
        """See to the vehicles of open alerts from which nothing has come for a while, or whose head does not know of them."""
        vehicle_ids = list(dict.fromkeys(alert.vehicle_id for alert in alerts))
        now_ms = round(1_000 * self._clock())
        size = self._begins.itemsize
        heads = dict(zip(vehicle_ids, await self._stored.beginnings(vehicle_ids, size), strict=True))
        due = []
        for alert in alerts:
            data = heads[alert.vehicle_id]
            head = np.frombuffer(data, self._begins)[0] if len(data) == size else None
            if head is None or head["layout"] != LAYOUT or now_ms - head["heard_ms"] >= SILENCE_MS:
                due.append(alert.vehicle_id)
            elif head["alert"][alert.rule]["phase"] == Phase.INACTIVE and alert.phase != "pending":
                due.append(alert.vehicle_id)  # or resolved since we looked, which will turn out
        for vehicle_id in dict.fromkeys(due):
            await self.settle(vehicle_id)

    async def settle(self, vehicle_id: str) -> None:
        """Commit what silence has changed for one vehicle; who is faster leaves it to the next sweep.

        Raises:
            StoreUnavailable.
        """
        async with self._claims.hold([vehicle_id]):
            stored = await self._store.peek(vehicle_id)
            if stored is None:
                return
            try:
                head = self._layout.unpack(stored.head)
            except ValueError:
                return  # its next sample, if one comes, begins anew and says so
            # Read after the head: if the head stays as it is until the commit, so do they.
            known = [read_record(data) for data in await self._store.alerts.of(vehicle_id, fields_of(vehicle_id))]
            remembered = remember(head, known)
            news = self._changed(vehicle_id, head, known)
            if news or remembered:
                await self._commit(vehicle_id, stored, head, news)

    def _changed(self, vehicle_id: str, head: Heads, known: Sequence[Record | None]) -> list[News]:
        """What silence has changed in a head (1,), in place."""
        now_ms, one = round(1_000 * self._clock()), head[0]
        last_ms, silence_ms = int(one["last_ts_ms"]), max(0, now_ms - int(one["heard_ms"]))
        changes = pass_time(head["alert"], np.array([last_ms]), np.array([silence_ms]), self._limits)
        news = []
        for rule in Rule:
            record = known[rule] or {}
            why = Why(record.get("contributions", []), record.get("course", []))
            for change in told(rule, int(changes[0, rule]), one["alert"][rule].copy()):
                when = int(change.machine["fired_ms"]) if change.to == "firing" else last_ms + silence_ms
                at = Instant(last_ms, int(one["seq"]), float(one["risk"]), float(one["surprise"]), when)
                news.append(News(0, change, self._newsroom.record(vehicle_id, one, change, at, why)))
        return news

    async def _commit(self, vehicle_id: str, stored: Stored, head: Heads, news: list[News]) -> None:
        """The same compare-and-set as a sample's; there is no new sample, so the version gets another revision."""
        before = version_of(stored.head)
        head["revision"] += 1
        seal(head)
        commit = Commit(vehicle_id, before, head.tobytes(), b"", None, lines_of(news).get(0, ""))
        if (await self._store.commit([commit]))[0] >= Outcome.WON:
            self._residency.renew(vehicle_id, before, head)
            self._newsroom.announce(news)


def fields_of(vehicle_id: str) -> list[str]:
    """Of a vehicle's alerts, in the order of the rules."""
    return [f"{vehicle_id}|{rule.word}" for rule in Rule]


def read_place(place: str, text: str) -> Seen | None:
    """An entry of the index; None if another version wrote it."""
    vehicle_id, _, rule = place.rpartition("|")
    phase, _, severity = text.partition(":")
    known = {one.word: one for one in Rule}
    return Seen(vehicle_id, known[rule], phase, severity) if rule in known else None


def remember(head: Heads, known: Sequence[Record | None]) -> bool:
    """Put open alerts that a head (1,) has lost back into it, in place; whether there was one.

    A head that was damaged, or of a layout that nobody can read, begins with machines that know nothing; what it had told stays
    true until samples say otherwise.
    """
    found = False
    for rule, record in zip(Rule, known, strict=True):
        machine = head["alert"][0, rule]
        if record is None or machine["phase"] != Phase.INACTIVE or record["epoch"] != head["epoch"][0]:
            continue
        if record["phase"] not in {"firing", "recovering", "stale"} or record["fired_ms"] is None:
            continue
        machine["phase"], machine["since_ms"] = Phase.FIRING, NOWHEN
        machine["first_crossed_ms"], machine["fired_ms"] = record["first_crossed_ms"], record["fired_ms"]
        machine["severity"] = Severity[record["severity"].upper()]
        machine["peak"] = np.nan_to_num(record["peak_value"] or 0.0)
        number = record["event_id"].rpartition("-")[2]
        machine["changes"] = int(number) if number.isdigit() else 0
        found = True
    return found
