"""What a running service answers for its last 48 hours (`GET /v1/vehicles/{id}/trend`, `GET /v1/alerts`) as days.

A bin of five minutes tells what was measured last in it, which stands here for the whole bin: distances and times are
coarser than from telemetry, energy is as good. An alert that fired and went within one bin is known only while it is the
last of its van. This module does not know HTTP.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.studies.capacity.day_sums import SIGNALS_USED, DayCourse
from model.studies.capacity.local_days import LocalClock, nautical
from model.studies.capacity.recorded_days import VehicleDays
from model.studies.capacity.risk_days import QUANTILES, RiskDay

Floats = NDArray[np.float64]
Millis = NDArray[np.int64]

OPEN = ("firing", "recovering", "stale")  # phases of an alert that has fired
RULE = "thermal_risk"
PLAIN = ("latitude", "longitude", "risk", "risk_max", "samples")


def fired_by_van(alerts: Iterable[Mapping[str, Any]]) -> dict[str, list[int]]:
    """When the alerts of `GET /v1/alerts` fired, epoch ms, by vehicle. Raises ValueError on what is no alert."""
    found: dict[str, list[int]] = {}
    for alert in alerts:
        try:
            if alert["rule"] == RULE and alert["fired_ms"] is not None:
                found.setdefault(alert["vehicle_id"], []).append(int(alert["fired_ms"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"/v1/alerts: this is no alert: {alert!r:.200}") from error
    return found


def trend_days(trend: Mapping[str, Any], fired_ms: Iterable[int], clock: LocalClock | None) -> VehicleDays:
    """One vehicle's days.

    Args:
        trend: the answer, at any resolution.
        fired_ms: when alerts of it are known to have fired.
        clock: where days begin; None: in the nautical zone of its positions.

    Raises:
        ValueError: the answer is not a trend; vehicle and column are named.
    """
    vehicle_id, bin_ms, ts_ms, columns = read_columns(trend)
    if clock is None:
        longitude = columns["longitude"][~np.isnan(columns["longitude"])]
        clock = nautical(float(np.median(longitude)) if len(longitude) else None)
    course = DayCourse(clock, hold_ms=bin_ms)
    signals = np.stack([columns[name] for name in SIGNALS_USED], axis=1)
    parts = [course.advance(ts_ms, signals), course.finish()]
    onsets = firing_bins(trend["columns"]["phase"], ts_ms) | {at // bin_ms * bin_ms for at in fired_ms}
    return VehicleDays(
        vehicle_id=vehicle_id,
        zone=clock.name,
        days=np.concatenate([part.days for part in parts]),
        charges=np.concatenate([part.charges for part in parts]),
        risk=risk_days(clock.days(ts_ms), columns, clock.days(np.array(sorted(onsets), np.int64))),
    )


def read_columns(trend: Mapping[str, Any]) -> tuple[str, int, Millis, dict[str, Floats]]:
    """Vehicle, length of a bin in ms, where bins start, and the columns as numbers, NaN for null."""
    vehicle_id = str(trend.get("vehicle_id", "?"))
    where = "resolution_s"
    try:
        bin_ms = 1_000 * int(trend["resolution_s"])
        where = "ts_ms"
        given = trend["columns"]
        ts_ms = np.array(given["ts_ms"], np.int64)
        columns = {}
        for name in (*PLAIN, *SIGNALS_USED):
            where = name
            cells = given[name] if name in PLAIN else given["values"].get(name)
            columns[name] = np.full(len(ts_ms), np.nan) if cells is None else np.array(cells, np.float64)
        where = "phase"
        lengths = {len(given["phase"]), len(ts_ms), *(len(column) for column in columns.values())}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"the trend of {vehicle_id}, column {where}: {error!r}") from error
    if len(lengths) > 1:
        raise ValueError(f"the trend of {vehicle_id} has columns of different lengths: {sorted(lengths)}")
    return vehicle_id, bin_ms, ts_ms, columns


def firing_bins(phases: list[str], ts_ms: Millis) -> set[int]:
    """Starts of the bins in which an alert began to fire, as far as bins tell."""
    open_now = np.array([phase in OPEN for phase in phases], np.bool_)
    before = np.concatenate((open_now[:1], open_now[:-1]))  # what is open at the start fired before
    return set(ts_ms[open_now & ~before].tolist())


def risk_days(days: Millis, columns: Mapping[str, Floats], fired: Millis) -> dict[int, RiskDay]:
    """Risk by local day: quantiles over bins by their samples, the highest of all samples."""
    found = {}
    for day in np.unique(days).tolist():
        today = (days == day) & ~np.isnan(columns["risk"])
        if not today.any():
            continue
        order = np.argsort(columns["risk"][today])
        risk, share = columns["risk"][today][order], np.cumsum(columns["samples"][today][order])
        median, high = (float(risk[np.searchsorted(share, q * share[-1])]) for q in QUANTILES)
        found[day] = RiskDay(median, high, float(np.nanmax(columns["risk_max"][today])), int((fired == day).sum()))
    return found
