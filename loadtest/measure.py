"""What was heard, as rows of the report format that `emberwatch bench` has too."""

import json
import os
import platform
import shlex
import subprocess
import sys
import time
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from loadtest.scenarios import Plan
from loadtest.vans import LoadError, Van

Row = dict[str, Any]

QUANTILES = {"latency_p50": 0.5, "latency_p99": 0.99, "latency_p99_9": 0.999}
WINDOWS = 5  # of a run; `lo` and `hi` are the lowest and the highest of them


@dataclass(slots=True)
class Heard:
    """Every event that was acknowledged: whose it was, when it was due and how long it took."""

    started: float  # perf_counter
    van: "array[int]" = field(default_factory=lambda: array("l"))
    due_s: "array[float]" = field(default_factory=lambda: array("d"))  # after the start
    latency_s: "array[float]" = field(default_factory=lambda: array("d"))
    late: "array[float]" = field(default_factory=lambda: array("d"))  # seconds by which the generator missed a due time
    last: float = 0.0  # perf_counter of the last answer
    over: bool = False
    failed: LoadError | None = None

    def begin(self) -> None:
        """The clock starts now."""
        self.started = self.last = time.perf_counter()

    def note(self, van: int, due: float, now: float) -> None:
        """An event that was due then (perf_counter) is acknowledged now."""
        self.van.append(van)
        self.due_s.append(due - self.started)
        self.latency_s.append(now - due)

    def raise_failure(self) -> None:
        """Raise the LoadError that a connection met, if one did."""
        if self.failed is not None:
            raise self.failed

    @property
    def seconds(self) -> float:
        """From the start to the last answer."""
        return self.last - self.started


def quantile(values: Sequence[float], q: float) -> float:
    """The smallest value that is not exceeded by a share q; NaN of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")


def row(name: str, params: Mapping[str, Any], value: float, unit: str, spread: Sequence[float] = ()) -> Row:
    """One figure, with the lowest and the highest of its windows."""
    known = [v for v in spread if v == v]  # noqa: PLR0124  (NaN is not itself)
    return {
        "name": name, "params": dict(params), "unit": unit, "value": float(f"{value:.6g}"),
        "lo": float(f"{min(known):.6g}") if known else None, "hi": float(f"{max(known):.6g}") if known else None,
        "peer": None, "ratio": None, "floor": None,
    }  # fmt: skip


def rows_of(
    plan: Plan, driver: str, vans: Sequence[Van], heard: Heard, before: Mapping[str, float], after: Mapping[str, float]
) -> list[Row]:
    """All figures of a run.

    Args:
        plan: what was run.
        driver: by whom.
        vans: that were sent.
        heard: at the senders.
        before: the service's metrics before the first sample.
        after: and after the last.
    """
    params: Row = {"scenario": plan.name, "driver": driver, "vans": len(vans)}
    samples = sum(van.made for van in vans)
    size = heard.seconds / WINDOWS
    done = [0.0] * WINDOWS
    per_event = samples / max(1, len(heard.van))
    for due, took in zip(heard.due_s, heard.latency_s, strict=True):
        done[min(WINDOWS - 1, int((due + took) / size))] += per_event / size
    cpu = after["process_cpu_seconds_total"] - before["process_cpu_seconds_total"]
    cpu_us = cpu / samples * 1e6
    rows = [
        row("offered_load", params, samples / plan.size.seconds, "samples/s"),
        row("throughput", params, samples / heard.seconds, "samples/s", done),
        *latency_rows(plan, params, heard),
        row("server_cpu_per_sample", params, cpu_us, "us"),
        row("samples_per_core_second", params, samples / cpu if cpu else float("nan"), "samples/s"),
        row("cores_used", params, cpu / heard.seconds, "cores"),
        row("batch_size", params, ratio_of("batch_size_sum", "batch_size_count", before, after), "samples"),
    ]
    for name in sorted(after):
        if name.startswith("stage_seconds_sum "):
            spent = after[name] - before.get(name, 0.0)
            rows.append(row("stage_time", params | {"stage": name.split()[1]}, spent / samples * 1e6, "us"))
    return [
        *rows,
        row("requests_sent_again", params, sum(van.retries for van in vans), "count"),
        row("duplicates", params, sum(van.duplicates for van in vans), "count"),
        row("generator_late_p99", params, 1e3 * quantile(heard.late, 0.99), "ms"),
        row("samples_lost", params, 0, "count"),  # or the run would have raised: see loadtest/verify.py
    ]


def ratio_of(above: str, below: str, before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Growth of one series over that of another; NaN if the other did not grow."""
    grown = after[below] - before[below]
    return (after[above] - before[above]) / grown if grown else float("nan")


def latency_rows(plan: Plan, params: Row, heard: Heard) -> list[Row]:
    """Quantiles by role, in milliseconds from when an event was due."""
    rows = []
    size = max(plan.size.seconds, max(heard.due_s, default=0.0) + 1e-9) / WINDOWS
    for role in dict.fromkeys(plan.roles):
        windows: list[list[float]] = [[] for _ in range(WINDOWS)]
        for van, due, took in zip(heard.van, heard.due_s, heard.latency_s, strict=True):
            if plan.roles[van] == role:
                windows[min(WINDOWS - 1, int(due / size))].append(1e3 * took)
        everything = [took for window in windows for took in window]
        for name, q in QUANTILES.items():
            spread = [quantile(window, q) for window in windows if window]
            rows.append(row(name, params | {"role": role}, quantile(everything, q), "ms", spread))
    return rows


def report(rows: list[Row]) -> Row:
    """The rows with where they come from."""
    commit = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=False)
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return {
        "commit": commit.stdout.strip(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": f"{platform.machine()}, {os.cpu_count()} cores, load average {load}; generator, service and store share them",
        "command": shlex.join(["python", "-m", f"loadtest.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "correct": True,
        "rows": rows,
    }


def write_report(rows: list[Row], file: Path | None) -> None:
    """The rows as a report, into a file or to standard output."""
    text = told(report(rows))
    if file is None:
        sys.stdout.write(text)
    else:
        file.write_text(text)


def told(whole: Row) -> str:
    """A report as JSON with one row a line, so that a changed figure is a changed line."""
    head = json.dumps({name: value for name, value in whole.items() if name != "rows"}, indent=1)
    rows = ",\n".join("  " + json.dumps(row) for row in whole["rows"])
    return f'{head[:-2]},\n "rows": [\n{rows}\n ]\n}}\n'
