"""The alert state machine, for a batch of vehicles at once; its state is part of the head and commits with the sample.

    inactive -> pending (risk high) -> firing (high for `for_s`) -> resolved (low for `keep_firing_s`) -> inactive

A pending alert whose risk falls again lapses and was never an alert.
"""

import hashlib
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

from model.jit import entry_point_for
from service.head import ALERT_DTYPE, Heads, Phase

RULE = "thermal_risk"


@dataclass(frozen=True, slots=True)
class AlertPolicy:
    """When `thermal_risk` raises and resolves."""

    threshold: float  # risk
    resolve_threshold: float  # risk, at most threshold
    for_s: float
    keep_firing_s: float
    warmup_samples: int
    horizon_s: float


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of an alert: `row` of the batch went `to` pending, firing, resolved or lapsed."""

    row: int
    to: str
    first_crossed_ms: int
    fired_ms: int | None


# What one sample can do to an alert, as bits, in the order in which they are told.
CHANGES = ("lapsed", "pending", "firing", "resolved")
LAPSED, PENDING, FIRING, RESOLVED = (1 << i for i in range(len(CHANGES)))


@dataclass(frozen=True, slots=True)
class AlertCourse:
    """What became of the alerts of a batch, by row.

    Attributes:
        phase: (rows,) uint8 after each row, a Phase.
        transitions: in the order of the rows; where one row both begins and fires, two of them.
    """

    phase: NDArray[np.uint8]
    transitions: list[Transition]


def advance_alerts(
    policy: AlertPolicy, heads: Heads, lengths: NDArray[np.int64], ts_ms: NDArray[np.int64], risk: NDArray[np.float64]
) -> AlertCourse:
    """Advance the machines of a batch over each vehicle's samples, in place.

    Args:
        policy: thresholds and times.
        heads: (vehicles,) before these samples were counted in `samples`.
        lengths: (vehicles,) samples of each.
        ts_ms: (rows,) vehicle after vehicle.
        risk: (rows,).
    """
    phase, changes = np.empty(len(ts_ms), np.uint8), np.empty(len(ts_ms), np.uint8)
    first_crossed_ms, fired_ms = np.empty(len(ts_ms), np.int64), np.empty(len(ts_ms), np.int64)
    limits = np.array(
        [
            policy.threshold,
            policy.resolve_threshold,
            1000.0 * policy.for_s,
            1000.0 * policy.keep_firing_s,
            policy.warmup_samples,
        ],
        np.float64,
    )
    _advance(heads["alert"], heads["samples"], lengths, ts_ms, risk, limits, phase, changes, first_crossed_ms, fired_ms)
    transitions = [
        Transition(
            row=row,
            to=to,
            first_crossed_ms=int(first_crossed_ms[row]),
            fired_ms=int(fired_ms[row]) if to in {"firing", "resolved"} else None,
        )
        for row in np.flatnonzero(changes).tolist()
        for i, to in enumerate(CHANGES)
        if changes[row] & 1 << i
    ]
    return AlertCourse(phase, transitions)


def _compiled(function: Any) -> Any:
    """Compile for the types that `advance_alerts` passes, when the service is imported."""

    def array(dtype: Any, layout: Any = "C", *, readonly: bool = False) -> Any:
        return numba.types.Array(numba.from_dtype(np.dtype(dtype)), 1, layout, readonly=readonly)

    longs, bytes_ = array(np.int64, readonly=True), array(np.uint8)
    return entry_point_for(
        function,
        array(ALERT_DTYPE, "A"),
        array(np.uint32, "A"),
        longs,
        longs,
        array(np.float64, readonly=True),
        array(np.float64, readonly=True),
        bytes_,
        bytes_,
        array(np.int64),
        array(np.int64),
    )


@_compiled
def _advance(  # noqa: C901  (the machine reads best in one place)
    alerts: Any,
    samples: Any,
    lengths: Any,
    ts_ms: Any,
    risk: Any,
    limits: Any,
    phase: Any,
    changes: Any,
    first_crossed_ms: Any,
    fired_ms: Any,
) -> None:
    """Row after row. `limits`: threshold, resolve threshold, `for` and `keep_firing` in ms, warm-up samples."""
    threshold, resolve_threshold, for_ms, keep_firing_ms, warmup = limits
    row = 0
    for vehicle in range(len(lengths)):
        alert = alerts[vehicle]
        for i in range(lengths[vehicle]):
            change, now = 0, ts_ms[row]
            if alert["phase"] == Phase.INACTIVE and risk[row] >= threshold and samples[vehicle] + i >= warmup:
                alert["phase"], alert["first_crossed_ms"] = Phase.PENDING, now
                change |= PENDING
            if alert["phase"] == Phase.PENDING:
                if risk[row] < threshold:
                    alert["phase"] = Phase.INACTIVE
                    change |= LAPSED
                elif now - alert["first_crossed_ms"] >= for_ms:
                    alert["phase"], alert["fired_ms"] = Phase.FIRING, now
                    change |= FIRING
            elif alert["phase"] == Phase.FIRING:
                if risk[row] >= resolve_threshold:
                    alert["below_ms"] = -1
                elif alert["below_ms"] < 0:
                    alert["below_ms"] = now
                if alert["below_ms"] >= 0 and now - alert["below_ms"] >= keep_firing_ms:
                    alert["phase"], alert["below_ms"] = Phase.INACTIVE, -1
                    change |= RESOLVED
            phase[row], changes[row] = alert["phase"], change
            first_crossed_ms[row], fired_ms[row] = alert["first_crossed_ms"], alert["fired_ms"]
            row += 1


def alert_record(
    policy: AlertPolicy,
    vehicle_id: str,
    head: np.void,
    transition: Transition,
    *,
    ts_ms: int,
    seq: int,
    risk: float,
    fingerprint: str,
) -> dict[str, Any]:
    """The alert as stored and shown; its id is the same for every transition of one alert.

    Time, seq and risk are of the sample that changed it; the position is the head's, which may be a few samples on.
    """
    kalman = head["preprocess"]["kalman"]
    has_fix = not np.isnan(kalman["latitude"])
    epoch = int(head["epoch"])
    name = f"{vehicle_id}|{RULE}|{epoch}|{transition.first_crossed_ms}"
    return {
        "id": hashlib.sha256(name.encode()).hexdigest()[:16],
        "vehicle_id": vehicle_id,
        "rule": RULE,
        "phase": transition.to,
        "risk": None if np.isnan(risk) else round(risk, 6),
        "threshold": policy.threshold,
        "horizon_s": policy.horizon_s,
        "first_crossed_ms": transition.first_crossed_ms,
        "fired_ms": transition.fired_ms,
        "updated_ms": ts_ms,
        "position": {"latitude": round(float(kalman["latitude"]), 6), "longitude": round(float(kalman["longitude"]), 6)}
        if has_fix
        else None,
        "epoch": epoch,
        "seq": seq,
        "fingerprint": fingerprint,
    }
