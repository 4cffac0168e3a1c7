"""What the parts of the engine share: one model, one store, one thread that steps."""

from collections.abc import Callable
from dataclasses import dataclass

from model.checkpoint import Checkpoint
from model.runtime import ModelRuntime
from service.alerting.alerts import AlertPolicy
from service.engine.claims import Claims
from service.engine.step_thread import StepThread
from service.engine.trend import TrendLayout
from service.observe.metrics import Metrics
from service.records.head import HeadLayout
from service.records.history import Retention
from service.records.journal import JournalLayout
from service.records.state_codec import SnapshotDtype
from service.store.store import Store


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How the engine works; the figures are settings of the service."""

    n_slots: int
    max_future_skew_s: float = 300.0
    snapshot_every: int = 60
    snapshot_dtype: SnapshotDtype = "fp32"
    retention: Retention | None = None  # None: what was sent is not kept, and another model starts cold


@dataclass(frozen=True, slots=True)
class EngineContext:
    """Made once by the engine, read by its parts.

    Attributes:
        checkpoint, runtime: the model, and it at work.
        fingerprint: the model's.
        layout, journals, trends: how heads, journal entries and bins of the trend lie in memory with this model.
        store: where the truth is.
        claims: who works on which vehicle.
        step_thread: all that touches the slots' states runs there, or beside it while it is idle.
        clock: seconds since 1970.
    """

    checkpoint: Checkpoint
    runtime: ModelRuntime
    fingerprint: str
    layout: HeadLayout
    journals: JournalLayout
    trends: TrendLayout
    policy: AlertPolicy
    options: EngineOptions
    store: Store
    metrics: Metrics
    claims: Claims
    step_thread: StepThread
    clock: Callable[[], float]
