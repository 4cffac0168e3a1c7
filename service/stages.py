"""Where the time of a batch goes: one histogram by stage."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client import Histogram

STAGES = ("load", "judge", "preprocess", "step", "alert", "pack", "commit")


class Stages:
    """Measures the stages of the engine; what they mean is in docs/state-engine.md."""

    def __init__(self, seconds: Histogram) -> None:
        self._observe = {stage: seconds.labels(stage).observe for stage in STAGES}

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Measure the body."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self._observe[stage](time.perf_counter() - started)
