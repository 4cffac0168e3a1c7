"""One partition's delivery to one sink, while this worker holds the lease on it."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from service.delivery.lanes import Health, Job, Lanes, Patience, insist
from service.delivery.notice import OPENING, Notice, Record, is_open, key_of
from service.delivery.outbox import AGAIN, FAILURES, SILENCED, Entry, Outbox, letter_of, settled
from service.delivery.silence_watch import SilenceWatch
from service.delivery.sink_client import Result, SinkClient, now_ms
from service.delivery.sinks_file import AlertmanagerSink, AnySink, PagerDutySink
from service.observe.metrics import Metrics
from service.store.redis_wire import Command
from service.store.store_keys import partition_keys

logger = structlog.get_logger(__name__)

WINDOW = 64  # notices in hand
REPEATED_TOGETHER = 200
CLAIM_EVERY_S = 30.0
WAIT_S = 0.05


@dataclass(slots=True)
class SinkParts:
    """What all partitions of one sink share in this worker."""

    sink: AnySink
    client: SinkClient
    outbox: Outbox
    owner: str
    silences: SilenceWatch
    metrics: Metrics
    slots: asyncio.Semaphore
    health: Health
    wake: Callable[[], None]  # there is room again

    def count(self, word: str, notice: Notice) -> None:
        """Count a result, and how long it took."""
        self.metrics.notifications.labels(self.sink.name, word).inc()
        if word == "delivered" and notice.fresh:
            delay_s = (now_ms() - int(notice.record["updated_ms"])) / 1000.0
            self.metrics.notification_delay.labels(self.sink.name).observe(max(0.0, delay_s))
            since_commit_s = (now_ms() - notice.born_ms) / 1000.0
            self.metrics.notification_outbox.labels(self.sink.name).observe(max(0.0, since_commit_s))


class Shift:
    """Begins with the lease and ends with it. What it knows of silenced alerts nobody else changes meanwhile."""

    def __init__(self, parts: SinkParts, partition: int) -> None:
        self._parts = parts
        self.partition = partition
        self.valid_until = 0.0  # loop time; set by who renews the lease
        self.more = True  # there may be entries to take
        self.repeat_at = 0.0
        self._claim_at = 0.0
        self._marks: dict[str, dict[str, Any]] = {}  # by key of the alert: what a silence kept from the sink
        sink = parts.sink
        patience = Patience(sink.retry_for_s, sink.first_retry_s, sink.longest_retry_s)
        self._lanes = Lanes(self, patience, parts.slots, parts.health)

    def __len__(self) -> int:
        return len(self._lanes)

    async def begin(self) -> None:
        """Take over what a predecessor had in hand. Raises what the store raises."""
        outbox, name = self._parts.outbox, self._parts.sink.name
        await outbox.open_groups(name, [self.partition], "$")
        found = await outbox.held(self.partition)
        self._marks = {f.split("|", 2)[2]: mark for f, mark in found.items() if f.startswith(f"{SILENCED}|{name}|")}
        await self._claim()

    async def _claim(self) -> None:
        """Take in hand what is on the sink's list and in nobody's hand: a predecessor's, or taken for a lease that ended."""
        in_hand = set(self._lanes.tokens)  # what is settled while we ask is in the answer all the same
        name = self._parts.sink.name
        entries, erased = await self._parts.outbox.claim(self.partition, name, self._parts.owner)
        entries = [entry for entry in entries if entry.id not in in_hand]
        if entries or erased:
            logger.info("takes over notices", sink=name, partition=self.partition, n=len(entries), erased=erased)
        await self._put(entries)
        self._claim_at = asyncio.get_running_loop().time() + CLAIM_EVERY_S

    async def close(self, grace_s: float = 0.0) -> None:
        """End; what is in hand stays in the store's lists."""
        await self._lanes.close(grace_s)

    async def take(self) -> None:
        """Take as many new entries as there is room for. Raises what the store raises."""
        while self.more and len(self._lanes) < WINDOW:
            room = WINDOW - len(self._lanes)
            self.more = False  # before we ask: what is committed from now on says so again
            entries = await self._parts.outbox.take(self.partition, self._parts.sink.name, self._parts.owner, room)
            if entries is None:  # the lease is another's; who renews it will see
                return
            self.more = self.more or len(entries) == room
            await self._put(entries)

    async def look(self) -> None:
        """See what waited for the end of a silence, or was handed back. Raises what the store raises."""
        if asyncio.get_running_loop().time() >= self._claim_at:
            await self._claim()
        again = f"{AGAIN}|{self._parts.sink.name}|"
        for field, letter in (await self._parts.outbox.held(self.partition)).items():
            if field.startswith(again):
                self._put_again(field, letter_of(letter))
        for key, mark in list(self._marks.items()):
            record = await self._parts.outbox.alert(self.partition, key)
            if record is None:  # erased
                await self._parts.outbox.run([("HDEL", partition_keys(self.partition).held, self._mark(key))])
                del self._marks[key]
            elif record["id"] == mark["id"] and is_open(record) and not await self._parts.silences.silenced(record):
                notice = Notice(record, mark["transition"], mark["event_id"], now_ms(), fresh=False)
                self._lanes.put(Job(f"{SILENCED}|{key}|{notice.event_id}", notice))

    async def repeat(self) -> None:
        """Send open alerts again to an Alertmanager. Raises what the store raises."""
        sink = self._parts.sink
        if not isinstance(sink, AlertmanagerSink):
            return
        free = self._lanes.occupy([key_of(record) for record in await self._open_alerts(sink)])
        try:
            # Read again: nothing of these can go out beside us now, so what is open here was not ended there.
            records = [record for record in await self._open_alerts(sink) if key_of(record) in set(free)]
            for start in range(0, len(records), REPEATED_TOGETHER):
                some = records[start : start + REPEATED_TOGETHER]
                await self._while_held()
                result = await self._parts.client.repeat(some)
                word = "repeated" if result.word == "delivered" else "repeat_failed"
                self._parts.metrics.notifications.labels(sink.name, word).inc(len(some))
                if word == "repeat_failed":
                    logger.warning("open alerts were not repeated", sink=sink.name, reason=result.reason)
        finally:
            self._lanes.release(free)

    async def _open_alerts(self, sink: AnySink) -> list[Record]:
        """What the sink should think is firing."""
        untold = {key for key, mark in self._marks.items() if not mark["told"]}
        return [
            record
            for record in await self._parts.outbox.open_alerts(self.partition)
            if is_open(record) and sink.wants(record, "firing") and key_of(record) not in untold
        ]

    async def _put(self, entries: list[Entry]) -> None:
        """Entries into their lanes; what is not for this sink is settled."""
        done: list[Command] = []
        for entry in entries:
            if entry.record is None:
                logger.error("an entry of the outbox cannot be read", partition=self.partition, id=entry.id)
                self._parts.metrics.notifications.labels(self._parts.sink.name, "unreadable").inc()
            else:
                notice = Notice.of(entry.record, entry.born_ms)
                if self._parts.sink.wants(notice.record, notice.transition):
                    self._lanes.put(Job(entry.id, notice, (self._settled(entry.id),)))
                    continue
            done.append(self._settled(entry.id))
        if done:
            await self._parts.outbox.run(done)

    def _put_again(self, field: str, letter: dict[str, Any]) -> None:
        """A dead letter that was handed back."""
        forget: Command = ("HDEL", partition_keys(self.partition).held, field)
        notice = Notice(letter["alert"], letter["transition"], letter["event_id"], now_ms(), fresh=False)
        self._lanes.put(Job(field, notice, (forget,)))

    def _settled(self, entry_id: str) -> Command:
        return settled(self.partition, self._parts.sink.name, entry_id)

    def _mark(self, key: str) -> str:
        return f"{SILENCED}|{self._parts.sink.name}|{key}"

    async def settle(self, job: Job) -> None:
        """The sink was told, or never will be: the job is done, and with it what a silence had kept back of its alert."""
        notice, commands = job.notice, list(job.settle)
        marked = notice.key in self._marks and (notice.transition in OPENING or notice.transition == "resolved")
        if marked:
            commands.append(("HDEL", partition_keys(self.partition).held, self._mark(notice.key)))
        if commands:
            await self._parts.outbox.run(commands)
        if marked:
            self._marks.pop(notice.key, None)

    async def bury(self, job: Job, reason: str) -> None:
        """Among the dead letters."""
        sink = self._parts.sink.name
        gone = await self._parts.outbox.bury(self.partition, sink, job.notice, reason, job.attempts, now_ms())
        self._parts.metrics.dead_letters_dropped.inc(gone)

    async def attempt(self, job: Job) -> Result | None:
        """One try, unless a silence or the course of things has settled it."""
        try:
            if await self._silenced(job.notice):
                self._parts.count("silenced", job.notice)
                await insist(partial(self._keep_back, job))
                return None
            if job.token.startswith(AGAIN) and await self._superseded(job.notice):
                self._parts.count("superseded", job.notice)
                await insist(partial(self.settle, job))
                return None
            await self._while_held()
            return await self._parts.client.tell(job.notice)
        except FAILURES as error:
            return Result("failed", f"the store does not answer: {error}")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            logger.exception("a notice cannot be put into words")
            return Result("refused", f"cannot be put into words: {error!r}")

    def note(self, word: str, job: Job) -> None:
        """Count a result."""
        self._parts.count(word, job.notice)

    def age_s(self, job: Job) -> float:
        """Since the change was committed, by our clock and the store's."""
        return (now_ms() - job.notice.born_ms) / 1000.0

    def left(self) -> None:
        """There is room for another."""
        if self.more:
            self._parts.wake()

    async def _silenced(self, notice: Notice) -> bool:
        """Whether the sink is not to be told. Of the end of an alert it is told if it was told of its beginning."""
        if notice.transition in OPENING:
            return await self._parts.silences.silenced(notice.record)
        mark = self._marks.get(notice.key)
        return mark is not None and not mark["told"] and mark["id"] == notice.record["id"]

    async def _keep_back(self, job: Job) -> None:
        """Remember what the sink was not told; of what is over there is nothing to remember."""
        notice = job.notice
        if notice.transition not in OPENING:
            await self.settle(job)
            return
        before = self._marks.get(notice.key)
        known = before is not None and before["id"] == notice.record["id"]
        told = before["told"] if before is not None and known else notice.transition != "firing"
        mark = {"id": notice.record["id"], "transition": notice.transition, "event_id": notice.event_id, "told": told}
        keep: Command = ("HSET", partition_keys(self.partition).held, self._mark(notice.key), json.dumps(mark))
        await self._parts.outbox.run([keep, *job.settle])
        self._marks[notice.key] = mark

    async def _superseded(self, notice: Notice) -> bool:
        """Whether a dead letter would bring back to life what is over, at a sink that keeps incidents rather than events."""
        if not isinstance(self._parts.sink, (AlertmanagerSink, PagerDutySink)) or notice.transition == "resolved":
            return False
        record = await self._parts.outbox.alert(self.partition, notice.key)
        return record is None or record["id"] != notice.record["id"] or not is_open(record)

    async def _while_held(self) -> None:
        """Return when the lease is surely ours; if it is lost, this task is cancelled soon."""
        while asyncio.get_running_loop().time() >= self.valid_until:  # noqa: ASYNC110  (a clock tells, no event)
            await asyncio.sleep(WAIT_S)
