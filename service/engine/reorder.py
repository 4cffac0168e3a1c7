"""The reorder window: samples of a vehicle that overtook each other on the way are put back in order before they are applied.

Off by default, since every sample then waits for the window: nobody can know that an earlier one is still under way. What comes
later than the window is `late`, as without it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import NotReady, QueueFull
from service.samples import Answers, Samples, Status, join_samples

Submit = Callable[[Samples], Awaitable[Answers]]


@dataclass(slots=True, eq=False)
class Held:
    """One sender's samples while they wait.

    Attributes:
        samples: all of them.
        left: (n,) bool, rows that still wait.
        answers: of those that do not.
        unanswered: rows without an answer.
        done: set with the last answer.
    """

    samples: Samples
    left: NDArray[np.bool_]
    answers: Answers
    unanswered: int
    done: asyncio.Event


class ReorderWindow:
    """Holds samples for `window_s` and then submits them by time, together with earlier ones of the same vehicles."""

    def __init__(self, submit: Submit, window_s: float, most: int) -> None:
        self._submit = submit
        self._window_s = window_s
        self._most = most
        self._waiting = 0
        self._by_vehicle: dict[str, dict[Held, None]] = {}

    async def submit(self, samples: Samples) -> Answers:
        """Answers by row, as the batcher gives them.

        Raises:
            QueueFull: they do not fit beside those that wait; none was applied.
            NotReady: the service is shutting down; none was applied.
        """
        n = len(samples)
        if self._waiting + n > self._most:
            raise QueueFull(f"{self._waiting} samples wait for the reorder window; {n} more do not fit in {self._most}")
        held = Held(samples, np.ones(n, np.bool_), Answers.blank(n, Status.DEFERRED), n, asyncio.Event())
        vehicles = set(samples.vehicle_ids)
        for vehicle_id in vehicles:
            self._by_vehicle.setdefault(vehicle_id, {})[held] = None
        self._waiting += n
        try:
            await asyncio.sleep(self._window_s)
            if held.left.any():
                # Others' samples go with ours: they must be answered even if our sender goes away.
                await asyncio.shield(asyncio.ensure_future(self._release(self._take(held))))
            if n:
                await held.done.wait()
        finally:
            self._forget(held, vehicles)
        if n and (held.answers.status == Status.OVERLOADED).all():
            raise QueueFull(held.answers.reasons[0])
        return held.answers

    async def _release(self, parts: list[tuple[Held, NDArray[np.int64]]]) -> None:
        """Submit these rows by time and answer their senders."""
        joined = join_samples([held.samples.take(rows) for held, rows in parts])
        order = np.lexsort((joined.seq, joined.ts_ms))
        answers = Answers.blank(len(joined), Status.DEFERRED)
        try:
            answers.put(order, await self._submit(joined.take(order)))
        except (QueueFull, NotReady) as error:
            answers.refuse(range(len(joined)), Status.OVERLOADED, error.detail)
        finally:
            settle(parts, answers)

    def _take(self, due: Held) -> list[tuple[Held, NDArray[np.int64]]]:
        """Rows to submit now, by sender; they wait no longer. All that is left of `due`, and older ones of its vehicles."""
        latest: dict[str, int] = {}
        mine = np.flatnonzero(due.left)
        for row in mine.tolist():
            vehicle_id, ts_ms = due.samples.vehicle_ids[row], int(due.samples.ts_ms[row])
            latest[vehicle_id] = max(ts_ms, latest.get(vehicle_id, ts_ms))
        others: dict[Held, list[int]] = {due: mine.tolist()}
        for vehicle_id, ts_ms in latest.items():
            for held in self._by_vehicle[vehicle_id]:
                if held is not due:
                    older = held.left & (held.samples.ts_ms < ts_ms)
                    rows = [
                        row for row in np.flatnonzero(older).tolist() if held.samples.vehicle_ids[row] == vehicle_id
                    ]
                    others.setdefault(held, []).extend(rows)
        parts = [(held, np.array(sorted(rows), np.int64)) for held, rows in others.items() if rows]
        for held, taken in parts:
            held.left[taken] = False
        return parts

    def _forget(self, held: Held, vehicles: set[str]) -> None:
        self._waiting -= len(held.samples)
        for vehicle_id in vehicles:
            senders = self._by_vehicle[vehicle_id]
            del senders[held]
            if not senders:
                del self._by_vehicle[vehicle_id]


def settle(parts: list[tuple[Held, NDArray[np.int64]]], answers: Answers) -> None:
    """Hand each sender the answers to its rows, which stand one sender after the other."""
    start = 0
    for held, rows in parts:
        mine = np.arange(start, start + len(rows))
        start += len(rows)
        held.answers.put(rows, pick(answers, mine))
        held.unanswered -= len(rows)
        if held.unanswered == 0:
            held.done.set()


def pick(answers: Answers, rows: NDArray[np.int64]) -> Answers:
    """Some of the answers, in this order."""
    return Answers(
        answers.status[rows],
        answers.seq[rows],
        answers.risk[rows],
        answers.surprise[rows],
        answers.phase[rows],
        answers.warming_up[rows],
        {place: answers.reasons[row] for place, row in enumerate(rows.tolist()) if row in answers.reasons},
        {place: answers.errors[row] for place, row in enumerate(rows.tolist()) if row in answers.errors},
    )
