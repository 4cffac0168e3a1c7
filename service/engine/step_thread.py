"""The one thread that touches the states, and whether it has anything to do."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Result = TypeVar("Result")


class StepThread(ThreadPoolExecutor):
    """Runs what it is given one after the other. Work is given to it by the event loop's thread only."""

    def __init__(self) -> None:
        super().__init__(1, "step")
        self._given: deque[Future[Any]] = deque()

    def submit(self, work: Callable[..., Result], /, *arguments: Any, **options: Any) -> "Future[Result]":
        """See Executor."""
        self.is_idle()
        given = super().submit(work, *arguments, **options)
        self._given.append(given)
        return given

    def is_idle(self) -> bool:
        """Whether all that it was given is done: then the event loop's thread may touch the states itself until it gives more."""
        while self._given and self._given[0].done():
            self._given.popleft()
        return not self._given
