"""What two plain checks would see of broken sensors that `telemetry_anomaly` does not: a measurement for a rule to come.

`python -m model.evaluation.sensor_checks DATA` takes the vans, troubles and real drives of model/evaluation/anomaly.py.

- A reading that sticks: how long a vehicle has driven since the reading last changed. Each sensor has noise and steps of its own,
  and none of those here stays at one step for long while the vehicle drives.
- A position that jumps: the share of fixes that the motion filter rejects or restarts at, smoothed over ten minutes.

No alert rests on this yet: a rule would need the last readings and the seconds driven since in the head, which is a new layout of it.
"""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.alert_machine import levels
from model.checkpoint import SHIPPED, load_checkpoint
from model.evaluation.anomaly import (
    BROKEN_HOURS,
    COLUMN,
    DAYS,
    HOUR,
    SEED,
    TROUBLES,
    Signals,
    Trace,
    broken_at,
    real_drives,
    row,
)
from model.fleet import FleetConfig, simulate_vehicle
from model.kalman import MAX_REJECTS
from model.preprocess import Preprocessor

Floats = NDArray[np.float64]

DRIVING_MPS = 3.0
STUCK_S = 1_200.0  # of driving at one and the same reading
JUMPING_SHARE = 0.15  # of fixes
SMOOTHING_MS = 600_000.0
NOMINAL_MS = 5_000
WATCHED = ("motor_temperature", "state_of_charge", "speed")
STUCK = {f"stuck {name.replace('_', ' ')}": name for name in WATCHED}
JUMPS = "GPS jumps 2 km every half minute"


def driven_unchanged_s(ts_ms: NDArray[np.int64], signals: Signals, name: str) -> Floats:
    """(length,) seconds driven since a reading last changed; an absent reading changes nothing, a gap counts as one sample."""
    driving = np.nan_to_num(signals[:, COLUMN["speed"]]) > DRIVING_MPS
    step_s = np.minimum(np.diff(ts_ms, prepend=ts_ms[0] - NOMINAL_MS), NOMINAL_MS) / 1_000.0
    driven_s = np.cumsum(step_s * driving)
    known = np.flatnonzero(~np.isnan(signals[:, COLUMN[name]]))
    values = signals[known, COLUMN[name]]
    changed = known[np.flatnonzero(np.diff(values, prepend=np.nan) != 0)]  # NaN differs from everything
    if not len(changed):
        return np.zeros(len(ts_ms))
    last = np.searchsorted(changed, np.arange(len(ts_ms)), side="right") - 1
    return np.where(last >= 0, driven_s - driven_s[changed[np.maximum(last, 0)]], 0.0)


def rejected_share(preprocessor: Preprocessor, trace: Trace) -> Floats:
    """(length,) share of samples whose position the motion filter rejects or restarts at, over about ten minutes."""
    ts_ms, signals = trace
    wire, state = signals.astype(np.float64), preprocessor.initial_state(1)
    rejected, before = np.zeros(len(ts_ms)), np.zeros(2, np.int64)
    for i in range(len(ts_ms)):
        preprocessor.advance(state, ts_ms[i : i + 1], wire[i : i + 1])
        after = state["kalman"]["rejects"][0, :2].astype(np.int64)  # east and north
        restarted = (before == MAX_REJECTS - 1) & (after == 0)
        rejected[i] = (after > before).any() or restarted.any()
        before = after
    return levels(np.diff(ts_ms, prepend=ts_ms[0] - NOMINAL_MS), rejected, SMOOTHING_MS, 1.0)


def checks(preprocessor: Preprocessor, trace: Trace) -> dict[str, Floats]:
    """The course of every check over one vehicle."""
    of = {name: driven_unchanged_s(*trace, name) for name in WATCHED}
    return of | {"position": rejected_share(preprocessor, trace)}


def limit(check: str) -> float:
    """Above which a rule would raise."""
    return JUMPING_SHARE if check == "position" else STUCK_S


def measure(preprocessor: Preprocessor, data: Path | None, vans: int) -> list[dict[str, Any]]:
    """Rows: the highest of each check over healthy vehicles; of broken ones the share that is noticed, and after how long."""
    highest: dict[tuple[str, str], list[float]] = {}
    delay_min: dict[str, list[float]] = {name: [] for name in (*STUCK, JUMPS)}

    def keep(vehicles: str, trace: Trace) -> None:
        for check, course in checks(preprocessor, trace).items():
            if not np.isnan(trace[1][:, COLUMN["latitude" if check == "position" else check]]).all():
                highest.setdefault((check, vehicles), []).append(float(course.max()))

    for van in range(vans):
        quiet = FleetConfig(
            vans, DAYS, SEED, faulty_share=0.0, sensor_trouble=0.0, missing_channel_share=(0.0, 0.0, 0.0)
        )
        sound, usual = (simulate_vehicle(fleet, van) for fleet in (quiet, replace(quiet, sensor_trouble=1.0)))
        keep("simulated, sound sensors", (sound.ts_ms, sound.signals))
        keep("simulated, everyday sensor troubles", (usual.ts_ms, usual.signals))
        at = broken_at(sound.signals)
        for name, delays in delay_min.items():
            signals = sound.signals.copy()
            TROUBLES[name](signals, at)
            course = checks(preprocessor, (sound.ts_ms, signals))[STUCK.get(name, "position")]
            over = np.flatnonzero(course[at : at + BROKEN_HOURS * HOUR] >= limit(STUCK.get(name, "position")))
            delays.append(over[0] * NOMINAL_MS / 60_000.0 if len(over) else np.inf)
    for name, trace in real_drives(data) if data is not None else ():
        keep(name, trace)
    rows = [
        row("highest", f"{check}: {vehicles}", max(of), len(of), "share" if check == "position" else "s driven")
        for (check, vehicles), of in highest.items()
    ]
    for name, delays in delay_min.items():
        rows.append(row("noticed", name, float(np.isfinite(delays).mean()), len(delays), "share"))
        if np.isfinite(delays).any():
            seen = np.array(delays)[np.isfinite(delays)]
            rows.append(row("noticed_after", name, float(np.median(seen)), len(seen), "minutes, median of the noticed"))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: prints one report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, nargs="?", help="folder with leaf/ and bmw_i3/; without it simulated vans")
    parser.add_argument("--checkpoint", type=Path, default=SHIPPED)
    parser.add_argument("--vans", type=int, default=8, help="simulated ones")
    options = parser.parse_args(arguments)
    report = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": "cpu",
        "command": shlex.join(["python", "-m", "model.evaluation.sensor_checks", *(arguments or sys.argv[1:])]),
        "limits": {"s driven": STUCK_S, "share": JUMPING_SHARE},
        "rows": measure(load_checkpoint(options.checkpoint).preprocessor(), options.data, options.vans),
    }
    sys.stdout.write(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
