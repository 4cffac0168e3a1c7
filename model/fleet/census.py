"""Count what a fleet's labels look like: positive share, events and vans by fault.

python -m model.fleet.census --vehicles 240 --days 14 --seed 0
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from model.fleet.config import FleetConfig
from model.fleet.simulation import simulate


@dataclass(slots=True)
class Group:
    """Sums over the vans that share a fault."""

    vans: int = 0
    vans_with_events: int = 0
    samples: int = 0
    valid: int = 0
    positive: int = 0
    causes: Counter[str] = field(default_factory=Counter)


def census(config: FleetConfig) -> dict[str, Group]:
    """Simulate the fleet; sums by fault kind, 'healthy' for none."""
    groups: dict[str, Group] = {}
    for number, trace in enumerate(simulate(config)):
        group = groups.setdefault(trace.fault or "healthy", Group())
        group.vans += 1
        group.vans_with_events += trace.events_ms.size > 0
        group.samples += trace.ts_ms.size
        group.valid += int(trace.valid.sum())
        group.positive += int((trace.label & trace.valid).sum())
        group.causes.update(trace.event_causes)
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{number + 1}/{config.n_vehicles} vans")
    return groups


def table(groups: dict[str, Group], seconds: float) -> str:
    """The census as a Markdown table."""
    positive = sum(group.positive for group in groups.values())
    valid = sum(group.valid for group in groups.values())
    samples = sum(group.samples for group in groups.values())
    summary = (
        f"{100 * positive / valid:.3f} % of valid instants positive, {100 * (1 - valid / samples):.3f} % within events, "
        f"{samples:,} samples, {samples / seconds / 1e6:.2f} M samples/s"
    )
    lines = [
        summary,
        "",
        "| van | vans | with events | events by cause | positive, % | share of positives, % |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for kind, group in sorted(groups.items()):
        causes = ", ".join(f"{count} {cause}" for cause, count in group.causes.most_common()) or "none"
        lines.append(
            f"| {kind} | {group.vans} | {group.vans_with_events} | {causes} "
            f"| {100 * group.positive / group.valid:.2f} | {100 * group.positive / max(positive, 1):.0f} |"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m model.fleet.census", description=__doc__)
    defaults = FleetConfig()
    parser.add_argument("--vehicles", type=int, default=defaults.n_vehicles)
    parser.add_argument("--days", type=float, default=defaults.days)
    parser.add_argument("--seed", type=int, default=defaults.seed)
    parser.add_argument("--start-ms", type=int, default=defaults.start_ms, help="epoch ms of the first sample")
    parser.add_argument("--faulty-share", type=float, default=defaults.faulty_share)
    parser.add_argument("--fault", action="append", help="only this kind of fault; may be repeated")
    parser.add_argument("--json", action="store_true", help="print numbers instead of a table")
    options = parser.parse_args(arguments)
    config = FleetConfig(
        n_vehicles=options.vehicles,
        days=options.days,
        seed=options.seed,
        start_ms=options.start_ms,
        faulty_share=options.faulty_share,
        fault_kinds=tuple(options.fault) if options.fault else defaults.fault_kinds,
    )
    began = time.perf_counter()
    groups = census(config)
    seconds = time.perf_counter() - began
    text = json.dumps({k: asdict(g) for k, g in groups.items()}) if options.json else table(groups, seconds)
    sys.stdout.write(f"{text}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
