"""Traces of many vehicles as training arrays: preprocessed and labelled vehicle by vehicle, in several processes.

What it does not know: where traces come from (a simulator, somebody's files) and who learns from them.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress

from model.channels import VAN_SCHEMA, ChannelSchema
from model.fleet import FleetConfig, VehicleTrace, simulate_vehicle
from model.normaliser import FleetPrior
from model.preprocess import Preprocessor

NOMINAL_INTERVAL_S = 5.0
PRIOR_VANS = 64  # vans from which the fleet prior is estimated, spread over the source,
PRIOR_SAMPLES = 3 * 17_280  # and how much of each: three days at 5 s
PRIOR_TAIL = 1e-3  # share of a channel's values at either end that counts as the value where the tail begins
PRIOR_MIN_STD = 1e-3
GOLDEN_RATIO = 0.618_033_988_75  # its multiples spread evenly over a circle, however many there are
VEHICLES = "vehicles.json"  # written last: a folder without it is unfinished
TIMED = ("inputs", "ratio", "label", "valid", "ts_ms")  # the arrays of `Sequences` that have a time axis

Item = TypeVar("Item")
Result = TypeVar("Result")


class Trace(Protocol):
    """What training and evaluation need to know of one vehicle; `model.fleet.VehicleTrace` is one."""

    @property
    def vehicle_id(self) -> str:
        """Its name."""

    @property
    def ts_ms(self) -> NDArray[np.int64]:
        """(L,) epoch milliseconds, strictly increasing."""

    @property
    def signals(self) -> NDArray[np.float32]:
        """(L, n_signals) in the schema's order and units, NaN when absent."""

    @property
    def label(self) -> NDArray[np.bool_]:
        """(L,) an event starts within (t, t + horizon]."""

    @property
    def valid(self) -> NDArray[np.bool_]:
        """(L,) the label means something: no event is going on."""

    @property
    def events_ms(self) -> NDArray[np.int64]:
        """(n_events,) starts of events."""

    @property
    def fault(self) -> str:
        """Its kind; '' when healthy or unknown."""


class TraceSource(Protocol):
    """Traces made on demand. Picklable: any process may ask for any trace, and gets the same one.

    A source that knows it may also have `max_length`, an upper bound of its traces' lengths; without it
    `build_sequences` looks at every trace once more.
    """

    @property
    def schema(self) -> ChannelSchema:
        """Of all traces."""

    def __len__(self) -> int:
        """Vehicles."""

    def trace(self, index: int) -> Trace:
        """Vehicle number `index`."""


@dataclass(frozen=True, slots=True)
class SimulatedFleet:
    """A simulated fleet as a source of traces."""

    config: FleetConfig
    schema: ChannelSchema = VAN_SCHEMA

    def __len__(self) -> int:
        return self.config.n_vehicles

    @property
    def max_length(self) -> int:
        """Samples of a van that loses none on the way."""
        return self.config.n_samples

    def trace(self, index: int) -> VehicleTrace:
        """Van number `index`."""
        return simulate_vehicle(self.config, index)


@dataclass(frozen=True, slots=True)
class Sequences:
    """Whole sequences of n vehicles, padded at the end to the longest; arrays may be memory-mapped and read-only.

    z-scores are `inputs[..., :n_channels]`, present bits `inputs[..., n_channels : 2 * n_channels]`.
    """

    inputs: NDArray[np.float32]  # (n, length, d_input), as Features.inputs
    ratio: NDArray[np.float32]  # (n, length); 1 in the padding: no time may pass as zero time, the scan divides by it
    label: NDArray[np.bool_]  # (n, length): an event starts within the horizon
    valid: NDArray[np.bool_]  # (n, length): the label means something; False in the padding
    ts_ms: NDArray[np.int64]  # (n, length); 0 in the padding
    lengths: NDArray[np.int64]  # (n,) samples without padding
    vehicle_ids: tuple[str, ...]
    faults: tuple[str, ...]
    events_ms: tuple[NDArray[np.int64], ...]  # per vehicle, starts of events

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, rows: Sequence[int]) -> "Sequences":
        """Copies of these vehicles only, in this order."""
        picked = list(rows)
        return Sequences(
            **{name: getattr(self, name)[picked] for name in (*TIMED, "lengths")},
            vehicle_ids=tuple(self.vehicle_ids[row] for row in picked),
            faults=tuple(self.faults[row] for row in picked),
            events_ms=tuple(self.events_ms[row] for row in picked),
        )


@dataclass(frozen=True, slots=True)
class Vehicle:
    """What is known of one row beside its arrays."""

    vehicle_id: str
    length: int
    fault: str
    events_ms: list[int]


def build_sequences(
    source: TraceSource, preprocessor: Preprocessor, vans: Sequence[int], *, workers: int, folder: Path | None
) -> Sequences:
    """Make and preprocess these vehicles of a source, one by one in each of `workers` processes.

    Args:
        source: where the traces come from.
        preprocessor: of the source's schema.
        vans: their numbers; the order of the rows in the result, whatever the number of workers.
        workers: processes; 1 is this one.
        folder: where the arrays are kept, as `.npy` files that `open_sequences` maps again. None: in files without a
            name, gone with the arrays.

    Raises:
        ValueError: no vehicles, no workers, or a trace that is none; the message names the vehicle.
        IndexError: the source has no such vehicle.
    """
    check_request(source, preprocessor, vans, workers)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        return build_files(source, preprocessor, vans, workers, folder)
    with TemporaryDirectory(prefix="emberwatch-") as name:
        return build_files(source, preprocessor, vans, workers, Path(name))  # a mapped file outlives its name


def preprocess_traces(preprocessor: Preprocessor, traces: Sequence[Trace]) -> Sequences:
    """Preprocess traces that are at hand, in this process and in memory.

    Raises:
        ValueError: no traces, or one that is none; the message names the vehicle.
    """
    if not traces:
        raise ValueError("there are no traces to preprocess")
    shape = (len(traces), max(len(trace.ts_ms) for trace in traces))
    arrays = {
        name: np.zeros((*shape, *tail), dtype) for name, (dtype, tail) in array_kinds(preprocessor.schema).items()
    }
    vehicles = [
        write_row(preprocessor, trace, {name: array[i] for name, array in arrays.items()})
        for i, trace in enumerate(traces)
    ]
    return assemble(arrays, vehicles)


def open_sequences(folder: Path) -> Sequences:
    """What `build_sequences` left in a folder, memory-mapped and read-only.

    Raises:
        FileNotFoundError: the folder holds no finished sequences.
    """
    if not (folder / VEHICLES).is_file():
        raise FileNotFoundError(f"{folder} holds no finished sequences: there is no {VEHICLES}")
    vehicles = [Vehicle(**entry) for entry in json.loads((folder / VEHICLES).read_text())]
    longest = max(vehicle.length for vehicle in vehicles)
    return assemble({name: array[:, :longest] for name, array in map_arrays(folder, "r").items()}, vehicles)


def fit_prior(source: TraceSource, *, nominal_interval_s: float = NOMINAL_INTERVAL_S, workers: int = 1) -> FleetPrior:
    """Mean and spread of every channel over a source, in the channels' units.

    Up to PRIOR_VANS vehicles spread over the source, of each a stretch of PRIOR_SAMPLES, early in one trace and late in
    another. Values in a channel's outermost PRIOR_TAIL count as the value where that tail begins, so that a few absurd
    readings do not widen the spread; a channel that no vehicle has gets mean 0 and spread 1.

    Raises:
        ValueError: the source is empty, or a trace is none.
    """
    if not len(source):
        raise ValueError("the source has no vehicles to fit a prior to")
    vans = np.unique(np.linspace(0, len(source) - 1, min(PRIOR_VANS, len(source))).round().astype(int)).tolist()
    n = len(source.schema.channels)
    preprocessor = Preprocessor(source.schema, FleetPrior((0.0,) * n, (1.0,) * n), nominal_interval_s)
    with processes(min(workers, len(vans))) as pool:
        parts = run_all(pool, partial(channel_values, source, preprocessor), list(enumerate(vans)), "fleet prior")
    values = np.concatenate(parts)
    figures = np.array([robust_mean_std(column[~np.isnan(column)]) for column in values.T]).round(4)
    return FleetPrior(tuple(figures[:, 0].tolist()), tuple(figures[:, 1].tolist()))


def check_request(source: TraceSource, preprocessor: Preprocessor, vans: Sequence[int], workers: int) -> None:
    """Raise what `build_sequences` promises."""
    if not len(vans):
        raise ValueError("there are no vehicles to build sequences of")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if source.schema.signals != preprocessor.schema.signals:
        raise ValueError("the signals of the source are not those of the preprocessor")
    strangers = [van for van in vans if not 0 <= van < len(source)]
    if strangers:
        raise IndexError(f"the source has {len(source)} vehicles, there is no number {strangers[0]}")


def check_trace(trace: Trace, schema: ChannelSchema) -> None:
    """Raise ValueError, with the vehicle's name, for a trace that is none."""
    n = len(trace.ts_ms)
    if not n:
        raise ValueError(f"{trace.vehicle_id} has no samples")
    if trace.signals.shape != (n, len(schema.signals)) or trace.label.shape != (n,) or trace.valid.shape != (n,):
        raise ValueError(
            f"{trace.vehicle_id} has {n} timestamps, signals {trace.signals.shape}, labels {trace.label.shape} and "
            f"validity {trace.valid.shape}; its schema has {len(schema.signals)} signals"
        )
    backwards = np.flatnonzero(np.diff(trace.ts_ms) <= 0)
    if len(backwards):
        raise ValueError(f"{trace.vehicle_id}: sample {backwards[0] + 1} is not later than the one before it")


def build_files(
    source: TraceSource, preprocessor: Preprocessor, vans: Sequence[int], workers: int, folder: Path
) -> Sequences:
    """Sequences in the files of a folder, each row written by the process that made it."""
    (folder / VEHICLES).unlink(missing_ok=True)
    numbers = [int(van) for van in vans]
    with processes(min(workers, len(vans))) as pool:
        length = longest_trace(source, numbers, pool)
        for name, (dtype, tail) in array_kinds(preprocessor.schema).items():
            # Sparse files: what no row fills takes no space.
            open_memmap(folder / f"{name}.npy", "w+", dtype, (len(vans), length, *tail))
        write = partial(write_vehicle, source, preprocessor, folder)
        vehicles = run_all(pool, write, list(enumerate(numbers)), "vehicles")
    unfinished = folder / f"{VEHICLES}.part"
    unfinished.write_text(json.dumps([asdict(vehicle) for vehicle in vehicles]))
    unfinished.replace(folder / VEHICLES)
    return open_sequences(folder)


def longest_trace(source: TraceSource, vans: Sequence[int], pool: Executor | None) -> int:
    """An upper bound of the lengths of these traces."""
    known = getattr(source, "max_length", None)
    return max(run_all(pool, partial(trace_length, source), vans, "lengths")) if known is None else int(known)


def trace_length(source: TraceSource, van: int) -> int:
    """Samples of one trace."""
    return len(source.trace(van).ts_ms)


def write_vehicle(source: TraceSource, preprocessor: Preprocessor, folder: Path, place: tuple[int, int]) -> Vehicle:
    """Make vehicle `place[1]` and write row `place[0]` of the files."""
    row, van = place
    return write_row(
        preprocessor, source.trace(van), {name: array[row] for name, array in map_arrays(folder, "r+").items()}
    )


def write_row(preprocessor: Preprocessor, trace: Trace, row: dict[str, NDArray[Any]]) -> Vehicle:
    """Preprocess one trace into its zeroed row of every array."""
    check_trace(trace, preprocessor.schema)
    n, room = len(trace.ts_ms), len(row["ts_ms"])
    if n > room:
        raise ValueError(f"{trace.vehicle_id} has {n} samples, its source promised at most {room}")
    preprocessor.advance_over_time(trace.ts_ms, trace.signals, row["inputs"][:n], row["ratio"][:n])
    row["ratio"][n:] = 1.0
    row["label"][:n], row["valid"][:n], row["ts_ms"][:n] = trace.label, trace.valid, trace.ts_ms
    return Vehicle(trace.vehicle_id, n, trace.fault, trace.events_ms.tolist())


def array_kinds(schema: ChannelSchema) -> dict[str, tuple[type[np.generic], tuple[int, ...]]]:
    """Type and trailing shape of every array of `Sequences` that has a time axis."""
    return {
        "inputs": (np.float32, (schema.d_input,)),
        "ratio": (np.float32, ()),
        "label": (np.bool_, ()),
        "valid": (np.bool_, ()),
        "ts_ms": (np.int64, ()),
    }


def map_arrays(folder: Path, mode: str) -> dict[str, NDArray[Any]]:
    """The files of a folder as plain arrays over mapped memory."""
    return {name: np.asarray(open_memmap(folder / f"{name}.npy", mode)) for name in TIMED}


def assemble(arrays: dict[str, NDArray[Any]], vehicles: Sequence[Vehicle]) -> Sequences:
    """Arrays and what is known of their rows."""
    return Sequences(
        **arrays,
        lengths=np.array([vehicle.length for vehicle in vehicles], np.int64),
        vehicle_ids=tuple(vehicle.vehicle_id for vehicle in vehicles),
        faults=tuple(vehicle.fault for vehicle in vehicles),
        events_ms=tuple(np.array(vehicle.events_ms, np.int64) for vehicle in vehicles),
    )


def channel_values(source: TraceSource, preprocessor: Preprocessor, place: tuple[int, int]) -> NDArray[np.float32]:
    """Values (at most PRIOR_SAMPLES, n_channels) of a stretch of one vehicle, NaN where absent."""
    row, van = place
    trace = source.trace(van)
    check_trace(trace, preprocessor.schema)
    n = min(len(trace.ts_ms), PRIOR_SAMPLES)
    start = int((row * GOLDEN_RATIO % 1.0) * (len(trace.ts_ms) - n + 1))
    stretch = slice(start, start + n)
    _, values, present = preprocessor.observe(
        preprocessor.initial_state(1), np.array([n]), trace.ts_ms[stretch], trace.signals[stretch]
    )
    return np.where(present, values, np.nan).astype(np.float32)


def robust_mean_std(values: NDArray[np.float32]) -> tuple[float, float]:
    """Mean and standard deviation with the outermost PRIOR_TAIL at either end pulled in; (0, 1) of nothing."""
    if not len(values):
        return 0.0, 1.0
    pulled_in = np.clip(values, *np.quantile(values, (PRIOR_TAIL, 1.0 - PRIOR_TAIL))).astype(np.float64)
    return float(pulled_in.mean()), max(float(pulled_in.std()), PRIOR_MIN_STD)


@contextmanager
def processes(n: int) -> Iterator[Executor | None]:
    """A pool of n processes; None when this one is enough."""
    if n <= 1:
        yield None
        return
    # Spawned, not forked: torch and numba have threads by now, and a fork copies their locks as they happen to be.
    with ProcessPoolExecutor(n, mp_context=get_context("spawn")) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def run_all(
    pool: Executor | None, function: Callable[[Item], Result], items: Sequence[Item], what: str
) -> list[Result]:
    """`function` of every item, in their order, with a progress bar where somebody watches."""
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=len(items))
        if pool is None:
            results = []
            for item in items:
                results.append(function(item))
                progress.advance(task)
            return results
        futures = [pool.submit(function, item) for item in items]
        for future in as_completed(futures):
            future.result()  # the first failure ends the work
            progress.advance(task)
        return [future.result() for future in futures]
