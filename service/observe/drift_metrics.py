"""Drift of inputs and scores as gauges that are computed when they are asked for."""

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from model.drift import DriftMonitor


class DriftGauges(Collector):
    """`input_drift{channel}` and `score_drift` of a monitor; NaN until it has seen enough."""

    def __init__(self, monitor: DriftMonitor) -> None:
        self._monitor = monitor

    def collect(self) -> Iterator[Metric]:
        """As the registry asks for it."""
        channels, score = self._monitor.read()
        inputs = GaugeMetricFamily(
            "emberwatch_input_drift",
            "Population stability index of a channel against training; above 0.25 it is another population",
            labels=["channel"],
        )
        for channel, index in channels.items():
            inputs.add_metric([channel], index)
        yield inputs
        yield GaugeMetricFamily(
            "emberwatch_score_drift", "Population stability index of the risk against the validation fleet", score
        )
