"""Why an alert changed, from what is at hand when it does: the last samples in the journal and the vehicle's own statistics.

For `thermal_risk` a channel's deviation is its z-score, how far it is from what is usual for this vehicle; for
`telemetry_anomaly` it is the distance from the model's forecast of that very sample, in the forecast's own standard deviations.
Both say what is unusual. Neither says how much of the risk is due to a channel: the network is not asked.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.channels import ChannelSchema
from model.normaliser import Z_LIMIT, FleetPrior, shrunk
from service.alerting.alerts import Rule, Transition
from service.alerting.record import Record, Why, number_or_none
from service.records.journal import Entries

CONTRIBUTIONS = 3
LEAST_DEVIATION = 1.0  # standard deviations; what is nearer is not unusual
COURSE_POINTS = 8
LAPLACE_DEVIATION = math.sqrt(2.0)  # standard deviation of a Laplace density of scale 1

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the model expected of one sample, in z-scores."""

    mean: NDArray[np.floating[Any]]  # (n_channels,)
    log_scale: NDArray[np.floating[Any]]  # (n_channels,)


class Explainer:
    """Explains changes for one model."""

    def __init__(self, schema: ChannelSchema, prior: FleetPrior) -> None:
        self._schema = schema
        self._prior = prior
        self._signal = {name: i for i, name in enumerate(schema.signal_names)}

    def __call__(
        self,
        transition: Transition,
        head: np.void,
        entries: Entries,
        signals: Floats | None = None,
        forecast: Forecast | None = None,
    ) -> Why:
        """Why this change came about.

        Args:
            transition: of one of the vehicle's machines.
            head: the vehicle's.
            entries: (n,) its last samples as in the journal, the last one the one that brought the change; n may be 0.
            signals: (n_signals,) of that sample as they came.
            forecast: of that sample.
        """
        if not len(entries):
            return Why()
        n = len(self._schema.channels)
        z = entries["inputs"][:, :n].astype(np.float64)
        present = entries["inputs"][-1, n : 2 * n] > 0.0
        expected, deviation = np.zeros(n), z[-1]
        if transition.rule is Rule.TELEMETRY_ANOMALY:
            if forecast is None or not np.isfinite(forecast.mean).all():
                return Why(course=self.course(entries))
            expected = forecast.mean.astype(np.float64)
            scale = LAPLACE_DEVIATION * np.exp(forecast.log_scale.astype(np.float64))
            deviation = np.where(present, (z[-1] - expected) / scale, 0.0)
        farthest = np.argsort(-np.abs(deviation), kind="stable")[:CONTRIBUTIONS]
        return Why(
            [
                self._contribution(transition, head, int(i), expected[i], deviation[i], z[:, i], entries, signals)
                for i in farthest
                if abs(deviation[i]) >= LEAST_DEVIATION
            ],
            self.course(entries),
        )

    @staticmethod
    def course(entries: Entries) -> list[tuple[int, float]]:
        """[ts_ms, risk] of a few of these samples (n,), evenly spread, the last one among them."""
        known = entries[np.isfinite(entries["risk"])]
        places = np.unique(np.linspace(0, len(known) - 1, min(COURSE_POINTS, len(known))).round().astype(np.int64))
        times, risks = known["ts_ms"][places].tolist(), known["risk"][places].tolist()
        return [(int(ts), round(float(risk), 4)) for ts, risk in zip(times, risks, strict=True)]

    def _contribution(
        self,
        transition: Transition,
        head: np.void,
        i: int,
        expected: float,
        deviation: float,
        z: Floats,
        entries: Entries,
        signals: Floats | None,
    ) -> Record:
        """One channel. Of the anomaly only the last sample's forecast is known: it is off since the value crossed."""
        intervals = max(float(entries["ratio"][-1]), 1.0)
        channel, state = self._schema.channels[i], head["preprocess"]["normaliser"]
        plain: Any = shrunk.py_func  # type: ignore[attr-defined]  # a few numbers: not worth a compilation
        mean, std = plain(state, i, self._prior.mean[i], self._prior.std[i], self._prior.prior_weight)
        value = mean + z[-1] * std if abs(z[-1]) < Z_LIMIT else math.nan  # clipped: the value is not in the z-score
        column = self._signal.get(channel.source)
        if signals is not None and column is not None and math.isfinite(signals[column]):
            value = signals[column] / (intervals if channel.per_interval else 1.0)
        if transition.rule is Rule.THERMAL_RISK:
            since_ms, at_least = since(z, entries["ts_ms"])
        else:
            since_ms, at_least = int(transition.machine["first_crossed_ms"]), False
        return {
            "channel": channel.name,
            "unit": channel.unit,
            "value": number_or_none(value, 3),
            "expected": number_or_none(mean + expected * std, 3),
            "deviation": number_or_none(deviation, 2),
            "since_ms": since_ms,
            "since_at_least": at_least,
        }


def since(z: Floats, ts_ms: NDArray[np.int64]) -> tuple[int, bool]:
    """Since when z (n,) has been off at least half as far as at the end, the same way; True: or longer, the samples end there."""
    near = np.flatnonzero(z * np.sign(z[-1]) < 0.5 * abs(z[-1]))
    first = int(near[-1]) + 1 if len(near) else 0
    return int(ts_ms[first]), first == 0
