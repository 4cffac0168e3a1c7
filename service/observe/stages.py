"""Where the time of a batch goes: one histogram by stage, and a span of each where batches are traced."""

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import copy_context
from typing import Any

from prometheus_client import Histogram

STAGES = ("load", "judge", "preprocess", "step", "alert", "pack", "commit")

Span = Callable[[str], AbstractContextManager[Any]]


class Stages:
    """Measures the stages of the engine; what they mean is in docs/state-engine.md.

    Args:
        seconds: labelled by stage.
        span: opens a span; None where batches are not traced.
    """

    def __init__(self, seconds: Histogram, span: Span | None = None) -> None:
        self._observe = {stage: seconds.labels(stage).observe for stage in STAGES}
        self._span = span

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Measure the body."""
        started = time.perf_counter()
        try:
            if self._span is None:
                yield
            else:
                with self._span(stage):
                    yield
        finally:
            self._observe[stage](time.perf_counter() - started)

    def carried(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """`work` for another thread: its stages there are spans of the batch that is open here."""
        return work if self._span is None else _in_this_context(work)


def _in_this_context(work: Callable[..., Any]) -> Callable[..., Any]:
    context = copy_context()
    return lambda *arguments: context.run(work, *arguments)
