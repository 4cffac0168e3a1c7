"""Names for requests and batches, in every line that is logged on their behalf.

A sender's `X-Request-ID` is kept if it is one word of at most 64 harmless characters; else the request gets one of ours,
and it is in the answer either way. A batch serves several requests: its own line, at level debug, says which.
"""

import itertools
import logging
import re
import secrets
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import structlog

REQUEST_ID = b"x-request-id"
WELL_FORMED = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
request_id: ContextVar[str] = ContextVar("request_id", default="")
batch_id: ContextVar[str] = ContextVar("batch_id", default="")

logger = structlog.get_logger(__name__)


class Names:
    """Fresh names: a counter after a random word is unique and costs no entropy each time."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    def fresh(self) -> str:
        """One that no process has given before."""
        return f"{self._prefix}-{next(self._numbers):x}"

    def of_request(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """The sender's name for a request, or one of ours."""
        for key, value in headers:
            if key == REQUEST_ID and WELL_FORMED.fullmatch(value):
                return value.decode()
        return self.fresh()


class BatchWatch(Protocol):
    """Told by the batcher which submissions a batch serves."""

    def origin(self) -> Any:
        """What to remember of the submission that is made right now."""

    def batch(self, origins: Sequence[Any], n_samples: int) -> AbstractContextManager[None]:
        """Entered while a batch is applied, in the task that applies it."""


class BatchNames:
    """Gives batches their names."""

    def __init__(self) -> None:
        self._names = Names()
        self._level = logging.getLogger(__name__)  # structlog would format a line before it is thrown away

    def origin(self) -> str:
        """The id of the request that submits."""
        return request_id.get()

    @contextmanager
    def batch(self, origins: Sequence[Any], n_samples: int) -> Iterator[None]:
        """Every line logged meanwhile names the batch."""
        batch_id.set(self._names.fresh())  # the task ends with the batch, and its context with it
        if not self._level.isEnabledFor(logging.DEBUG):
            yield
            return
        started = time.perf_counter()
        try:
            yield
        finally:
            seconds = round(time.perf_counter() - started, 6)
            logger.debug("batch", size=n_samples, requests=[str(origin) for origin in origins], seconds=seconds)


def name_the_work(_logger: object, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Structlog processor: the ids of the request and of the batch that a line belongs to, where there are any."""
    for key, variable in (("request_id", request_id), ("batch_id", batch_id)):
        if value := variable.get():
            event[key] = value
    return event
