"""From network outputs to the numbers that operators see: calibrated risk and surprise."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
Bools = NDArray[np.bool_]


# Surprise is smoothed before it is compared, chosen by model/evaluation/anomaly.py: see docs/log.md, 2026-11-22.
ANOMALY_SMOOTHING_S = 600.0  # time constant
ANOMALY_HIGHEST = 4.0  # nats per channel that one sample counts at most
ANOMALY_RESOLVE_BELOW, ANOMALY_CRITICAL_ABOVE = 0.25, 0.75  # from the threshold, nats per channel


@dataclass(frozen=True, slots=True)
class Calibration:
    """Platt scaling (Platt 1999) of the risk logit, and the operating points chosen on the validation split.

    Attributes:
        slope: positive.
        intercept: in logits.
        alert_threshold: risk from which an alert becomes pending.
        resolve_threshold: risk below which it may resolve; at most alert_threshold.
        f2_threshold: risk that maximises F2 over instants, for reports.
        anomaly_threshold: smoothed surprise, nats per channel, from which sensors are an anomaly; None: nobody has chosen
            one (`python -m model.evaluation.anomaly --store` does).
        critical_threshold: risk from which an alert is critical; None: half way from alert_threshold to certainty.
    """

    slope: float = 1.0
    intercept: float = 0.0
    alert_threshold: float = 0.5
    resolve_threshold: float = 0.25
    f2_threshold: float = 0.5
    critical_threshold: float | None = None
    anomaly_threshold: float | None = None

    def __post_init__(self) -> None:
        if self.slope <= 0:
            raise ValueError(f"slope must be positive, got {self.slope}")
        if not 0 < self.resolve_threshold <= self.alert_threshold < 1:
            raise ValueError(
                "thresholds must satisfy 0 < resolve <= alert < 1, "
                f"got {self.resolve_threshold} and {self.alert_threshold}"
            )
        if not self.alert_threshold <= self.critical < 1:
            raise ValueError(f"critical_threshold must lie in [{self.alert_threshold}, 1), got {self.critical}")

    @property
    def critical(self) -> float:
        """Risk from which an alert is critical."""
        given = self.critical_threshold
        return 0.5 * (1.0 + self.alert_threshold) if given is None else given

    def risk(self, logit: NDArray[np.floating]) -> Floats:
        """Calibrated probability of a thermal event within the horizon, from logits of any shape."""
        return 0.5 * (1.0 + np.tanh(0.5 * (self.slope * logit.astype(np.float64) + self.intercept)))


def surprise(z: Singles, present: Bools, mean: Singles, log_scale: Singles) -> Floats:
    """How unlikely each sample was under the forecast made before it, in nats per channel present.

    Args:
        z: (batch, n_channels) z-scores of the sample.
        present: (batch, n_channels).
        mean: (batch, n_channels) forecast means; NaN where there was no forecast.
        log_scale: (batch, n_channels) logs of the Laplace scales.

    Returns:
        (batch,) negative log-likelihood under Laplace(mean, scale), averaged over the channels that are present;
        NaN where none is, or where there was no forecast.
    """
    nats = np.log(2.0) + log_scale + np.abs(z - mean) * np.exp(-log_scale.astype(np.float64))
    count = present.sum(axis=1)
    total = np.where(present, nats, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
