"""A fleet through several models, group of vans by group of vans; nothing of a group is kept but what `visit` keeps."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context

from model.evaluation.conditions import Condition, Transform
from model.evaluation.scored import ScoredVan, scored
from model.evaluation.scorer import Scorer
from model.fleet import FleetConfig, VehicleTrace, simulate_vehicle

GROUP = 16  # vans scored side by side; fourteen days of one take 25 MB before preprocessing
AHEAD = 2  # groups simulated before they are asked for

Visit = Callable[[Condition, Scorer, ScoredVan], None]
Advance = Callable[[str, int], None]  # what was done, for how many vans


def groups_of_traces(fleet: FleetConfig, group: int, workers: int) -> Iterator[list[VehicleTrace]]:
    """The fleet's vans in order, in groups, simulated ahead by `workers` processes (0: in this one)."""
    groups = [range(start, min(start + group, fleet.n_vehicles)) for start in range(0, fleet.n_vehicles, group)]
    if workers == 0:
        for vans in groups:
            yield [simulate_vehicle(fleet, van) for van in vans]
        return
    # Spawned, not forked: torch and numba have threads by now, and a fork copies their locks as they happen to be.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        pending: deque[list[Future[VehicleTrace]]] = deque()
        for vans in groups:
            pending.append([pool.submit(simulate_vehicle, fleet, van) for van in vans])
            if len(pending) > AHEAD:
                yield [future.result() for future in pending.popleft()]
        while pending:
            yield [future.result() for future in pending.popleft()]


def score_fleet(
    fleet: FleetConfig,
    wanted: Sequence[tuple[Scorer, Sequence[Condition]]],
    visit: Visit,
    advance: Advance,
    *,
    workers: int = 0,
    group: int = GROUP,
) -> None:
    """Score every van of the fleet with every scorer under every condition wanted of it.

    Conditions that share a transform are scored once. `visit` sees the vans of each (condition, scorer) in the fleet's
    order; `advance` hears of every group that a scorer has done under one transform.

    Raises:
        ValueError: a scorer returned scores that do not fit its traces.
    """
    for traces in groups_of_traces(fleet, group, workers):
        for transform in _transforms([condition for _, conditions in wanted for condition in conditions]):
            changed = [transform(trace) for trace in traces]
            for scorer, conditions in wanted:
                due = [condition for condition in conditions if condition.transform is transform]
                if due:
                    _score_group(scorer, changed, due, visit)
                    advance(scorer.name, len(traces))


def scorings(wanted: Sequence[tuple[Scorer, Sequence[Condition]]]) -> int:
    """How many times each van is scored: the length of the work for a progress bar, in vans."""
    return sum(len(_transforms(conditions)) for _, conditions in wanted)


def _transforms(conditions: Sequence[Condition]) -> list[Transform]:
    found: list[Transform] = []
    for condition in conditions:
        if not any(condition.transform is transform for transform in found):
            found.append(condition.transform)
    return found


def _score_group(scorer: Scorer, traces: Sequence[VehicleTrace], due: Sequence[Condition], visit: Visit) -> None:
    scores = scorer.score(traces)
    if len(scores) != len(traces):
        raise ValueError(f"{scorer.name} scored {len(scores)} of {len(traces)} traces")
    for trace, score in zip(traces, scores, strict=True):
        van = scored(trace, score)
        for condition in due:
            part = van if condition.first_ms is None else van.until(int(van.ts_ms[0]) + condition.first_ms)
            visit(condition, scorer, part)
