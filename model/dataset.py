"""A simulated fleet as training arrays: simulated, preprocessed and labelled van by van, in several processes."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from model.channels import ChannelSchema
from model.fleet import FleetConfig, simulate_vehicle
from model.normaliser import FleetPrior
from model.preprocess import Preprocessor, preprocess_sequence

NOMINAL_INTERVAL_S = 5.0
PRIOR_VANS = 24  # vans and samples from which the fleet prior is estimated
PRIOR_SAMPLES = 17_280
ScalarT = TypeVar("ScalarT", bound=np.generic)

ARRAYS = ("inputs", "ratio", "z", "present", "label", "valid", "ts_ms")
PADDING = {"ratio": 1.0}  # no time may pass as zero time: the scan divides by it


@dataclass(frozen=True, slots=True)
class Sequences:
    """Whole sequences of several vans, padded at the end to one length."""

    inputs: NDArray[np.float32]  # (n_vans, length, d_input)
    ratio: NDArray[np.float32]  # (n_vans, length)
    z: NDArray[np.float32]  # (n_vans, length, n_channels)
    present: NDArray[np.bool_]  # (n_vans, length, n_channels)
    label: NDArray[np.bool_]  # (n_vans, length): an event starts within the horizon
    valid: NDArray[np.bool_]  # (n_vans, length): the label means something (no padding, no event going on)
    ts_ms: NDArray[np.int64]  # (n_vans, length)
    events_ms: tuple[NDArray[np.int64], ...]  # per van, starts of events
    faults: tuple[str, ...]  # per van

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: Sequence[int]) -> "Sequences":
        """These vans only, in this order."""
        picked = {name: getattr(self, name)[list(rows)] for name in ARRAYS}
        return Sequences(
            **picked,
            events_ms=tuple(self.events_ms[row] for row in rows),
            faults=tuple(self.faults[row] for row in rows),
        )

    @staticmethod
    def join(parts: Sequence["Sequences"]) -> "Sequences":
        """Vans of all parts, padded to the longest."""
        length = max(part.inputs.shape[1] for part in parts)

        def padded(name: str) -> NDArray[np.generic]:
            arrays = [getattr(part, name) for part in parts]
            shape = (sum(len(a) for a in arrays), length, *arrays[0].shape[2:])
            joined = np.full(shape, PADDING.get(name, 0), arrays[0].dtype)
            row = 0
            for a in arrays:
                joined[row : row + len(a), : a.shape[1]] = a
                row += len(a)
            return joined

        fields = {name: padded(name) for name in ARRAYS}
        return Sequences(
            **fields,  # type: ignore[arg-type]
            events_ms=tuple(events for part in parts for events in part.events_ms),
            faults=tuple(fault for part in parts for fault in part.faults),
        )


def fit_prior(schema: ChannelSchema, config: FleetConfig) -> FleetPrior:
    """Mean and spread of every channel over the first vans of a fleet, in the channels' units."""
    n = len(schema.channels)
    preprocessor = Preprocessor(schema, FleetPrior((0.0,) * n, (1.0,) * n), NOMINAL_INTERVAL_S)
    traces = [simulate_vehicle(config, index) for index in range(min(PRIOR_VANS, config.n_vehicles))]
    length = min(PRIOR_SAMPLES, *(len(trace.ts_ms) for trace in traces))
    state = preprocessor.initial_state(len(traces))
    total, squares, count = np.zeros(n), np.zeros(n), np.zeros(n)
    for t in range(length):
        _, values, present = preprocessor.observe(
            state,
            np.array([trace.ts_ms[t] for trace in traces]),
            np.array([trace.signals[t] for trace in traces], "f8"),
        )
        total += values.sum(axis=0)
        squares += (values**2).sum(axis=0)
        count += present.sum(axis=0)
    mean = total / np.maximum(count, 1)
    std = np.sqrt(np.maximum(squares / np.maximum(count, 1) - mean**2, 1e-6))
    return FleetPrior(tuple(mean.round(4).tolist()), tuple(std.round(4).tolist()))


def build_sequences(
    schema: ChannelSchema, prior: FleetPrior, config: FleetConfig, vans: Sequence[int], workers: int
) -> Sequences:
    """Simulate and preprocess these vans of a fleet, `workers` groups of them side by side."""
    groups = [list(group) for group in np.array_split(np.array(vans), min(workers, len(vans)))]
    build = partial(build_group, schema, prior, config)
    if len(groups) == 1:
        return build(groups[0])
    # Spawned, not forked: torch and numba have threads by now, and a fork copies their locks as they happen to be.
    with ProcessPoolExecutor(len(groups), mp_context=get_context("spawn")) as pool:
        return Sequences.join(list(pool.map(build, groups)))


def build_group(schema: ChannelSchema, prior: FleetPrior, config: FleetConfig, vans: Sequence[int]) -> Sequences:
    """Vans preprocessed side by side in this process."""
    traces = [simulate_vehicle(config, int(van)) for van in vans]
    lengths = np.array([len(trace.ts_ms) for trace in traces])
    ts_ms = stacked([trace.ts_ms for trace in traces])
    signals = stacked([trace.signals for trace in traces])
    features = preprocess_sequence(Preprocessor(schema, prior, NOMINAL_INTERVAL_S), ts_ms, signals, lengths)
    return Sequences(
        inputs=features.inputs,
        ratio=features.ratio,
        z=features.z,
        present=features.present,
        label=stacked([trace.label for trace in traces]),
        valid=stacked([trace.valid for trace in traces]),
        ts_ms=ts_ms,
        events_ms=tuple(trace.events_ms for trace in traces),
        faults=tuple(trace.fault for trace in traces),
    )


def stacked(arrays: Sequence[NDArray[ScalarT]]) -> NDArray[ScalarT]:
    """Arrays of different lengths as one, zero beyond each one's end."""
    length = max(len(a) for a in arrays)
    out = np.zeros((len(arrays), length, *arrays[0].shape[1:]), arrays[0].dtype)
    for i, a in enumerate(arrays):
        out[i, : len(a)] = a
    return out
