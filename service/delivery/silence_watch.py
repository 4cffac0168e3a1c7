"""Which silences are in force, asked for at most once a second however many notices there are."""

import asyncio
import time
from collections.abc import Sequence
from typing import Protocol

import structlog

from service.delivery.notice import Record

logger = structlog.get_logger(__name__)

ASK_EVERY_S = 1.0


class Silence(Protocol):
    """One silence or maintenance window in force."""

    def matches(self, record: Record) -> bool:
        """Whether it is about this alert."""


class Silences(Protocol):
    """Where silences are kept."""

    async def active(self, now_ms: int) -> Sequence[Silence]:
        """Those in force."""


class SilenceWatch:
    """The silences in force as of at most a second ago; while the store is away, those last seen."""

    def __init__(self, silences: Silences | None) -> None:
        self._silences = silences
        self._active: Sequence[Silence] = ()
        self._asked = -ASK_EVERY_S
        self._lock = asyncio.Lock()

    async def silenced(self, record: Record) -> bool:
        """Whether a silence is in force for this alert."""
        if self._silences is None:
            return False
        async with self._lock:
            if time.monotonic() - self._asked >= ASK_EVERY_S:
                try:
                    self._active = await self._silences.active(time.time_ns() // 1_000_000)
                except Exception as error:  # noqa: BLE001  (whatever it is, alerts must go out)
                    logger.warning("silences cannot be read; those last seen stay in force", reason=str(error))
                self._asked = time.monotonic()
        return any(silence.matches(record) for silence in self._active)
