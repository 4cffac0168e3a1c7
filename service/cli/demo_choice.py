"""How the demo's vans were chosen, with the model's answers in sight: `python -m service.cli.demo_choice` (minutes).

The fleet's vans are looked at in order. A van with an event has the day of its first one, from 06:00 UTC on, scored as the
demo would stream it, from a zero state. Taken are

- the first three whose alert fires a quarter of an hour or more before the event and is open when it starts,
- the first whose event starts without an open alert,

if alert or event come one to nine hours after the beginning (three minutes of the demo), and the first two without fault
and event, on the fleet's eighth day, whatever the model says of them. So the demo shows what an alert looks like, and not how
often there is one: docs/evaluation.md says that.
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass

from model.checkpoint import load_checkpoint
from model.evaluation import AlertRule
from model.evaluation.alerts import episodes, thresholds_of
from model.evaluation.mamba import MambaScorer
from model.fleet import VehicleTrace, simulate_vehicle
from service.cli.demo_fleet import DAY_MS, FLEET, HOUR_MS, first_ms, part_of_day

WANTED = {"caught": 3, "missed": 1, "healthy": 2}
QUIET_DAY = 7
EARLIEST_H, LATEST_H = 1.0, 9.0
LEAST_LEAD_H = 0.25
LAST_DAY = int(FLEET.days) - 3  # so that 48 h can be streamed
WATCH_H = 24.0


@dataclass(frozen=True, slots=True)
class Day:
    """What happens to a van on its day; hours are since its beginning."""

    van: int
    day: int
    fault: str
    event_h: float | None  # the first
    alert_h: float | None  # the one that is open then; for a van without event the first
    highest_risk: float  # before the first event, or ever


class Judge:
    """The shipped model with the service's alert rule."""

    def __init__(self) -> None:
        checkpoint = load_checkpoint()
        self._scorer = MambaScorer(checkpoint)
        self._calibration = checkpoint.calibration
        self._rule = AlertRule(warmup_samples=checkpoint.warmup_samples)

    def day(self, trace: VehicleTrace, van: int, day: int) -> Day:
        """What the demo will show of this van."""
        part = part_of_day(trace, day, WATCH_H)
        score = self._scorer.score([part])[0]
        alerts = episodes(part.ts_ms, score, thresholds_of(self._calibration), self._rule)
        risk = self._calibration.risk(score)
        event_ms = int(part.events_ms[0]) if len(part.events_ms) else None
        before = slice(None) if event_ms is None else part.ts_ms < event_ms
        warned = alerts if event_ms is None else alerts[(alerts[:, 0] < event_ms) & (alerts[:, 1] > event_ms)]
        return Day(
            van=van,
            day=day,
            fault=trace.fault,
            event_h=None if event_ms is None else (event_ms - first_ms(day)) / HOUR_MS,
            alert_h=float(warned[0, 0] - first_ms(day)) / HOUR_MS if len(warned) else None,
            highest_risk=float(risk[before].max(initial=0.0)),
        )


def first_event_day(trace: VehicleTrace) -> int | None:
    """The day of the first event; None where there is none, or too late to be streamed."""
    if not len(trace.events_ms):
        return None
    day = int((trace.events_ms[0] - first_ms(0)) // DAY_MS)
    return day if 0 <= day <= LAST_DAY else None


def kind(day: Day) -> str | None:
    """What the demo would show this day as; None: it is not shown."""
    if day.event_h is None:
        return "healthy" if not day.fault else None
    if day.alert_h is None:
        return "missed" if EARLIEST_H <= day.event_h <= LATEST_H else None
    in_time = EARLIEST_H <= day.alert_h <= LATEST_H and day.event_h - day.alert_h >= LEAST_LEAD_H
    return "caught" if in_time else None


def choose() -> Iterator[tuple[str, Day]]:
    """The vans, as they are found."""
    judge = Judge()
    wanted = dict(WANTED)
    for van in range(FLEET.n_vehicles):
        trace = simulate_vehicle(FLEET, van)
        day = first_event_day(trace)
        if day is None and (trace.fault or len(trace.events_ms) or not wanted["healthy"]):
            continue
        shown = judge.day(trace, van, QUIET_DAY if day is None else day)
        found = kind(shown)
        if found is not None and wanted[found]:
            wanted[found] -= 1
            yield found, shown
        if not any(wanted.values()):
            return


def main() -> int:
    """Print the choice; returns the exit code."""
    for found, day in choose():
        sys.stdout.write(f"{found:>8}  {day}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
