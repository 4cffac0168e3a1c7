"""Vehicles that come and go as a whole: exported, installed from an export, erased. All of it by compare-and-set."""

import json
from dataclasses import dataclass

import structlog
from pydantic import ValidationError

from service.alerting.alerts import Rule
from service.alerting.record import Record, field_of, place_of, read_record
from service.alerting.schemas import Alert
from service.engine.context import EngineContext
from service.engine.news import FORGET, line_of
from service.engine.residency import Residency, progress
from service.engine.snapshots import fresh_nonce
from service.engine.state_access import StateAccess
from service.errors import ServiceError, StoreUnavailable
from service.records.checksum import seal
from service.records.head import Heads, Version, read_version
from service.records.journal import KEEP, JournalError
from service.records.state_codec import Snapshot, pack_snapshot
from service.records.vehicle_export import Export, ExportError
from service.store.changes import ABSENT, FORGET_HISTORY, NO_BASE, Commit, Outcome, Rebase, Stored, version_of

logger = structlog.get_logger(__name__)

MAX_ATTEMPTS = 5
RULES = tuple(rule.word for rule in Rule)


class UnusableExport(ServiceError):
    """The body is no export, is damaged, or does not hold together."""

    status, kind = 422, "unusable-export"


class OtherModel(ServiceError):
    """The state belongs to another model than the one in service."""

    status, kind = 409, "other-model"


class VehicleWentOn(ServiceError):
    """The vehicle is further here than in the export: importing it would take back what was acknowledged."""

    status, kind = 409, "vehicle-went-on"


class PreconditionFailed(ServiceError):
    """The vehicle is not as If-Match or If-None-Match expects it."""

    status, kind = 412, "precondition-failed"


@dataclass(frozen=True, slots=True)
class Precondition:
    """What If-Match and If-None-Match ask.

    Attributes:
        match: entity tags of which the vehicle must have one; "*" stands for any. None: nothing is asked.
        none_match: entity tags of which it must have none; "*" stands for any.
    """

    match: frozenset[str] | None = None
    none_match: frozenset[str] = frozenset()

    def check(self, vehicle_id: str, etag: str | None) -> None:
        """Raise PreconditionFailed unless a vehicle with this tag (None: there is none) will do."""
        if etag is not None and self.none_match & {etag, "*"}:
            raise PreconditionFailed(f"{vehicle_id} is at {etag}", vehicle_id=vehicle_id)
        if self.match is not None and (etag is None or not self.match & {etag, "*"}):
            now = "is not there" if etag is None else f"is at {etag}"
            raise PreconditionFailed(f"{vehicle_id} {now}", vehicle_id=vehicle_id)


def etag_of(head: bytes | None) -> str | None:
    """The entity tag of a vehicle's state: its version. None for a vehicle that is not there."""
    version = read_version(head or b"")
    if version is None:
        return None
    revision = f"-{version.revision}" if version.revision else ""
    return f'"{version.epoch}-{version.seq}-{version.nonce:016x}{revision}"'


@dataclass(frozen=True, slots=True)
class Installable:
    """An export that fits the model in service."""

    export: Export
    head: Heads  # (1,), sealed, with a nonce of its own
    entries: bytes
    base: bytes
    alerts: list[Record]  # the vehicle's last ones


class VehicleTransfer:
    """Exports, installs and erases vehicles for one worker."""

    def __init__(self, context: EngineContext, states: StateAccess, residency: Residency) -> None:
        self._layout = context.layout
        self._journals = context.journals
        self._trends = context.trends
        config = context.checkpoint.config
        self._shapes = (config.conv_state_shape, config.ssm_state_shape)
        self._states = states
        self._residency = residency
        self._claims = context.claims
        self._store = context.store

    async def export(self, vehicle_id: str) -> tuple[Export | None, str] | None:
        """A vehicle and its entity tag; without export if it has no state, None if it was never heard of.

        Raises:
            StoreUnavailable: also when other workers are faster all the time.
        """
        for _ in range(MAX_ATTEMPTS):
            async with self._claims.hold([vehicle_id]):
                held = await self._states.export(vehicle_id)
                stored = await self._store.peek(vehicle_id)
                if held is None or stored is None:
                    return None
                alerts = await self._store.alerts.of(vehicle_id, [field_of(vehicle_id, rule) for rule in RULES])
                trend = await self._store.trend(vehicle_id, [(0, -1)])
            etag, version = etag_of(stored.head), read_version(stored.head)
            if etag is None or version is None or held.snapshot is None:
                return None, etag or ""
            if (version.epoch, version.seq, version.nonce) != (held.snapshot.epoch, held.snapshot.seq, held.nonce):
                continue  # another worker went on between our two reads
            return self._pack(vehicle_id, stored, held.snapshot, alerts, trend), etag
        raise StoreUnavailable(f"other workers changed {vehicle_id} {MAX_ATTEMPTS} times in a row")

    def _pack(
        self, vehicle_id: str, stored: Stored, snapshot: Snapshot, alerts: list[bytes | None], trend: bytes
    ) -> Export:
        size, known = self._journals.dtype.itemsize, [record for data in alerts if (record := read_record(data))]
        told = json.dumps(known).encode() if known else b""
        try:
            entries = self._journals.unpack(stored.journal, self._layout.unpack(stored.head)).entries[-KEEP:].tobytes()
        except JournalError:
            entries = b""  # gone from the store; the state is here, only answers to retries are lost
        return Export(vehicle_id, stored.head, pack_snapshot(snapshot), told, trend, entries, size)

    async def install(self, export: Export, asked: Precondition) -> tuple[bool, str]:
        """Put an exported vehicle into the store as it is; whether it was new here, and its entity tag.

        Raises:
            UnusableExport, OtherModel: it cannot go on here.
            PreconditionFailed: the vehicle here is not as asked.
            VehicleWentOn: nothing was asked, and it is further here than in the export.
            StoreUnavailable: it was not installed, or that is not known.
        """
        ready = self._installable(export)
        async with self._claims.hold([export.vehicle_id]):
            for _ in range(MAX_ATTEMPTS):
                before = await self._store.peek(export.vehicle_id)
                asked.check(export.vehicle_id, None if before is None else etag_of(before.head))
                if asked.match is None and before is not None:
                    self._refuse_going_back(ready, before)
                won = await self._store.commit([self._commit(ready, before)])
                self._residency.drop([export.vehicle_id])
                if won[0] >= Outcome.WON:
                    etag = etag_of(ready.head.tobytes()) or ""
                    logger.info(
                        "vehicle imported", vehicle_id=export.vehicle_id, etag=etag, replaced=before is not None
                    )
                    return before is None, etag
        raise StoreUnavailable(f"other workers changed {export.vehicle_id} {MAX_ATTEMPTS} times in a row")

    def _installable(self, export: Export) -> Installable:
        """Raises UnusableExport or OtherModel, see `install`."""
        try:
            snapshot = export.snapshot()
        except ExportError as error:
            raise UnusableExport(str(error)) from error
        if snapshot.fingerprint != self._layout.fingerprint:
            raise OtherModel(
                f"the state belongs to model {snapshot.fingerprint}, in service is {self._layout.fingerprint}",
                fingerprint=snapshot.fingerprint,
            )
        try:
            return self._checked(export, snapshot)
        except ValueError as error:
            raise UnusableExport(str(error)) from error

    def _checked(self, export: Export, snapshot: Snapshot) -> Installable:
        """Raises ValueError if the parts do not belong together."""
        head = self._layout.unpack(export.head)
        numbers = tuple(int(head[name][0]) for name in ("epoch", "seq"))
        if numbers != (snapshot.epoch, snapshot.seq) or not self._layout.is_current(head[0]):
            raise ValueError(f"the head is at {numbers}, its state at {(snapshot.epoch, snapshot.seq)}")
        if (snapshot.conv.shape, snapshot.ssm.shape) != self._shapes:
            raise ValueError(f"the state has shapes {snapshot.conv.shape} and {snapshot.ssm.shape}")
        if export.entry_bytes != self._journals.dtype.itemsize:
            raise ValueError(f"its journal has entries of {export.entry_bytes} bytes")
        if len(export.trend) not in {0, self._trends.ring_bytes}:
            raise ValueError(f"its trend has {len(export.trend)} bytes, not {self._trends.ring_bytes}")
        alerts = _alerts_in(export)
        base = self._journals.base(numbers[0], int(head["accepted"][0]), numbers[1], fresh_nonce()).tobytes()
        entries = self._journals.unpack(base + export.entries, head).entries.copy()
        # A nonce of its own: workers that know the vehicle by its old version must notice that it was replaced.
        head["nonce"] = fresh_nonce()
        seal(head)
        entries["nonce"][-1:] = head["nonce"]
        if len(entries):
            seal(entries)
        return Installable(export, head, entries.tobytes(), base, alerts)

    def _refuse_going_back(self, ready: Installable, before: Stored) -> None:
        """Raises VehicleWentOn if what is here has more than what comes."""
        try:
            here = progress(self._layout.unpack(before.head)[0])
        except ValueError:
            version: Version | None = read_version(before.head)
            here = (0, 0) if version is None else (version.epoch + 1, 0)  # not comparable: refuse its own session
        if here > progress(ready.head[0]):
            session, samples = progress(ready.head[0])
            raise VehicleWentOn(
                f"{ready.export.vehicle_id} has {here[1]} samples in session {here[0]} here, {samples} in session {session} "
                "in the export; send If-Match with its ETag to replace it all the same",
                vehicle_id=ready.export.vehicle_id,
            )

    def _commit(self, ready: Installable, before: Stored | None) -> Commit:
        vehicle_id = ready.export.vehicle_id
        alerts = {record["rule"]: line_of(record, quietly=True) for record in ready.alerts}
        absent = {rule: f"{FORGET}{field_of(vehicle_id, rule)}" for rule in RULES}
        rebase = Rebase(
            base=ready.base,
            snapshot=ready.export.state,
            expected=NO_BASE if before is None else before.base,
            keep=0,
            old=None if before is None else self._store.snapshot_key(vehicle_id, before),
        )
        return Commit(
            vehicle_id,
            expected=ABSENT if before is None else version_of(before.head),
            head=ready.head.tobytes(),
            entries=ready.entries,
            rebase=rebase,
            alerts="\n".join((absent | alerts).values()),
            trend=self._trends.replacing(ready.export.trend),
            samples=FORGET_HISTORY,
        )

    async def erase(self, vehicle_id: str, asked: Precondition) -> bool:
        """Delete everything of a vehicle; whether there was anything. Nothing of it is answered afterwards.

        A snapshot that a worker is writing at this moment expires within ten minutes, unread.

        Raises:
            PreconditionFailed: the vehicle here is not as asked.
            StoreUnavailable: it was not erased, or that is not known.
        """
        async with self._claims.hold([vehicle_id]):
            for _ in range(MAX_ATTEMPTS):
                before = await self._store.peek(vehicle_id)
                asked.check(vehicle_id, None if before is None else etag_of(before.head))
                self._residency.drop([vehicle_id])
                if await self._store.erase(vehicle_id, before, RULES):
                    logger.info("vehicle erased", vehicle_id=vehicle_id, known=before is not None)
                    return before is not None
        raise StoreUnavailable(f"other workers changed {vehicle_id} {MAX_ATTEMPTS} times in a row")


def _alerts_in(export: Export) -> list[Record]:
    """Its alerts; those of exports from before alerts had rules are left behind, their machine is in the head.

    Raises:
        ValueError: they are not this vehicle's, or no alerts.
    """
    if not export.alert:
        return []
    try:
        found = json.loads(export.alert)
    except ValueError as error:
        raise ValueError(f"the alerts are not JSON: {error}") from error
    alerts = found if isinstance(found, list) else [found]
    if any(not isinstance(alert, dict) or alert.get("vehicle_id") != export.vehicle_id for alert in alerts):
        raise ValueError("the alert is another vehicle's, or none")
    known = [alert for alert in alerts if "transition" in alert]
    for alert in known:
        try:
            told = Alert.model_validate(alert)
        except ValidationError as error:
            raise ValueError(f"an alert is not one of ours: {error.errors()[0]['msg']}") from error
        if place_of(told.id) != (export.vehicle_id, told.rule):
            raise ValueError(f"alert {told.id} is not of rule {told.rule} of {export.vehicle_id}")
    return known
