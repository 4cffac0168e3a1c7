"""Who sends what when. A plan knows nothing of the service: what is due is due, whatever became of what was before.

A van's samples are five seconds apart by their timestamps; `period_s` is how far apart they are sent, so that a few vans are
the load of many.
"""

import heapq
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

MOST_SECONDS = 3_600.0
MOST_SAMPLES = 10_000_000
OUTAGE_SAMPLES = 60  # five minutes of driving
BACKFILL_VANS = 4
BACKFILL_ARRAY = 500
BACKFILL_EVERY_S = 1.0
HOT_TIMES = 50  # as often as the others
LOST_ANSWERS = 2  # samples of which a van that comes back does not know that they arrived
STORM_S = 1.0  # in which all vans are back


@dataclass(frozen=True, slots=True)
class Event:
    """Something is due.

    Attributes:
        due_s: seconds after the start.
        van: its index.
        samples: that it makes now; it sends all that is not acknowledged.
        again: acknowledged samples that it sends once more.
        reconnect: on a connection of its own, opened now.
    """

    due_s: float
    van: int
    samples: int = 1
    again: int = 0
    reconnect: bool = False


@dataclass(frozen=True, slots=True)
class Size:
    """How large a run is.

    Raises:
        ValueError: beyond the limits on time and count.
    """

    vans: int
    seconds: float
    period_s: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.seconds <= MOST_SECONDS:
            raise ValueError(f"seconds must be above 0 and at most {MOST_SECONDS:.0f}, got {self.seconds}")
        if self.vans < 1 or not self.period_s > 0:
            raise ValueError(f"vans must be at least 1 and period above 0, got {self.vans} and {self.period_s}")
        if self.vans * self.seconds / self.period_s > MOST_SAMPLES:
            raise ValueError(f"{self.vans} vans for {self.seconds} s are more than {MOST_SAMPLES:,} samples")


@dataclass(frozen=True, slots=True)
class Plan:
    """A scenario of a size.

    Attributes:
        roles: of each van; latencies are reported by role.
        events: makes them anew each time, in the order of time.
    """

    name: str
    size: Size
    roles: Sequence[str]
    events: Callable[[], Iterator[Event]]


def phases(size: Size) -> list[float]:
    """When each van sends first: anywhere in its period."""
    rng = random.Random(size.seed)  # noqa: S311  (reproducible, not secret)
    return [rng.uniform(0.0, size.period_s) for _ in range(size.vans)]


def regular(van: int, first_s: float, last_s: float, period_s: float) -> Iterator[Event]:
    """One sample each period."""
    n = 0
    while (due := first_s + n * period_s) < last_s:
        yield Event(due, van)
        n += 1


def together(streams: Sequence[Iterator[Event]]) -> Iterator[Event]:
    """All streams in the order of time."""
    return heapq.merge(*streams, key=lambda event: event.due_s)


def steady(size: Size) -> Plan:
    """Every van sends one sample each period."""

    def events() -> Iterator[Event]:
        return together([regular(i, at, size.seconds, size.period_s) for i, at in enumerate(phases(size))])

    return Plan("steady", size, ["fleet"] * size.vans, events)


def rush(size: Size) -> Plan:
    """A tenth of the vans drives; the others, never heard of before, set out during the first two thirds."""

    def events() -> Iterator[Event]:
        rng = random.Random(size.seed + 1)  # noqa: S311
        out = [
            at if i % 10 == 0 else rng.triangular(0.0, size.seconds * 2 / 3, size.seconds / 3)
            for i, at in enumerate(phases(size))
        ]
        return together([regular(i, at, size.seconds, size.period_s) for i, at in enumerate(out)])

    return Plan("rush", size, ["fleet"] * size.vans, events)


def storm(size: Size) -> Plan:
    """No network for the middle third of the run; then all are back within a second, each with five minutes of samples.

    A van does not know what became of the last samples before the outage, and sends them again.
    """
    gone, back = size.seconds / 3, size.seconds * 2 / 3

    def one(van: int, phase: float) -> Iterator[Event]:
        before = list(regular(van, phase, gone, size.period_s))
        again = min(LOST_ANSWERS, len(before))
        returns = back + STORM_S * phase / size.period_s
        yield from before
        yield Event(returns, van, OUTAGE_SAMPLES, again, reconnect=True)
        yield from regular(van, returns + size.period_s, size.seconds, size.period_s)

    def events() -> Iterator[Event]:
        return together([one(i, at) for i, at in enumerate(phases(size))])

    return Plan("storm", size, ["fleet"] * size.vans, events)


def backfill(size: Size) -> Plan:
    """A steady fleet, beside four vans that bring in their past in arrays of 500 samples, one each second."""

    def events() -> Iterator[Event]:
        streams = [regular(i, at, size.seconds, size.period_s) for i, at in enumerate(phases(size))]
        for i in range(BACKFILL_VANS):
            arrays = regular(size.vans + i, i * BACKFILL_EVERY_S / BACKFILL_VANS, size.seconds, BACKFILL_EVERY_S)
            streams.append(Event(array.due_s, array.van, BACKFILL_ARRAY) for array in arrays)
        return together(streams)

    return Plan("backfill", size, ["fleet"] * size.vans + ["backfill"] * BACKFILL_VANS, events)


def hot(size: Size) -> Plan:
    """A steady fleet, and one van that sends fifty times as often as it should."""

    def events() -> Iterator[Event]:
        streams = [regular(i, at, size.seconds, size.period_s) for i, at in enumerate(phases(size))]
        return together([*streams, regular(size.vans, 0.0, size.seconds, size.period_s / HOT_TIMES)])

    return Plan("hot", size, ["fleet"] * size.vans + ["hot"], events)


SCENARIOS: dict[str, Callable[[Size], Plan]] = {
    "steady": steady,
    "rush": rush,
    "storm": storm,
    "backfill": backfill,
    "hot": hot,
}
