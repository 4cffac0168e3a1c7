"""Prometheus metrics in base units; no label ever names a vehicle."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector

from model.drift import DriftMonitor
from service.observe.array_histogram import ArrayHistogram
from service.observe.device_metrics import DeviceGauges
from service.observe.drift_metrics import DriftGauges
from service.samples import Status

# Bounds from measured latencies (docs/log.md, 2026-11-22): from below the 1st to beyond the 99.9th percentile of single posts and
# of batches of 240, closest between the median and the 99th, with room above for what is broken.
REQUEST = (0.001, 0.0025, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 2.5, 10.0)
STEP = (0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025, 0.05, 0.1, 0.25, 1.0)
STAGE = (0.00002, 0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
STORE = (0.0002, 0.0005, 0.001, 0.002, 0.004, 0.007, 0.01, 0.015, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.5, 5.0)
DELAY = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1_800, 7_200, 43_200)
LAG = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3_600, 14_400, 86_400, 604_800)


class Metrics:
    """All series of one service, in a registry of its own so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.samples = self._counter("samples", "Samples by verdict", ["status"])
        self.step_duration = self._histogram("step_duration_seconds", "One step of a batch through the network", STEP)
        self.step_cpu = self._counter(
            "step_cpu_seconds", "Processor time of the thread that steps, waiting by spinning included"
        )
        self.batch_size = self._histogram("batch_size", "Samples in a batch", (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024))
        self.queue_depth = self._gauge("queue_depth", "Samples waiting for a batch")
        self.http_duration = self._histogram(
            "http_request_duration_seconds", "HTTP requests by route and status code", REQUEST, ["route", "code"]
        )
        self.store_duration = self._histogram("store_duration_seconds", "Store calls by operation", STORE, ["op"])
        self.commit_conflicts = self._counter("commit_conflicts", "Commits lost to another writer and recomputed")
        self.batches_ahead = self._counter(
            "batches_ahead",
            "Batches computed before the commit that they follow was in, and what became of that work",
            ["result"],
        )
        self.event_lag = self._many("event_lag_seconds", "From a sample's ts to its commit", LAG)
        self.stage_seconds = self._histogram("stage_seconds", "Stages of a batch in the engine", STAGE, ["stage"])
        self.alert_transitions = self._counter("alert_transitions", "Alert transitions", ["rule", "to"])
        self.alerts_firing = self._gauge(
            "alerts_firing",
            "Alerts that have fired and are not resolved, in the partitions that this worker sweeps",
            ["rule", "severity"],
        )
        self.state_resets = self._counter("state_resets", "States that started again from zero", ["reason"])
        self.rehydrations = self._counter("rehydrations", "States brought into the cache", ["source"])
        self.vehicles_rebuilding = self._gauge(
            "vehicles_rebuilding", "Vehicles whose states wait to be scanned from history"
        )
        self.slots_used = self._gauge("slots_used", "Vehicles whose state is in the cache")
        self.slots_capacity = self._gauge("slots_capacity", "Vehicles whose state fits in the cache")
        self.keys_file_errors = self._counter("keys_file_errors", "Times the key file was bad and the old keys stayed")
        self.rate_limit_failures = self._counter(
            "rate_limit_failures", "Requests that passed because nobody could count"
        )
        self.vehicles_refused = self._counter("vehicles_refused", "New vehicles that were not let in", ["reason"])
        self.connections_closed = self._counter("connections_closed", "Connections closed by us", ["reason"])
        self.store_restarts = self._counter("store_restarts", "Times the embedded store died and was started again")
        self.snapshots = self._counter("snapshots", "Snapshots written in the background", ["result"])
        self.store_regressions = self._counter(
            "store_regressions",
            "Vehicles that the store had less of than we had committed: it lost acknowledged samples",
        )
        self.notifications = self._counter("notifications", "What became of notices at a sink", ["sink", "result"])
        self.notification_delay = self._histogram(
            "notification_delay_seconds", "From a sample's ts to the delivery of what it changed", DELAY, ["sink"]
        )
        self.notification_outbox = self._histogram(
            "notification_outbox_seconds", "From the commit of a change to its delivery", DELAY, ["sink"]
        )
        self.notifications_waiting = self._gauge("notifications_waiting", "Notices in hand", ["sink"])
        self.alert_listeners = self._gauge("alert_listeners", "Connections that listen to the stream of alerts")
        self.alert_listeners_ended = self._counter("alert_listeners_ended", "Listeners let go by us", ["reason"])
        self.outbox_dropped = self._counter("outbox_dropped", "Changes of alerts trimmed before every sink had them")
        self.dead_letters_dropped = self._counter("dead_letters_dropped", "Dead letters that newer ones pushed out")
        self.risk = self._many("risk", "Risk of applied samples", (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 0.6, 0.9))
        self.vehicles_active = self._gauge("vehicles_active", "Vehicles of the whole store heard of lately")
        self.vehicles_stale = self._gauge("vehicles_stale", "Vehicles of the whole store silent for too long")
        self.drift: DriftMonitor | None = None  # set where the model has a reference
        self._begin_at_zero()
        ProcessCollector(namespace="emberwatch", registry=self.registry)
        self.build = Info("emberwatch_build", "Version of the service", registry=self.registry)
        self.model = Info("emberwatch_model", "Model in service", registry=self.registry)

    def _begin_at_zero(self) -> None:
        """Series that exist from the start: of one that appears with its first event, `rate` sees no event."""
        for status in Status:
            self.samples.labels(status.word)
        for counter, values in (
            (self.state_resets, ("unusable", "model", "session", "import")),
            (self.rehydrations, ("snapshot", "journal", "history")),
            (self.vehicles_refused, ("bound", "rate")),
            (self.snapshots, ("written", "overtaken", "failed")),
            (self.batches_ahead, ("kept", "again")),
        ):
            for value in values:
                counter.labels(value)

    def watch_drift(self, monitor: DriftMonitor) -> None:
        """Export what this monitor finds; the engine feeds it."""
        self.drift = monitor
        self.registry.register(DriftGauges(monitor))

    def watch_device(self, device: str) -> None:
        """Export memory and utilisation of a CUDA device."""
        self.registry.register(DeviceGauges(device))

    def _counter(self, name: str, text: str, labels: list[str] | None = None) -> Counter:
        return Counter(f"emberwatch_{name}", text, labels or [], registry=self.registry)

    def _gauge(self, name: str, text: str, labels: list[str] | None = None) -> Gauge:
        return Gauge(f"emberwatch_{name}", text, labels or [], registry=self.registry)

    def _many(self, name: str, text: str, buckets: tuple[float, ...]) -> ArrayHistogram:
        histogram = ArrayHistogram(f"emberwatch_{name}", text, buckets)
        self.registry.register(histogram)
        return histogram

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], labels: list[str] | None = None
    ) -> Histogram:
        return Histogram(f"emberwatch_{name}", text, labels or [], buckets=buckets, registry=self.registry)
