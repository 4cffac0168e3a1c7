"""`python -m model.bench_preprocess`: microseconds of preprocessing per sample, in batches and over a whole van."""

import argparse
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.bench_step import this_commit
from model.channels import VAN_SCHEMA
from model.fleet import FleetConfig, simulate_vehicle
from model.normaliser import FleetPrior
from model.preprocess import Preprocessor, preprocess_sequence


def quartiles_us(run: Callable[[], object], n_samples: int, rounds: int) -> tuple[float, float, float]:
    """Microseconds per sample: lower quartile, median, upper quartile."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        run()
        times.append((time.perf_counter() - started) / n_samples * 1e6)
    low, median, high = np.quantile(times, (0.25, 0.5, 0.75)).round(3).tolist()
    return low, median, high


def advance_next(
    preprocessor: Preprocessor, state: NDArray[np.void], samples: Iterator[tuple[NDArray[Any], NDArray[Any]]]
) -> None:
    """Preprocess the next sample of every vehicle."""
    preprocessor.advance(state, *next(samples))


def row(params: dict[str, Any], quartiles: tuple[float, float, float]) -> dict[str, Any]:
    """One line of the report."""
    low, median, high = quartiles
    return {"name": "preprocess_time", "params": params, "value": median, "unit": "us/sample", "lo": low, "hi": high}


def main() -> None:
    """Prints one JSON report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 16, 64, 240, 1024])
    parser.add_argument("--days", type=float, default=14.0, help="length of the van's trace")
    parser.add_argument("--rounds", type=int, default=200, help="of batches; the whole van takes a fortieth of them")
    arguments = parser.parse_args()
    n = len(VAN_SCHEMA.channels)
    preprocessor = Preprocessor(VAN_SCHEMA, FleetPrior((0.0,) * n, (1.0,) * n), 5.0)
    trace = simulate_vehicle(FleetConfig(n_vehicles=1, days=arguments.days), 0)
    signals = trace.signals.astype(np.float64)
    rows = []
    for batch in arguments.batch:
        samples = zip(
            np.repeat(trace.ts_ms[: arguments.rounds + 1, None], batch, axis=1),
            np.repeat(signals[: arguments.rounds + 1, None], batch, axis=1),
            strict=True,
        )
        step = partial(advance_next, preprocessor, preprocessor.initial_state(batch), samples)
        step()  # compiled, or loaded, here
        rows.append(row({"batch": batch}, quartiles_us(step, batch, arguments.rounds)))

    def whole() -> None:
        preprocess_sequence(preprocessor, trace.ts_ms[None], signals[None], np.array([len(trace.ts_ms)]))

    rounds = max(1, arguments.rounds // 40)
    rows.append(row({"length": len(trace.ts_ms)}, quartiles_us(whole, len(trace.ts_ms), rounds)))
    report = {
        "commit": this_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": f"{platform.machine()}, {os.cpu_count()} cores, load before the end {os.getloadavg()[0]:.1f}",
        "command": shlex.join(["python", "-m", "model.bench_preprocess", *sys.argv[1:]]),
        "rows": rows,
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
