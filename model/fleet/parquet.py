"""A fleet on disk: one Parquet file per van, written by several processes, the same bytes for the same config.

Columns: `ts` (timestamp[ms, UTC]); the ten wire signals by name, float32, null = absent; `label` and `valid`, bool; the
hidden temperatures as `true_<name>`, float32, degC. The last two groups depend on the detail asked for. What is said once per van stands in the file's schema
metadata under `emberwatch.trace` as JSON: vehicle_id, depot, fault, its span, events with their causes, and the config.
"""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from model.channels import SIGNALS
from model.fleet.config import TRUE_TEMPERATURES, FleetConfig, VehicleTrace
from model.fleet.simulation import simulate_vehicle

METADATA_KEY = b"emberwatch.trace"
LAYOUT = 1

Detail = Literal["wire", "labels", "truth"]  # signals only, as a recording to replay; with labels; with everything
Progress = Callable[[int, int], None]  # (vans written, vans in all)


class TraceFileError(ValueError):
    """A file that is not a van's trace in this layout."""


def write_fleet(
    config: FleetConfig,
    folder: Path,
    progress: Progress | None = None,
    *,
    detail: Detail = "truth",
    processes: int = 2,
) -> list[Path]:
    """Simulate the fleet into `folder`/<vehicle_id>.parquet; returns the paths in order of the vans.

    The hidden temperatures take most of the space (6.0 MB per van-fortnight, 1.3 without). A file appears only when it is
    complete. Raises ValueError if `processes` is below one; an error in a worker is raised here.
    """
    if processes < 1:
        raise ValueError(f"need at least one process, got {processes}")
    folder.mkdir(parents=True, exist_ok=True)
    paths: dict[int, Path] = {}
    if processes == 1:
        for index in range(config.n_vehicles):
            paths[index] = _simulate_to(config, index, folder, detail)
            if progress:
                progress(len(paths), config.n_vehicles)
        return [paths[index] for index in sorted(paths)]
    # spawn: a forked child would inherit whatever threads the caller runs.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        jobs = {pool.submit(_simulate_to, config, index, folder, detail): index for index in range(config.n_vehicles)}
        for job in as_completed(jobs):
            paths[jobs[job]] = job.result()
            if progress:
                progress(len(paths), config.n_vehicles)
    return [paths[index] for index in sorted(paths)]


def _simulate_to(config: FleetConfig, index: int, folder: Path, detail: Detail) -> Path:
    trace = simulate_vehicle(config, index)
    path = folder / f"{trace.vehicle_id}.parquet"
    write_trace(trace, path, config, detail=detail)
    return path


def write_trace(
    trace: VehicleTrace, path: Path, config: FleetConfig | None = None, *, detail: Detail = "truth"
) -> None:
    """Write one van's trace; `config` is kept beside it."""
    columns: dict[str, pa.Array] = {"ts": pa.array(trace.ts_ms, pa.timestamp("ms", tz="UTC"))}
    for number, name in enumerate(SIGNALS):
        columns[name] = pa.array(trace.signals[:, number], pa.float32(), from_pandas=True)  # NaN becomes null
    if detail != "wire":
        columns |= {"label": pa.array(trace.label), "valid": pa.array(trace.valid)}
    if detail == "truth":
        for number, name in enumerate(TRUE_TEMPERATURES):
            columns[f"true_{name}"] = pa.array(np.ascontiguousarray(trace.true_temperature[:, number]))
    about = {
        "layout": LAYOUT,
        "vehicle_id": trace.vehicle_id,
        "depot": trace.depot,
        "fault": trace.fault,
        "fault_start_ms": trace.fault_start_ms,
        "fault_end_ms": trace.fault_end_ms,
        "events_ms": trace.events_ms.tolist(),
        "event_causes": list(trace.event_causes),
        "config": asdict(config) if config else None,
    }
    table = pa.table(columns).replace_schema_metadata({METADATA_KEY: json.dumps(about).encode()})
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    floats = [name for name in table.column_names if name not in ("ts", "label", "valid")]
    try:
        pq.write_table(
            table, unfinished, compression="zstd", use_dictionary=False,
            column_encoding=dict.fromkeys(floats, "BYTE_STREAM_SPLIT") | {"ts": "DELTA_BINARY_PACKED"},
        )  # fmt: skip
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def read_fleet(folder: Path) -> Iterator[VehicleTrace]:
    """All traces in `folder` by name, one in memory at a time. Raises FileNotFoundError when there are none."""
    paths = sorted(folder.glob("*.parquet"))
    if not paths:
        raise FileNotFoundError(f"no traces in {folder}")
    for path in paths:
        yield read_trace(path)


def read_trace(path: Path) -> VehicleTrace:
    """One van's trace as it was written; `true_temperature` is (L, 0) when the file has none.

    Raises TraceFileError when the file is another kind of Parquet file, or was written without labels.
    """
    table = pq.read_table(path)
    about = json.loads((table.schema.metadata or {}).get(METADATA_KEY, b"{}"))
    if about.get("layout") != LAYOUT:
        raise TraceFileError(f"{path} is not a trace of layout {LAYOUT}")
    if "label" not in table.column_names:
        raise TraceFileError(f"{path} holds wire signals only, no labels; model.recordings reads it")
    truth = [f"true_{name}" for name in TRUE_TEMPERATURES if f"true_{name}" in table.column_names]
    return VehicleTrace(
        vehicle_id=about["vehicle_id"],
        ts_ms=table["ts"].cast(pa.int64()).to_numpy(),
        signals=_matrix(table, SIGNALS),
        label=table["label"].to_numpy(),
        valid=table["valid"].to_numpy(),
        events_ms=np.array(about["events_ms"], np.int64),
        event_causes=tuple(about["event_causes"]),
        fault=about["fault"],
        fault_start_ms=about["fault_start_ms"],
        fault_end_ms=about["fault_end_ms"],
        depot=about["depot"],
        true_temperature=_matrix(table, truth),
    )


def _matrix(table: pa.Table, names: tuple[str, ...] | list[str]) -> NDArray[np.float32]:
    """(L, len(names)) float32, null as NaN."""
    out = np.empty((table.num_rows, len(names)), np.float32)
    for number, name in enumerate(names):
        out[:, number] = table[name].to_numpy()
    return out
