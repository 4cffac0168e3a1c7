"""Redis, where the truth is. Every key of a partition carries its hash tag, so that one script touches one slot.

    {ew:p}:v:<id>:head                         the head (service/records/head.py)
    {ew:p}:v:<id>:journal                      what was accepted lately, after a base that names a snapshot (service/records/journal.py)
    {ew:p}:v:<id>:snap:<epoch>:<seq>:<nonce>   the recurrent state (service/records/state_codec.py) that a base names
    {ew:p}:v:<id>:trend                        its last 48 hours in bins of five minutes (service/engine/trend.py)
    {ew:p}:v:<id>:tail, :history               accepted samples as sent, with retain_history (service/records/history.py)
    {ew:p}:vehicles, {ew:p}:risks              vehicles by when they were heard and by last risk
    {ew:p}:alerts, {ew:p}:open                 last alert of each vehicle and rule; phase and severity of the open ones
    {ew:p}:transitions                         stream of what changed
    {ew:p}:lease                               whose turn it is to see to what time alone changes
    {ew:p}:delivery, {ew:p}:held, {ew:p}:dead  of service/delivery/outbox.py
    {ew:p}:fence                               written and waited for before something read is acknowledged (durability fsync)
    ew:partitions                              how many partitions this data set has

A snapshot is written to a fresh key that expires; then a script points the journal's base to it, makes it permanent and
unlinks the old one: two writers can never overwrite the bytes that a base names, and orphans go away by themselves.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from prometheus_client import Histogram

from service.errors import StoreUnavailable
from service.records.head import VERSION, read_version
from service.records.history import Retention
from service.records.journal import BASE_DTYPE, KEEP
from service.samples import NO_SEQ
from service.store.alert_shelf import AlertShelf
from service.store.changes import ABSENT, FORGET_HISTORY, NO_BASE, Commit, Flip, Outcome, Stored, TrendWrite, version_of
from service.store.erasure import forget_held, forget_transitions
from service.store.histories import PACK, Histories
from service.store.redis_link import RedisLink, Script
from service.store.redis_wire import Command
from service.store.roll import Roll
from service.store.store_check import Durability, check_store
from service.store.store_keys import VehicleKeys, partition_keys, vehicle_keys
from service.store.timed_link import TimedLink

ORPHAN_EXPIRY_S = 600
TRANSITIONS_KEPT = 100_000  # per partition
COMMITS_PER_CALL = 500  # Lua passes so many vehicles' scores to one command; and a script must not hold up the store

COMMIT, FLIP, ERASE, REPLACE_ALERT, LEASE = (
    Script.read(Path(__file__).with_name(f"{name}.lua"))
    for name in ("commit", "flip", "erase", "replace_alert", "lease")
)


class Store:
    """The data set behind one URL. Every method raises StoreUnavailable when Redis does not answer or refuses."""

    def __init__(
        self,
        url: str,
        partitions: int,
        timeout_s: float,
        duration: Histogram,
        *,
        entry_bytes: int,
        durability: Durability = "everysec",
        retention: Retention | None = None,
    ) -> None:
        scripts = (COMMIT, FLIP, ERASE, PACK, REPLACE_ALERT, LEASE)
        self.link = TimedLink(RedisLink(url, timeout_s, scripts, fsync=durability == "fsync"), duration)
        self.roll = Roll(self.link, partitions)
        self.alerts = AlertShelf(self.link, partitions, entry_bytes)
        self.histories = Histories(self.link, partitions)
        self._partitions = partitions
        self._entry_bytes = entry_bytes
        self._durability = durability
        self.on_news: Callable[[set[int]], None] = lambda _: None  # told the partitions where alerts have changed
        self._retention = (b"", 0, 0, 0) if retention is None else retention.for_script()

    async def close(self) -> None:
        """Give the connections back."""
        await self.link.raw.close()

    async def ping(self) -> None:
        """Raise StoreUnavailable unless the store answers."""
        async with self.link.timed("ping"):
            await self.link.raw.ping()

    async def check(self) -> None:
        """Refuse a store that must not be used as it is. Raises StoreMisconfigured."""
        await check_store(self.link, self._partitions, self._durability)

    async def load(self, vehicle_ids: Sequence[str]) -> list[Stored | None]:
        """Heads, their journals, and the snapshots that these name; head and journal of one moment."""
        found = await self.load_reachable(vehicle_ids)
        if len(found) < len(set(vehicle_ids)):
            raise StoreUnavailable.of(vehicle_id for vehicle_id in vehicle_ids if vehicle_id not in found)
        return [found[vehicle_id] for vehicle_id in vehicle_ids]

    async def load_reachable(self, vehicle_ids: Sequence[str]) -> dict[str, Stored | None]:
        """As `load`, of those vehicles whose server answers."""
        loaded: dict[str, Stored | None] = {}
        todo = list(vehicle_ids)
        async with self.link.timed("load"):
            while todo:
                found = await self._heads_and_journals(todo)
                keys = [None if s is None else self._keys(v).snapshot_of(s.base) for v, s in found.items()]
                blobs = iter(await self.link.attempt([("GET", key) for key in keys if key is not None]))
                doubtful = []
                for (vehicle_id, stored), key in zip(found.items(), keys, strict=True):
                    blob = None if key is None else next(blobs)
                    if stored is None or key is None:
                        loaded[vehicle_id] = stored
                    elif blob is None:
                        doubtful.append(vehicle_id)
                    elif not isinstance(blob, Exception):
                        loaded[vehicle_id] = stored._replace(snapshot=blob)
                todo = []
                for vehicle_id, now in (await self._heads_and_journals(doubtful)).items():
                    before = found[vehicle_id]
                    if now is not None and before is not None and now.base == before.base:
                        loaded[vehicle_id] = before  # its snapshot is gone
                    else:
                        todo.append(vehicle_id)  # a flip came between our two reads
            if self._durability == "fsync":
                return await self._fenced(loaded)
        return loaded

    async def _fenced(self, loaded: dict[str, Stored | None]) -> dict[str, Stored | None]:
        """Those of these vehicles whose servers have on disk, when this returns, all that they had taken so far.

        A sample that was committed and not acknowledged, because the disk was slow, must not be acknowledged as a
        duplicate before it is.
        """
        partition_of = {vehicle_id: self._keys(vehicle_id).partition for vehicle_id in loaded}
        partitions = sorted(set(partition_of.values()))
        replies = await self.link.attempt([("SET", partition_keys(p).fence, 1) for p in partitions], durable=True)
        fenced = {p for p, reply in zip(partitions, replies, strict=True) if not isinstance(reply, Exception)}
        return {vehicle_id: stored for vehicle_id, stored in loaded.items() if partition_of[vehicle_id] in fenced}

    async def peek(self, vehicle_id: str) -> Stored | None:
        """Head and journal of a vehicle without its state."""
        async with self.link.timed("peek"):
            found = await self._heads_and_journals([vehicle_id])
        if vehicle_id not in found:
            raise StoreUnavailable.of([vehicle_id])
        return found[vehicle_id]

    async def _heads_and_journals(self, vehicle_ids: Sequence[str]) -> dict[str, Stored | None]:
        """Both of each vehicle whose server answers, read in one command per partition."""
        groups: dict[int, list[str]] = {}
        for vehicle_id in vehicle_ids:
            groups.setdefault(self._keys(vehicle_id).partition, []).append(vehicle_id)
        replies = await self.link.attempt(
            [
                ("MGET", *(key for v in members for key in (self._keys(v).head, self._keys(v).journal)))
                for members in groups.values()
            ]
        )
        return {
            vehicle_id: None if reply[2 * i] is None else Stored(reply[2 * i], reply[2 * i + 1], None)
            for members, reply in zip(groups.values(), replies, strict=True)
            if not isinstance(reply, Exception)
            for i, vehicle_id in enumerate(members)
        }

    async def heads(self, vehicle_ids: Sequence[str]) -> list[bytes | None]:
        """Heads only."""
        return await self.link.ask("heads", [("GET", self._keys(v).head) for v in vehicle_ids])

    async def heads_together(self, vehicle_ids: Sequence[bytes]) -> list[bytes | None]:
        """Heads of vehicles that are all in one partition, read at one moment."""
        keys = [self._keys(vehicle_id.decode()).head for vehicle_id in vehicle_ids]
        return cast("list[bytes | None]", (await self.link.ask("heads", [("MGET", *keys)]))[0])

    async def version(self, vehicle_id: str) -> bytes:
        """The version of a vehicle as it is now."""
        found = await self.versions([vehicle_id])
        if vehicle_id not in found:
            raise StoreUnavailable.of([vehicle_id])
        return found[vehicle_id]

    async def versions(self, vehicle_ids: Sequence[str]) -> dict[str, bytes]:
        """The versions as they are now of those vehicles whose server answers."""
        async with self.link.timed("versions"):
            replies = await self.link.attempt(
                [("GETRANGE", self._keys(v).head, 0, VERSION.size - 1) for v in vehicle_ids]
            )
        return {
            vehicle_id: reply
            for vehicle_id, reply in zip(vehicle_ids, replies, strict=True)
            if not isinstance(reply, Exception)
        }

    async def bases(self, vehicle_ids: Sequence[str]) -> list[bytes]:
        """The base of each vehicle's journal as it is now; NO_BASE where there is no journal."""
        last = BASE_DTYPE.itemsize - 1
        return await self.link.ask("bases", [("GETRANGE", self._keys(v).journal, 0, last) for v in vehicle_ids])

    async def commit(self, commits: Sequence[Commit]) -> list[int]:
        """Commit each vehicle on its own, all in one round trip; an Outcome for each.

        Raises:
            StoreUnavailable: nothing is known of any.
        """
        calls: list[list[int]] = []  # places of the commits that go together
        open_calls: dict[int, list[int]] = {}
        written: list[int] = []  # places of the commits that bring a snapshot
        commands: list[Command] = []
        for i, commit in enumerate(commits):
            keys = self._keys(commit.vehicle_id)
            members = open_calls.get(keys.partition)
            if members is None or len(members) == COMMITS_PER_CALL:
                members = open_calls[keys.partition] = []
                calls.append(members)
            members.append(i)
            if commit.rebase is not None and commit.rebase.snapshot is not None:
                key = keys.snapshot_of(commit.rebase.base)
                commands.append(("SET", key, commit.rebase.snapshot, "EX", ORPHAN_EXPIRY_S))
                written.append(i)
        commands += [self._commit_call([commits[i] for i in members]) for members in calls]
        async with self.link.timed("commit"):
            replies = await self.link.attempt(commands, durable=True)
        outcomes = outcomes_of(len(commits), written, replies[: len(written)], calls, replies[len(written) :])
        self._tell_news(commits, outcomes)
        if commits and outcomes.count(Outcome.UNKNOWN) == len(commits):
            raise StoreUnavailable.of(commit.vehicle_id for commit in commits)
        return outcomes

    def _tell_news(self, commits: Sequence[Commit], outcomes: Sequence[int]) -> None:
        """Name the partitions in whose outbox there is, or may be, a change of an alert."""
        heard = {Outcome.WON, Outcome.WON_WITHOUT_JOURNAL, Outcome.UNKNOWN}
        changed = (c for c, outcome in zip(commits, outcomes, strict=True) if c.alerts and outcome in heard)
        news = {self._keys(commit.vehicle_id).partition for commit in changed}
        if news:
            self.on_news(news)

    def _commit_call(self, commits: Sequence[Commit]) -> Command:
        """One script call for vehicles of one partition."""
        retention = self._retention
        if not retention[0] and any(commit.samples for commit in commits):
            retention = (FORGET_HISTORY, 0, 0, 0)  # nothing is retained any more, but what was is to be forgotten
        keys: list[Any] = [*partition_keys(self._keys(commits[0].vehicle_id).partition)[:6]]
        bounds = (TRANSITIONS_KEPT, VERSION.size, BASE_DTYPE.itemsize, self._entry_bytes)
        args: list[Any] = [*bounds, len(commits), *retention]
        trends: list[tuple[int, bytes, TrendWrite]] = []
        for place, (vehicle_id, expected, head, entries, rebase, alerts, trend, samples) in enumerate(commits, 1):
            at = self._keys(vehicle_id)
            if rebase is None:
                keys += (at.head, at.journal, at.head, at.head)
                args += (vehicle_id, expected, head, entries, NO_BASE, NO_BASE, 0, alerts)
            else:
                fresh = None if rebase.snapshot is None else at.snapshot_of(rebase.base)
                keys += (at.head, at.journal, fresh or at.head, rebase.old or at.head)
                args += (vehicle_id, expected, head, entries, rebase.base, rebase.expected, rebase.keep, alerts)
            if retention[0]:
                keys += (at.tail, at.history)
                args.append(samples)
            if trend:
                trends += [(place, at.trend, write) for write in trend]
        for place, key, write in trends:
            keys.append(key)
            args += (place, *write)
        return COMMIT.call(keys, args)

    async def flip(self, flips: Sequence[Flip]) -> list[int]:
        """Write snapshots and point their journals to them; an Outcome for each (WON, LOST, NO_SNAPSHOT, UNKNOWN)."""
        commands: list[Command] = []
        for flip in flips:
            at = self._keys(flip.vehicle_id)
            fresh, old = at.snapshot_of(flip.base), at.snapshot_of(flip.expected)
            keys = (at.head, at.journal, fresh, old or at.head)
            commands.append(("SET", fresh, flip.snapshot, "EX", ORPHAN_EXPIRY_S))
            commands.append(FLIP.call(keys, (flip.expected, flip.base, self._entry_bytes, KEEP, flip.proof)))
        async with self.link.timed("flip"):
            replies = await self.link.attempt(commands)
        return [Outcome.UNKNOWN if isinstance(reply, Exception) else reply for reply in replies[1::2]]

    def snapshot_named_by(self, vehicle_id: str, base: bytes) -> bytes | None:
        """Key of the snapshot that a journal's base names; None for the zero state."""
        return self._keys(vehicle_id).snapshot_of(base)

    def snapshot_key(self, vehicle_id: str, stored: Stored) -> bytes | None:
        """Key of the snapshot that a vehicle's base names, or that a head of the first layout named itself."""
        if stored.journal is not None:
            return self.snapshot_named_by(vehicle_id, stored.base)
        version = read_version(stored.head)
        if version is None or version.seq == NO_SEQ:
            return None
        return self._keys(vehicle_id).snapshot_named(version.epoch, version.seq, version.nonce)

    @property
    def partitions(self) -> int:
        """Of this data set."""
        return self._partitions

    def keys_of(self, vehicle_id: str) -> VehicleKeys:
        """Where a vehicle is kept."""
        return self._keys(vehicle_id)

    async def trend(self, vehicle_id: str, ranges: Sequence[tuple[int, int]]) -> bytes:
        """Parts of a vehicle's ring, each from its first byte to its last; shorter where the ring is."""
        key = self._keys(vehicle_id).trend
        return b"".join(await self.link.ask("trend", [("GETRANGE", key, *part) for part in ranges]))

    async def erase(self, vehicle_id: str, before: Stored | None, rules: Sequence[str]) -> bool:
        """Delete everything of a vehicle that is as it was read before, alerts of these rules too; False if it has moved on."""
        at = self._keys(vehicle_id)
        shared = partition_keys(at.partition)
        snapshot = None if before is None else self.snapshot_key(vehicle_id, before)
        own = (at.head, at.journal, snapshot or at.head, at.trend, at.tail, at.history)
        keys = (shared.vehicles, shared.risks, shared.alerts, shared.open, *own)
        expected, base = (ABSENT, NO_BASE) if before is None else (version_of(before.head), before.base)
        async with self.link.timed("erase"):
            erased = (
                await self.link.raw.pipeline([ERASE.call(keys, (vehicle_id, expected, base, *rules))], durable=True)
            )[0]
            if erased:
                await forget_transitions(self.link.raw, shared.transitions, vehicle_id)
                await forget_transitions(self.link.raw, shared.dead, vehicle_id)
                await forget_held(self.link.raw, shared.held, vehicle_id)
        return bool(erased)

    async def stored_bytes(self, vehicle_id: str) -> int:
        """Memory that the store spends on this vehicle's head, journal, snapshot, trend and history, by its own account."""
        at = self._keys(vehicle_id)
        snapshot = at.snapshot_of((await self.bases([vehicle_id]))[0])
        keys = [at.head, at.journal, at.trend, at.tail, at.history, *([] if snapshot is None else [snapshot])]
        sizes = await self.link.ask("memory", [("MEMORY", "USAGE", key) for key in keys])
        return sum(size or 0 for size in sizes)

    def _keys(self, vehicle_id: str) -> VehicleKeys:
        return vehicle_keys(vehicle_id, self._partitions)


def outcomes_of(
    n: int, written: Sequence[int], writes: Sequence[Any], calls: Sequence[Sequence[int]], replies: Sequence[Any]
) -> list[int]:
    """Outcomes of n commits, by the replies to the scripts, each called for the places `calls`, and to the snapshots `written`."""
    outcomes = [Outcome.UNKNOWN] * n
    for members, reply in zip(calls, replies, strict=True):
        if not isinstance(reply, Exception):
            for i, outcome in zip(members, reply, strict=True):
                outcomes[i] = outcome
    for i, reply in zip(written, writes, strict=True):
        if isinstance(reply, Exception) and outcomes[i] == Outcome.NO_SNAPSHOT:
            outcomes[i] = Outcome.UNKNOWN  # refused, not overtaken
    return outcomes
