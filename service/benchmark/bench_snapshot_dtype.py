"""`python -m service.benchmark.bench_snapshot_dtype`: what a snapshot's dtype costs in time and bytes, and what it does to the risk.

A state goes through its snapshot only when a worker has to read it: after a restart, an eviction or a takeover. Measured
are one such takeover per van, at times spread over the day, and the worst that can happen: one after every snapshot.
What `--tried` adds are 8-bit schemes that were considered and not taken.
"""

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from model.benchmarks import this_commit
from model.checkpoint import Checkpoint, load_checkpoint
from model.evaluation.handed_over import (
    DAY_SAMPLES,
    Course,
    Days,
    Keep,
    alerts_of,
    run_days,
    simulate_days,
    state_error,
)
from service.benchmark.bench_snapshot_schemes import SCHEMES
from service.records.state_codec import Snapshot, SnapshotDtype, StateCodecError, pack_snapshots, unpack_snapshots

Singles = NDArray[np.float32]
Row = dict[str, Any]

TIMED_BATCH = 64


def through_snapshots(fingerprint: str, dtype: SnapshotDtype) -> Keep:
    """Write and read every state."""

    def keep(last: int, conv: Singles, ssm: Singles) -> tuple[Singles, Singles]:
        n = len(conv)
        read = unpack_snapshots(pack_snapshots(fingerprint, [1] * n, [last] * n, conv, ssm, dtype))
        return np.stack([whole(s).conv for s in read]), np.stack([whole(s).ssm for s in read])

    return keep


def whole(read: Snapshot | StateCodecError) -> Snapshot:
    """A snapshot that was just packed."""
    if isinstance(read, StateCodecError):
        raise read
    return read


def once(keep: Keep, every: int, length: int) -> Keep:
    """Hand over one time only, each van at its own snapshot, spread evenly over all but the first and the last."""

    def keep_some(last: int, conv: Singles, ssm: Singles) -> tuple[Singles, Singles]:
        n_snapshots, n = length // every, len(conv)
        turns = 1 + np.arange(n) * (n_snapshots - 1) // n
        due = (turns == (last + 1) // every).reshape(n, 1, 1, 1)
        kept = keep(last, conv, ssm)
        return np.where(due, kept[0], conv), np.where(due, kept[1], ssm)

    return keep_some


def drift_rows(checkpoint: Checkpoint, days: Days, truth: Course, course: Course, params: Row) -> Iterator[Row]:
    """One run beside that of unbroken states, for healthy and faulty vans apart."""
    risk = checkpoint.calibration.risk
    difference = np.abs(risk(course.logit) - risk(truth.logit))
    error = state_error(course.ssm, truth.ssm)
    alerts = list(zip(alerts_of(checkpoint, days, truth), alerts_of(checkpoint, days, course), strict=True))
    for vans, which in (("healthy", ~days.faulty), ("faulty", days.faulty)):
        of = {**params, "vans": vans}
        own = [alerts[i] for i in np.flatnonzero(which)]
        shifts = [abs(int(a) - int(b)) / 1000 for old, new in own for a, b in zip(old[:, 0], new[:, 0], strict=False)]
        yield row("state_relative_error_median", of, float(np.median(error[which])), "1")
        yield row("state_relative_error_max", of, float(error[which].max()), "1")
        yield row("risk_difference_max", of, float(difference[which].max()), "1")
        yield row("risk_difference_p999", of, float(np.quantile(difference[which], 0.999)), "1")
        yield row("alerts", of, sum(len(new) for _, new in own), "count")
        yield row("alerts_gained_or_lost", of, sum(abs(len(new) - len(old)) for old, new in own), "count")
        yield row("alert_shift_max", of, max(shifts, default=0.0), "s")


def time_rows(fingerprint: str, truth: Course, rounds: int) -> Iterator[Row]:
    """Bytes of a snapshot, and microseconds per van to pack and unpack it in a batch."""
    n = TIMED_BATCH
    conv, ssm = (np.resize(a, (n, *a.shape[1:])) for a in (truth.conv, truth.ssm))
    for dtype in get_args(SnapshotDtype):
        pack, unpack, packed = [], [], []
        for _ in range(rounds + 1):  # the first compiles
            started = time.perf_counter()
            packed = pack_snapshots(fingerprint, [1] * n, range(n), conv, ssm, dtype)
            between = time.perf_counter()
            unpack_snapshots(packed)
            unpack.append((time.perf_counter() - between) / n * 1e6)
            pack.append((between - started) / n * 1e6)
        params = {"dtype": dtype, "batch": n}
        yield row("snapshot_bytes", {"dtype": dtype}, len(packed[0]), "B")
        for name, times in (("snapshot_pack_time", pack[1:]), ("snapshot_unpack_time", unpack[1:])):
            low, median, high = np.quantile(times, (0.25, 0.5, 0.75)).tolist()
            yield row(name, params, median, "us/vehicle") | {"lo": round(low, 1), "hi": round(high, 1)}


def row(name: str, params: Row, value: float, unit: str) -> Row:
    """One figure."""
    return {
        "name": name,
        "params": params,
        "value": value if isinstance(value, int) else float(f"{value:.4g}"),
        "unit": unit,
    }


def measure(arguments: argparse.Namespace, checkpoint: Checkpoint) -> list[Row]:
    """All rows of the report."""
    every, length, fingerprint = arguments.every, arguments.samples, checkpoint.fingerprint()
    days = simulate_days(checkpoint, arguments.vans, length=length, seed=arguments.seed, ramp=arguments.ramp)
    truth = run_days(checkpoint, days, every, None)
    runs: list[tuple[Row, Keep]] = []
    for dtype in get_args(SnapshotDtype):
        keep = through_snapshots(fingerprint, dtype)
        runs.append(({"dtype": dtype, "handed_over": "once"}, once(keep, every, length)))
        runs.append(({"dtype": dtype, "handed_over": "at every snapshot"}, keep))
    if arguments.tried:
        runs += [({"scheme": name, "handed_over": "at every snapshot"}, keep) for name, keep in SCHEMES.items()]
    rows = list(time_rows(fingerprint, truth, arguments.rounds))
    for params, keep in track(runs, "days", console=Console(stderr=True), disable=not sys.stderr.isatty()):
        rows += drift_rows(checkpoint, days, truth, run_days(checkpoint, days, every, keep), params)
    return rows


def table(rows: list[Row]) -> Table:
    """The report for people."""
    found = Table("what", "of", "value")
    for line in rows:
        found.add_row(line["name"], ", ".join(map(str, line["params"].values())), f"{line['value']} {line['unit']}")
    return found


def main() -> None:
    """Prints one report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vans", type=int, default=24, help="healthy ones, and as many faulty ones")
    parser.add_argument("--samples", type=int, default=DAY_SAMPLES, help="of each van [a day]")
    parser.add_argument("--every", type=int, default=60, help="samples from snapshot to snapshot")
    parser.add_argument(
        "--ramp", type=float, default=0.15, help="scale of the faults' growth: less brings events sooner"
    )
    parser.add_argument("--seed", type=int, default=5, help="of the fleet")
    parser.add_argument("--rounds", type=int, default=20, help="of the timings")
    parser.add_argument("--tried", action="store_true", help="also the 8-bit schemes that were not taken")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    arguments = parser.parse_args()
    rows = measure(arguments, load_checkpoint())
    report = {
        "commit": this_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": f"{platform.machine()}, {os.cpu_count()} cores, load before the end {os.getloadavg()[0]:.1f}",
        "command": shlex.join(["python", "-m", "service.benchmark.bench_snapshot_dtype", *sys.argv[1:]]),
        "rows": rows,
    }
    if arguments.json:
        sys.stdout.write(json.dumps(report, indent=1) + "\n")
    else:
        Console().print(table(rows))


if __name__ == "__main__":
    main()
