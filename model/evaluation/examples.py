"""Three vans worth looking at: an event that was caught, one that was missed, a false alarm."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from model.channels import SIGNALS
from model.evaluation.evaluate import Evaluation
from model.evaluation.scorer import Scorer
from model.evaluation.summary import Summary
from model.fleet import FleetConfig, simulate_vehicle
from model.scoring import Calibration

BEFORE_MS, AFTER_MS = 6 * 3_600_000, 2 * 3_600_000


@dataclass(frozen=True, slots=True)
class Example:
    """One van around one instant."""

    kind: str  # caught, missed or false alarm
    vehicle_id: str
    fault: str
    at_ms: int  # the event's start, or the false alarm's
    fired_ms: int | None  # of the alert that caught it
    ts_ms: NDArray[np.int64]  # (length,)
    risk: NDArray[np.float64]  # (length,)
    motor_c: NDArray[np.float32]  # (length,) measured, NaN where absent
    pack_c: NDArray[np.float32]  # (length,)
    events_ms: NDArray[np.int64]  # (n_events,) starts within these samples


def examples(evaluation: Evaluation, scorer: Scorer) -> list[Example]:
    """An example of each kind that occurred with all channels; the vans are simulated and scored again.

    The caught event is the one whose lead time is nearest to the median, the missed one and the false alarm are those in
    the middle of the list, so that nobody chose them.
    """
    part = evaluation.find(scorer.name, 9)
    if part is None:
        return []
    fleet, calibration = evaluation.plan.fleet, evaluation.calibrations[scorer.name]
    return [
        _example(kind, fleet, van, at_ms, fired_ms, scorer, calibration)
        for kind, van, at_ms, fired_ms in _choices(part.summary)
    ]


def _choices(summary: Summary) -> Iterator[tuple[str, int, int, int | None]]:
    """(kind, van, instant, firing) of each example."""
    caught, lead = np.flatnonzero(summary.caught), summary.lead_min
    missed = np.flatnonzero(~summary.caught)
    if len(caught):
        typical = caught[np.abs(lead[caught] - np.median(lead[caught])).argmin()]
        van, at_ms, fired_ms = summary.events[typical].tolist()
        yield "caught", van, at_ms, fired_ms
    if len(missed):
        van, at_ms, _ = summary.events[missed[len(missed) // 2]].tolist()
        yield "missed", van, at_ms, None
    if len(summary.false_alarms):
        van, at_ms = summary.false_alarms[len(summary.false_alarms) // 2].tolist()
        yield "false alarm", van, at_ms, None


def _example(
    kind: str,
    fleet: FleetConfig,
    van: int,
    at_ms: int,
    fired_ms: int | None,
    scorer: Scorer,
    calibration: Calibration,
) -> Example:
    trace = simulate_vehicle(fleet, van)
    begin, end = np.searchsorted(trace.ts_ms, [at_ms - BEFORE_MS, at_ms + AFTER_MS])
    # The model starts at the van's first sample as it did before; what follows the example cannot matter to it.
    until = replace(
        trace,
        ts_ms=trace.ts_ms[:end],
        signals=trace.signals[:end],
        label=trace.label[:end],
        valid=trace.valid[:end],
        true_temperature=trace.true_temperature[:end],
    )
    (score,) = scorer.score([until])
    shown = slice(int(begin), int(end))
    ts_ms = trace.ts_ms[shown]
    return Example(
        kind=kind,
        vehicle_id=trace.vehicle_id,
        fault=trace.fault,
        at_ms=at_ms,
        fired_ms=fired_ms,
        ts_ms=ts_ms,
        risk=calibration.risk(score[shown]),
        motor_c=trace.signals[shown, SIGNALS.index("motor_temperature")],
        pack_c=trace.signals[shown, SIGNALS.index("pack_temperature")],
        events_ms=trace.events_ms[(trace.events_ms >= ts_ms[0]) & (trace.events_ms <= ts_ms[-1])],
    )
