"""Answers that several readers share: whoever says how old an answer may be gets one that another had made for the same question.

What fifty open pages ask in turn is then read, checked and packed once for all of them, off the event loop. Who says nothing gets an answer that
was begun after the question came.
"""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from service.overview.fleet_view import Document

QUESTIONS = 32  # kept
OLDEST_S = 10.0  # an answer is never older, whatever the caller would take
MAX_AGE = re.compile(r"(?:^|,)\s*max-age=(\d{1,9})\s*(?:,|$)", re.IGNORECASE)

Make = Callable[[], Awaitable[Callable[[], bytes]]]  # reads, and returns the heavy part, which runs on a thread


@dataclass(slots=True)
class Answer:
    """To one question: when its reading began, and what came or will come of it."""

    begun_s: float
    document: "asyncio.Task[Document]"


class SharedAnswers:
    """The last answers by question."""

    def __init__(self) -> None:
        self._answers: OrderedDict[str, Answer] = OrderedDict()

    async def get(self, question: str, max_age_s: float, make: Make) -> Document:
        """An answer that was begun no longer ago than this. Raises what `make` raises."""
        now = time.monotonic()
        answer = self._answers.get(question)
        if answer is None or answer.begun_s < now - min(max_age_s, OLDEST_S) or failed(answer.document):
            before = None if answer is None or not answer.document.done() or failed(answer.document) else answer
            task = asyncio.create_task(self._made(make, None if before is None else before.document.result()))
            answer = self._answers[question] = Answer(now, task)
            self._answers.move_to_end(question)
            while len(self._answers) > QUESTIONS:
                self._answers.popitem(last=False)
        return await asyncio.shield(answer.document)

    async def _made(self, make: Make, before: Document | None) -> Document:
        heavy = await make()
        return await asyncio.to_thread(lambda: Document.of(heavy(), before))


def failed(task: "asyncio.Task[Document]") -> bool:
    """Whether it has ended without a document."""
    return task.done() and (task.cancelled() or task.exception() is not None)


def max_age_of(cache_control: str | None) -> float:
    """Seconds that an answer may be old, of a request's Cache-Control header (RFC 9111, 5.2.1.1); 0 if it does not say."""
    found = None if cache_control is None else MAX_AGE.search(cache_control)
    return 0.0 if found is None else float(found[1])
