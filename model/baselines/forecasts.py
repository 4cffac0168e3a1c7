"""One-step forecasts in likelihood: persistence, a linear autoregression, and the product's network.

`python -m model.baselines.forecasts DATA` judges them on the real logs of a folder (`leaf/`, `bmw_i3/`), on the same
samples and the same z-scores, in nats per channel present. Every forecast is a Laplace density per channel, as the
network's; the baselines' scales are fitted to their own errors on a simulated training fleet.
"""

import argparse
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from kernels import scan_forms_cpu
from kernels.bench_step import this_commit
from model.baselines.protocol import COLUMN, Bools, Floats, Singles
from model.baselines.selection import over_fleet, spread
from model.checkpoint import SHIPPED, Checkpoint, load_checkpoint
from model.dataset import SimulatedFleet, Trace, TraceSource
from model.fleet import FleetConfig
from model.preprocess import Preprocessor
from model.recordings import Recording, read_recording

logger = logging.getLogger(__name__)

ORDERS = (1, 2, 4, 8)
RIDGE = 1e-3  # of the mean square of each regressor, per row
SMALLEST_SCALE = 1e-3  # in z: a channel that never moves must not be forecast with certainty
FIT_VEHICLES = 24
BOOTSTRAPS = 2_000
MOVING_MPS = 0.5
BMW_FITTED = 0  # remainder of the number, by two, of the trips that the shipped forecast head was fitted on
AWAKE_SAMPLES = 60  # a stop of up to five minutes is part of a drive


@dataclass(frozen=True, slots=True)
class Log:
    """One preprocessed log."""

    name: str
    inputs: Singles  # (length, d_input)
    ratio: Singles  # (length,)
    z: Floats  # (length, n_channels) held z-scores
    present: Bools  # (length, n_channels) measured in this very sample

    @property
    def channels(self) -> tuple[int, ...]:
        """Those that the vehicle has at all."""
        return tuple(np.flatnonzero(self.present.any(axis=0)).tolist())


class Forecaster(Protocol):
    """Something that gives a density for the next sample."""

    @property
    def name(self) -> str:
        """`model` in the report's rows."""

    def density(self, log: Log) -> tuple[Floats, Floats]:
        """Means and scales (length - 1, n_channels) of samples 1, 2, ... given those before."""


def laplace_nats(z: Floats, mean: Floats, scale: Floats) -> Floats:
    """Negative log-likelihood under Laplace(mean, scale), in nats."""
    nats: Floats = np.log(2.0 * scale) + np.abs(z - mean) / scale
    return nats


def preprocess_log(preprocessor: Preprocessor, name: str, recording: Recording | Trace) -> Log:
    """A log through the product's preprocessing, from its first sample."""
    n, length = len(preprocessor.schema.channels), len(recording.ts_ms)
    inputs, ratio = np.zeros((length, preprocessor.schema.d_input), np.float32), np.ones(length, np.float32)
    preprocessor.advance_over_time(recording.ts_ms, recording.signals, inputs, ratio)
    return Log(name, inputs, ratio, inputs[:, :n].astype(np.float64), inputs[:, n : 2 * n] > 0.5)


def design(log: Log, channels: Sequence[int], order: int) -> Floats:
    """(length - 1, order * len(channels) + 1) the last `order` held z-scores, newest first, and a one."""
    z = log.z[:-1][:, list(channels)]
    padded = np.concatenate((np.zeros((order - 1, z.shape[1])), z))
    lags = [padded[order - 1 - lag : len(padded) - lag] for lag in range(order)]
    return np.concatenate((*lags, np.ones((len(z), 1))), axis=1)


@dataclass(frozen=True, slots=True)
class FitSample:
    """A stretch of each training van, preprocessed; picklable reduction for `over_fleet`.

    Only drives count as present: real logs are drives, and scales fitted to parked nights would be too narrow for them.
    """

    preprocessor: Preprocessor
    samples: int

    def __call__(self, trace: Trace, vehicle: int) -> Log:
        """The last `samples` of the trace: normalised by what the whole trace before them taught."""
        log = preprocess_log(self.preprocessor, str(vehicle), trace)
        last = slice(max(0, len(log.ratio) - self.samples), None)
        moving = np.nan_to_num(trace.signals[:, COLUMN["speed"]]) > MOVING_MPS
        moved = np.maximum.accumulate(np.where(moving, np.arange(len(moving)), -AWAKE_SAMPLES))
        awake = np.arange(len(moving)) - moved < AWAKE_SAMPLES
        present = log.present & awake[:, None]
        return Log(log.name, log.inputs[last], log.ratio[last], log.z[last], present[last])


class Persistence:
    """The last held z-score, with the scale of its errors."""

    name = "persistence"

    def __init__(self, logs: Sequence[Log]) -> None:
        self._scale = fitted_scale([(log.z[1:] - log.z[:-1], log.present[1:]) for log in logs])

    def density(self, log: Log) -> tuple[Floats, Floats]:
        """As `Forecaster`."""
        return log.z[:-1], np.broadcast_to(self._scale, log.z[:-1].shape)


class Autoregression:
    """A ridge regression of every channel on the last held z-scores of all channels that a vehicle has.

    Fitted anew for each set of channels, so that a vehicle without a motor temperature is not forecast from a made-up
    one. The order is the one that is likeliest on the last quarter of the fitting vans.
    """

    name = "autoregression"

    def __init__(self, logs: Sequence[Log], order: int | None = None) -> None:
        self._logs = list(logs)
        self.order = self._best_order() if order is None else order
        self._fits: dict[tuple[int, ...], tuple[Floats, Floats]] = {}

    def density(self, log: Log) -> tuple[Floats, Floats]:
        """As `Forecaster`; channels that the vehicle does not have are persistent with scale 1."""
        channels = log.channels
        if channels not in self._fits:
            self._fits[channels] = fit_autoregression(self._logs, channels, self.order)
        weights, scale = self._fits[channels]
        mean, scales = log.z[:-1].copy(), np.ones_like(log.z[:-1])
        mean[:, list(channels)] = design(log, channels, self.order) @ weights
        scales[:, list(channels)] = scale
        return mean, scales

    def _best_order(self) -> int:
        """The likeliest of ORDERS on vans that were not fitted; the smallest when there is but one van."""
        cut = max(1, 3 * len(self._logs) // 4)
        fit, judge = self._logs[:cut], self._logs[cut:]
        if not judge:
            return ORDERS[0]
        nats = {order: mean_nats(Autoregression(fit, order), judge) for order in ORDERS}
        logger.info("autoregression: nats by order %s", {order: round(value, 4) for order, value in nats.items()})
        return min(nats, key=nats.__getitem__)


class NetworkForecast:
    """The forecast head of a checkpoint."""

    def __init__(self, checkpoint: Checkpoint, name: str = "mamba") -> None:
        self.name = name
        self._network = checkpoint.network

    @torch.inference_mode()
    def density(self, log: Log) -> tuple[Floats, Floats]:
        """As `Forecaster`."""
        inputs, ratio = torch.from_numpy(log.inputs)[None], torch.from_numpy(log.ratio)[None]
        output = self._network(inputs, ratio, scan_forms_cpu())
        mean = output.forecast_mean[0, :-1].double().numpy()
        return mean, np.exp(output.forecast_log_scale[0, :-1].double().numpy())


def fit_autoregression(logs: Sequence[Log], channels: tuple[int, ...], order: int) -> tuple[Floats, Floats]:
    """Weights (order * n + 1, n) and Laplace scales (n,) for these n channels; a channel learns where it is present."""
    width, n = order * len(channels) + 1, len(channels)
    gram, moment = np.zeros((n, width, width)), np.zeros((n, width))
    for log in logs:
        x = design(log, channels, order)
        for j, channel in enumerate(channels):
            rows = log.present[1:, channel]
            used = x if rows.all() else x[rows]
            gram[j] += used.T @ used
            moment[j] += used.T @ log.z[1:, channel][rows]
    weights = solved(gram, moment)
    pick = list(channels)
    errors = [(log.z[1:, pick] - design(log, channels, order) @ weights, log.present[1:, pick]) for log in logs]
    return weights, fitted_scale(errors)


def solved(gram: Floats, moment: Floats) -> Floats:
    """Least-squares weights (width, n) with a slight ridge, from gram (n, width, width) and moment (n, width)."""
    n, width = moment.shape
    weights = np.zeros((width, n))
    for j in range(n):
        ridge = RIDGE * max(float(np.trace(gram[j])) / width, 1.0)
        weights[:, j] = np.linalg.solve(gram[j] + ridge * np.eye(width), moment[j])
    return weights


def fitted_scale(errors: Sequence[tuple[Floats, Bools]]) -> Floats:
    """(n,) Laplace scales of largest likelihood: the mean absolute error where present; 1 where nothing ever is."""
    total = np.sum([(np.abs(error) * present).sum(axis=0) for error, present in errors], axis=0)
    count = np.sum([present.sum(axis=0) for _, present in errors], axis=0)
    scale: Floats = np.where(count > 0, np.maximum(total / np.maximum(count, 1), SMALLEST_SCALE), 1.0)
    return scale


def summed_nats(forecaster: Forecaster, log: Log) -> tuple[Floats, Floats]:
    """Nats and number of readings (n_channels,) of one log, over the channels present in each sample but the first."""
    nats = laplace_nats(log.z[1:], *forecaster.density(log))
    present = log.present[1:]
    return np.where(present, nats, 0.0).sum(axis=0), present.sum(axis=0).astype(np.float64)


def mean_nats(forecaster: Forecaster, logs: Sequence[Log]) -> float:
    """Nats per channel present over all samples of all logs."""
    sums = [summed_nats(forecaster, log) for log in logs]
    return float(sum(nats.sum() for nats, _ in sums) / sum(count.sum() for _, count in sums))


def compare(
    forecasters: Sequence[Forecaster], groups: Mapping[str, Sequence[Log]], channel_names: Sequence[str], seed: int = 0
) -> list[dict[str, Any]]:
    """Report rows: nats per reading for each forecaster, group of logs and channel, with bootstrap over logs.

    `peer` is the last forecaster's value (the product's) and `lo`, `hi` bound the difference to it at 95 %: a positive
    interval means that the product is likelier.
    """
    rows: list[dict[str, Any]] = []
    for group, logs in groups.items():
        sums = [[summed_nats(forecaster, log) for log in logs] for forecaster in forecasters]
        nats, count = (np.array([[one[i] for one in of] for of in sums]) for i in range(2))
        rng = np.random.default_rng(seed)
        picks = rng.integers(len(logs), size=(BOOTSTRAPS, len(logs)))
        for channel in (None, *range(len(channel_names))):
            view = slice(None) if channel is None else slice(channel, channel + 1)
            total, readings = nats[:, :, view].sum(axis=2), count[0, :, view].sum(axis=1)
            if not readings.sum():
                continue
            mean = total.sum(axis=1) / readings.sum()
            drawn = readings[picks].sum(axis=1)
            for forecaster, of, value in zip(forecasters, total, mean, strict=True):
                difference = (of - total[-1])[picks].sum(axis=1) / np.maximum(drawn, 1.0)
                low, high = np.quantile(difference, (0.025, 0.975)) if len(logs) > 1 else (None, None)
                name = "all" if channel is None else channel_names[channel]
                rows.append(
                    {
                        "name": "forecast_nats",
                        "params": {"model": forecaster.name, "logs": group, "channel": name},
                        "value": round(float(value), 4),
                        "unit": "nats per reading",
                        "lo": None if low is None else round(float(low), 4),
                        "hi": None if high is None else round(float(high), 4),
                        "peer": round(float(mean[-1]), 4),
                    }
                )
    return rows


def bmw_trips(data: Path) -> list[tuple[str, Recording]]:
    """Name and recording, at 1 s, of every BMW trip of a folder, in the order of their names."""
    paths = sorted((data / "bmw_i3").glob("Trip*.csv.gz"))
    return [(path.name, read_recording(path, "bmw-i3")) for path in paths]


def thinned(recording: Recording, every: int, first: int = 0) -> Recording:
    """One row of `every`, from row `first` on."""
    return Recording(recording.ts_ms[first::every], recording.signals[first::every])


def real_logs(data: Path, preprocessor: Preprocessor, bmw_interval_s: int) -> dict[str, list[Log]]:
    """The Leaf drive and the BMW trips, the latter thinned from 1 s to the interval that models are trained at.

    The forecast head was fitted on every second trip (model.training.forecast_head): `bmw_i3_unseen` is of the others.

    Raises:
        FileNotFoundError: the folder has neither.
    """
    groups: dict[str, list[Log]] = {"leaf": [], "bmw_i3": [], "bmw_i3_unseen": []}
    for path in sorted((data / "leaf").glob("*.csv.gz")):
        groups["leaf"].append(preprocess_log(preprocessor, path.name, read_recording(path, "leafspy")))
    for i, (name, trip) in enumerate(bmw_trips(data)):
        log = preprocess_log(preprocessor, name, thinned(trip, bmw_interval_s))
        groups["bmw_i3"].append(log)
        if i % 2 != BMW_FITTED:
            groups["bmw_i3_unseen"].append(log)
    found = {group: logs for group, logs in groups.items() if logs}
    if not found:
        raise FileNotFoundError(f"{data} has neither leaf/*.csv.gz nor bmw_i3/Trip*.csv.gz")
    return found


def fitting_logs(source: TraceSource, preprocessor: Preprocessor, samples: int, workers: int) -> list[Log]:
    """Stretches of vans spread over the training fleet."""
    return over_fleet(source, spread(len(source), FIT_VEHICLES), FitSample(preprocessor, samples), workers)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with leaf/ and bmw_i3/")
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED, help="whose forecast and preprocessing")
    parser.add_argument("--seed", type=int, default=1_000, help="of the training fleet")
    parser.add_argument("--days", type=float, default=3.0, help="of each fitting van")
    parser.add_argument("--bmw-interval", type=int, default=5, help="seconds between the samples kept of BMW trips")
    parser.add_argument("--workers", type=int, default=1, help="processes that make the fitting vans")
    parser.add_argument("--json", type=Path, help="write the report here")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    checkpoint = load_checkpoint(options.checkpoint)
    preprocessor = checkpoint.preprocessor()
    fleet = SimulatedFleet(FleetConfig(n_vehicles=FIT_VEHICLES, days=options.days, seed=options.seed))
    fitting = fitting_logs(fleet, preprocessor, fleet.max_length, options.workers)
    forecasters = (Persistence(fitting), Autoregression(fitting), NetworkForecast(checkpoint))
    groups = real_logs(options.data, preprocessor, options.bmw_interval)
    rows = compare(forecasters, groups, checkpoint.schema.channel_names)
    for row in rows:
        if row["params"]["channel"] == "all":
            logger.info("%-14s %-8s %8.4f nats", row["params"]["model"], row["params"]["logs"], row["value"])
    if options.json:
        report = {
            "commit": this_commit(),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": "cpu",
            "command": f"python -m model.baselines.forecasts {options.data} --seed {options.seed}"
            f" --days {options.days:g} --bmw-interval {options.bmw_interval}",
            "rows": rows,
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
