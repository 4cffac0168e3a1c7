"""When alerts are raised: the checkpoint's thresholds and the settings that override them."""

import math

from model.checkpoint import Checkpoint
from model.scoring import ANOMALY_CRITICAL_ABOVE, ANOMALY_HIGHEST, ANOMALY_RESOLVE_BELOW, ANOMALY_SMOOTHING_S
from service.alerting.alerts import AlertPolicy
from service.settings import Settings


def alert_policy(settings: Settings, checkpoint: Checkpoint) -> AlertPolicy:
    """The checkpoint's thresholds, unless a setting overrides them.

    Raises:
        ValueError: the thresholds that result are out of order.
    """
    known = checkpoint.calibration
    threshold = settings.alert_threshold or known.alert_threshold
    anomaly = known.anomaly_threshold if settings.anomaly_threshold is None else settings.anomaly_threshold
    if anomaly is None or not settings.telemetry_anomaly:
        anomaly = math.inf
    policy = AlertPolicy(
        threshold=threshold,
        resolve_threshold=settings.resolve_threshold or min(known.resolve_threshold, threshold),
        for_s=settings.alert_for_s,
        keep_firing_s=settings.alert_keep_firing_s,
        warmup_samples=checkpoint.warmup_samples,
        horizon_s=checkpoint.horizon_s,
        critical_threshold=settings.critical_threshold or max(known.critical, threshold),
        stale_after_s=settings.stale_after_s,
        anomaly_threshold=anomaly,
        anomaly_resolve_threshold=anomaly - ANOMALY_RESOLVE_BELOW,
        anomaly_critical_threshold=anomaly + ANOMALY_CRITICAL_ABOVE,
        anomaly_smoothing_s=ANOMALY_SMOOTHING_S,
        anomaly_highest=ANOMALY_HIGHEST,
    )
    policy.packed()  # raises now what would raise at the first sample
    return policy
