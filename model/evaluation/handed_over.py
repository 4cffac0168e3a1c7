"""A day of vans whose state is handed over on the way, through whatever the service keeps it in.

What this module does not know: how a state is kept. It measures what `Keep` does to the risk.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from kernels import BackendUnavailableError, RecurrentState, choose_backend
from model.checkpoint import Checkpoint
from model.dataset import preprocess_traces
from model.evaluation.alerts import AlertRule, episodes, thresholds_of
from model.fleet import FleetConfig, VehicleTrace, simulate_vehicle

Singles = NDArray[np.float32]
Floats = NDArray[np.float64]
Millis = NDArray[np.int64]

DAY_SAMPLES = 17_280
LOST_SHARE = 0.25  # more is simulated, so that a van that loses rows on the way still has a whole day of them

# (index of the last sample in the states, conv (vans, n_layer, conv_width, d_conv - 1), ssm (vans, n_layer, d_inner, d_state))
# to what comes back; both fp32.
Keep = Callable[[int, Singles, Singles], tuple[Singles, Singles]]


@dataclass(frozen=True, slots=True)
class Days:
    """Samples of vans, all of one length, ready for the network."""

    ts_ms: Millis  # (vans, length)
    inputs: Singles  # (vans, length, d_input)
    ratio: Singles  # (vans, length)
    faulty: NDArray[np.bool_]  # (vans,)


@dataclass(frozen=True, slots=True)
class Course:
    """What came of it."""

    logit: Singles  # (vans, length)
    conv: Singles  # (vans, n_layer, conv_width, d_conv - 1) after the last sample
    ssm: Singles  # (vans, n_layer, d_inner, d_state) after the last sample


def simulate_days(checkpoint: Checkpoint, n_vans: int, *, length: int, seed: int, ramp: float) -> Days:
    """The first `length` samples of n healthy vans and n faulty ones, from their first sample.

    Args:
        checkpoint: whose preprocessing is used.
        n_vans: of each kind.
        length: samples of each.
        seed: of the fleet.
        ramp: `FleetConfig.fault_ramp_scale`: small values bring the events into the day.
    """
    days = length / DAY_SAMPLES * (1 + LOST_SHARE)
    traces = []
    for share in (0.0, 1.0):
        fleet = FleetConfig(n_vehicles=n_vans, days=days, seed=seed, faulty_share=share, fault_ramp_scale=ramp)
        traces += [_first(simulate_vehicle(fleet, van), length) for van in range(n_vans)]
    sequences = preprocess_traces(checkpoint.preprocessor(), traces)
    return Days(
        ts_ms=np.stack([trace.ts_ms for trace in traces]),
        inputs=np.ascontiguousarray(sequences.inputs),
        ratio=np.ascontiguousarray(sequences.ratio),
        faulty=np.arange(2 * n_vans) >= n_vans,
    )


def _first(trace: VehicleTrace, length: int) -> VehicleTrace:
    """The van's first samples. Raises ValueError if it lost so many that there are fewer."""
    if len(trace.ts_ms) < length:
        raise ValueError(f"{trace.vehicle_id} has {len(trace.ts_ms)} samples, {length} are needed")
    cut = {name: getattr(trace, name)[:length] for name in ("ts_ms", "signals", "label", "valid", "true_temperature")}
    rest = ("vehicle_id", "events_ms", "event_causes", "fault", "fault_start_ms", "fault_end_ms", "depot")
    return VehicleTrace(**cut, **{name: getattr(trace, name) for name in rest})


@torch.inference_mode()
def run_days(checkpoint: Checkpoint, days: Days, every: int, keep: Keep | None) -> Course:
    """Carry all vans over their samples, handing the states over after every `every` samples (None: never)."""
    weights = checkpoint.network.weights()
    try:
        backend = choose_backend("cpu", checkpoint.config, weights)
    except BackendUnavailableError:
        backend = choose_backend("reference", checkpoint.config, weights)
    state: RecurrentState | None = None
    logits = []
    for start in range(0, days.ratio.shape[1], every):
        some = slice(start, start + every)
        inputs, ratio = (torch.from_numpy(np.ascontiguousarray(a[:, some])) for a in (days.inputs, days.ratio))
        output, state = backend.scan(inputs, ratio, state)
        logits.append(output.risk_logit.numpy().copy())
        if keep is not None:
            last = start + inputs.shape[1] - 1
            conv, ssm = keep(last, state.conv.contiguous().numpy(), state.ssm.contiguous().numpy())
            state = RecurrentState(torch.from_numpy(conv), torch.from_numpy(ssm))
    if state is None:
        raise ValueError("there are no samples")
    return Course(np.concatenate(logits, axis=1), state.conv.contiguous().numpy(), state.ssm.contiguous().numpy())


def alerts_of(checkpoint: Checkpoint, days: Days, course: Course) -> list[Millis]:
    """By van, the alerts at the checkpoint's thresholds: (n, 2) epoch ms, fired and resolved."""
    thresholds, rule = thresholds_of(checkpoint.calibration), AlertRule(warmup_samples=checkpoint.warmup_samples)
    return [episodes(ts_ms, logit, thresholds, rule) for ts_ms, logit in zip(days.ts_ms, course.logit, strict=True)]


def state_error(value: Singles, truth: Singles) -> Floats:
    """By van, the norm of the difference over the norm of the truth."""
    difference = (value.astype(np.float64) - truth).reshape(len(value), -1)
    norm: Floats = np.linalg.norm(difference, axis=1) / np.linalg.norm(truth.reshape(len(truth), -1), axis=1)
    return norm
