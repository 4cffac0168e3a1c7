"""What decoding a request and rendering its answer cost per sample: `python -m service.benchmark.bench_decode`.

Prints the project's report format. Decoding is timed from the bytes of the body to Samples with their digests, rendering
from Answers to the bytes of the response; by the processor's clock, so that neighbours count less.
"""

import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import orjson

from model.benchmarks import this_commit
from model.channels import VAN_SCHEMA
from service.samples import Answers, Status
from service.wire import render
from service.wire.decode import Decoder
from service.wire.request_body import JSON, NDJSON, decode_fleet, decode_vehicle

START_MS = 1_760_000_000_000
ROUNDS, ROUND_S = 9, 0.2


def fleet_rows(n: int) -> list[dict[str, Any]]:
    """One sample of each of n vans, with all ten signals."""
    rng = np.random.default_rng(0)
    low = np.array([signal.minimum for signal in VAN_SCHEMA.signals])
    high = np.array([signal.maximum for signal in VAN_SCHEMA.signals])
    values = np.round(rng.uniform(low, high, (n, len(low))), 4).tolist()
    return [
        {
            "vehicle_id": f"van-{i:05d}",
            "ts": START_MS + i,
            "seq": 100_000 + i,
            "signals": dict(zip(VAN_SCHEMA.signal_names, row, strict=True)),
        }
        for i, row in enumerate(values)
    ]


def as_columns(rows: list[dict[str, Any]], *, text_times: bool = False) -> bytes:
    """The same as columns."""
    times = [row["ts"] for row in rows]
    shown = [datetime.fromtimestamp(ts / 1000, UTC).isoformat(timespec="milliseconds") for ts in times]
    columns = {
        "vehicle_id": [row["vehicle_id"] for row in rows],
        "ts": shown if text_times else times,
        "seq": [row["seq"] for row in rows],
        **{name: [row["signals"][name] for row in rows] for name in VAN_SCHEMA.signal_names},
    }
    return orjson.dumps({"columns": columns})


def seconds(work: Callable[[], object]) -> float:
    """Of one call: the median over rounds."""
    work()
    found = []
    for _ in range(ROUNDS):
        started, calls = time.process_time(), 0
        while time.process_time() - started < ROUND_S:
            work()
            calls += 1
        found.append((time.process_time() - started) / calls)
    return median(found)


def decode_cases(decoder: Decoder) -> list[tuple[str, int, Callable[[], object]]]:
    """(shape, samples, one call)."""
    rows = fleet_rows(240)
    single = {name: value for name, value in rows[0].items() if name != "vehicle_id"}
    lines = b"\n".join(orjson.dumps(row) for row in rows)
    history = fleet_rows(34_560)
    return [
        ("columns", 240, partial(decode_fleet, as_columns(rows), JSON, decoder)),
        ("columns_rfc3339", 240, partial(decode_fleet, as_columns(rows, text_times=True), JSON, decoder)),
        ("samples", 240, partial(decode_fleet, orjson.dumps({"samples": rows}), JSON, decoder)),
        ("ndjson", 240, partial(decode_fleet, lines, NDJSON, decoder)),
        ("one", 1, partial(decode_vehicle, orjson.dumps(single), JSON, decoder, "van-1")),
        ("columns", 34_560, partial(decode_fleet, as_columns(history), JSON, decoder)),
    ]


def answers(n: int) -> Answers:
    """All applied, with every number."""
    rng = np.random.default_rng(0)
    found = Answers.blank(n, Status.APPLIED)
    found.seq[:] = np.arange(n)
    found.risk[:], found.surprise[:] = rng.random(n), rng.random(n)
    found.phase[:], found.warming_up[:] = 0, 0
    return found


def measure() -> list[dict[str, Any]]:
    """Rows of the report: microseconds per sample."""
    cases = [("decode", *case) for case in decode_cases(Decoder(VAN_SCHEMA, 40_000, 40_000))]
    full, one = answers(240), answers(1)
    cases += [
        ("render", "summary", 240, lambda: render.summary(full, minimal=False)),
        ("render", "minimal", 240, lambda: render.summary(full, minimal=True)),
        ("render", "summary", 1, lambda: render.summary(one, minimal=False)),
    ]
    return [
        {
            "name": name,
            "params": {"shape": shape, "samples": n},
            "value": round(1e6 * seconds(work) / n, 3),
            "unit": "us/sample",
            "lo": None,
            "hi": None,
            "peer": None,
            "ratio": None,
            "floor": None,
        }
        for name, shape, n, work in cases
    ]


if __name__ == "__main__":
    report = {
        "commit": this_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": "cpu",
        "command": "python -m service.benchmark.bench_decode",
        "rows": measure(),
    }
    print(json.dumps(report, indent=2))  # noqa: T201
