"""The threshold of `telemetry_anomaly`: above what healthy vehicles ever reach, and which sensor troubles it then sees.

`python -m model.evaluation.anomaly DATA` takes simulated vans without faults, with sound sensors and with the simulator's
everyday troubles, and the real drives of a folder (`leaf/`, `bmw_i3/`). The threshold is the highest smoothed surprise that
any of them reaches, plus a margin, upwards to a twentieth; what lasted less than the alert's `for` is counted all the same.
Then it breaks sensors of the same vans while they drive and says how many are noticed. `--store` writes the threshold into the
checkpoint's calibration.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from kernels import RecurrentState, choose_backend
from model.alert_machine import levels
from model.channels import SIGNALS
from model.checkpoint import SHIPPED, Checkpoint, load_checkpoint, store_calibration
from model.fleet import FleetConfig, simulate_vehicle
from model.recordings import read_recording
from model.scoring import ANOMALY_HIGHEST, ANOMALY_SMOOTHING_S, surprise

MARGIN = 0.3  # nats per channel
CHUNK = 4_096  # samples at a time
DAYS, SEED = 2.0, 2_000  # the validation fleet's seed
HOUR = 720  # samples
BROKEN_HOURS = 6

Signals = NDArray[np.float32]
Trace = tuple[NDArray[np.int64], Signals]
Break = Callable[[Signals, int], None]  # spoils signals (length, 10) from a sample on, in place

COLUMN = {name: i for i, name in enumerate(SIGNALS)}


def stuck(name: str) -> Break:
    """The sensor says what it said last."""

    def spoil(signals: Signals, at: int) -> None:
        signals[at : at + BROKEN_HOURS * HOUR, COLUMN[name]] = signals[at, COLUMN[name]]

    return spoil


def drifting(name: str, per_hour: float) -> Break:
    """The sensor goes away from the truth."""

    def spoil(signals: Signals, at: int) -> None:
        rows = signals[at : at + BROKEN_HOURS * HOUR]
        rows[:, COLUMN[name]] += np.float32(per_hour / HOUR) * np.arange(len(rows), dtype=np.float32)

    return spoil


def noisy(name: str, spread: float) -> Break:
    """A loose contact: noise on top of the truth."""

    def spoil(signals: Signals, at: int) -> None:
        rows = signals[at : at + BROKEN_HOURS * HOUR]
        rows[:, COLUMN[name]] += np.random.default_rng(at).normal(0.0, spread, len(rows)).astype(np.float32)

    return spoil


def cut(name: str, reads: float) -> Break:
    """A broken wire: the end of the scale."""

    def spoil(signals: Signals, at: int) -> None:
        signals[at : at + BROKEN_HOURS * HOUR, COLUMN[name]] = reads

    return spoil


def jumping(signals: Signals, at: int) -> None:
    """A fix two kilometres off, every other half minute."""
    rows = signals[at : at + BROKEN_HOURS * HOUR]
    rows[:, COLUMN["latitude"]] += np.float32(0.02) * (np.arange(len(rows)) // 6 % 2)


TROUBLES: dict[str, Break] = {
    "noisy motor temperature, 8 K": noisy("motor_temperature", 8.0),
    "noisy pack temperature, 4 K": noisy("pack_temperature", 4.0),
    "noisy pack current, 50 A": noisy("pack_current", 50.0),
    "motor temperature reads -40 degC": cut("motor_temperature", -40.0),
    "drifting motor temperature, 20 K/h": drifting("motor_temperature", 20.0),
    "drifting pack temperature, 10 K/h": drifting("pack_temperature", 10.0),
    "stuck motor temperature": stuck("motor_temperature"),
    "stuck speed": stuck("speed"),
    "stuck state of charge": stuck("state_of_charge"),
    "GPS jumps 2 km every half minute": jumping,
}


@torch.inference_mode()
def smoothed_surprise(checkpoint: Checkpoint, traces: Sequence[Trace]) -> list[NDArray[np.float64]]:
    """The level that the rule compares, (length,) of each trace, from its first sample."""
    preprocessor, config = checkpoint.preprocessor(), checkpoint.config
    backend = choose_backend("cpu", config, checkpoint.network.weights())
    longest = max(len(ts_ms) for ts_ms, _ in traces)
    inputs = np.zeros((len(traces), longest, config.d_input), np.float32)
    ratio = np.ones((len(traces), longest), np.float32)
    for i, (ts_ms, signals) in enumerate(traces):
        preprocessor.advance_over_time(
            ts_ms, signals.astype(np.float64), inputs[i, : len(ts_ms)], ratio[i, : len(ts_ms)]
        )
    n = config.n_channels
    state: RecurrentState | None = None
    before = np.full((len(traces), n), np.nan, np.float32), np.zeros((len(traces), n), np.float32)
    nats = np.empty((len(traces), longest))
    for first in range(0, longest, CHUNK):
        some = slice(first, min(first + CHUNK, longest))
        x, r = torch.from_numpy(inputs[:, some].copy()), torch.from_numpy(ratio[:, some].copy())
        output, state = backend.scan(x, r, state)
        mean, log_scale = output.forecast_mean.numpy(), output.forecast_log_scale.numpy()
        mean_before = np.concatenate((before[0][:, None], mean[:, :-1]), axis=1)
        scale_before = np.concatenate((before[1][:, None], log_scale[:, :-1]), axis=1)
        before = mean[:, -1].copy(), log_scale[:, -1].copy()
        z, present = inputs[:, some, :n].reshape(-1, n), inputs[:, some, n : 2 * n].reshape(-1, n) > 0
        of = surprise(z, present, mean_before.reshape(-1, n), scale_before.reshape(-1, n))
        nats[:, some] = of.reshape(len(traces), -1)
    nats[ratio > config.max_hold_ratio] = np.nan
    return [
        levels(np.diff(ts, prepend=ts[0] - 5_000), nats[i, : len(ts)], 1_000.0 * ANOMALY_SMOOTHING_S, ANOMALY_HIGHEST)
        for i, (ts, _) in enumerate(traces)
    ]


def real_drives(data: Path) -> Iterator[tuple[str, Trace]]:
    """Every recording of a folder, as recorded. Raises FileNotFoundError if there is none."""
    files = [(path, "leafspy") for path in sorted((data / "leaf").glob("*.csv.gz"))]
    files += [(path, "bmw-i3") for path in sorted((data / "bmw_i3").glob("Trip*.csv.gz"))]
    if not files:
        raise FileNotFoundError(f"{data} has neither leaf/*.csv.gz nor bmw_i3/Trip*.csv.gz")
    for path, form in files:
        recording = read_recording(path, form)
        yield (
            ("real Leaf" if form == "leafspy" else "real BMW i3"),
            (recording.ts_ms, recording.signals.astype(np.float32)),
        )


def broken_at(signals: Signals) -> int:
    """A sample of the second day in the middle of a drive."""
    moving = np.nan_to_num(signals[:, COLUMN["speed"]]) > 3.0
    steady = np.convolve(moving, np.ones(60), "same") > 30
    return int(np.flatnonzero(steady & (np.arange(len(moving)) > 24 * HOUR))[0])


def measure(checkpoint: Checkpoint, data: Path | None, vans: int) -> tuple[float, list[dict[str, Any]]]:
    """The threshold, and rows: the highest level of each kind of vehicle, and of broken ones the share that is noticed."""
    healthy: dict[str, list[float]] = {}
    broken: dict[str, list[float]] = {}
    warm = checkpoint.warmup_samples
    for van in range(vans):
        quiet = FleetConfig(
            vans, DAYS, SEED, faulty_share=0.0, sensor_trouble=0.0, missing_channel_share=(0.0, 0.0, 0.0)
        )
        sound, usual = (simulate_vehicle(fleet, van) for fleet in (quiet, replace(quiet, sensor_trouble=1.0)))
        at, traces = broken_at(sound.signals), [(sound.ts_ms, sound.signals), (usual.ts_ms, usual.signals)]
        for spoil in TROUBLES.values():
            signals = sound.signals.copy()
            spoil(signals, at)
            traces.append((sound.ts_ms, signals))
        found = smoothed_surprise(checkpoint, traces)
        healthy.setdefault("simulated, sound sensors", []).append(float(found[0][warm:].max()))
        healthy.setdefault("simulated, everyday sensor troubles", []).append(float(found[1][warm:].max()))
        for name, level in zip(TROUBLES, found[2:], strict=True):
            broken.setdefault(name, []).append(float(level[at : at + BROKEN_HOURS * HOUR].max()))
    for name, trace in real_drives(data) if data is not None else ():
        healthy.setdefault(name, []).append(
            float(smoothed_surprise(checkpoint, [trace])[0][warm:].max(initial=-np.inf))
        )
    threshold = float(np.ceil(20.0 * (max(max(of) for of in healthy.values()) + MARGIN)) / 20.0)
    rows = [row("smoothed_surprise_max", name, max(of), len(of), "nats per channel") for name, of in healthy.items()]
    for name, of in broken.items():
        rows.append(row("smoothed_surprise_max", name, float(np.median(of)), len(of), "nats per channel, median"))
        rows.append(row("noticed", name, float(np.mean(np.array(of) >= threshold)), len(of), "share"))
    return threshold, rows


def row(name: str, vehicles: str, value: float, n: int, unit: str) -> dict[str, Any]:
    """One figure."""
    return {"name": name, "params": {"vehicles": vehicles, "n": n}, "value": round(value, 3), "unit": unit}


def main(arguments: list[str] | None = None) -> None:
    """Command line: prints one report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "data", type=Path, nargs="?", help="folder with leaf/ and bmw_i3/; without it simulated vans alone"
    )
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED)
    parser.add_argument("--vans", type=int, default=8, help="simulated ones")
    parser.add_argument("--store", action="store_true", help="write the threshold into the checkpoint")
    options = parser.parse_args(arguments)
    checkpoint = load_checkpoint(options.checkpoint)
    threshold, rows = measure(checkpoint, options.data, options.vans)
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": "cpu",
        "command": shlex.join(["python", "-m", "model.evaluation.anomaly", *(arguments or sys.argv[1:])]),
        "threshold": threshold,
        "rows": rows,
    }
    if options.store:
        store_calibration(options.checkpoint, replace(checkpoint.calibration, anomaly_threshold=threshold))
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
