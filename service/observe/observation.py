"""What is observed of a service beside what it counts itself: drift, the accelerator, traces."""

from importlib.metadata import version
from typing import TYPE_CHECKING

import structlog

from model.checkpoint import Checkpoint
from model.drift import FILE as DRIFT_FILE
from model.drift import DriftMonitor, DriftReference, DriftReferenceError
from model.runtime import ModelRuntime
from service.observe.metrics import Metrics
from service.settings import Settings

if TYPE_CHECKING:
    from service.observe.tracing import Tracing

logger = structlog.get_logger(__name__)


def observe_model(settings: Settings, checkpoint: Checkpoint, runtime: ModelRuntime, metrics: Metrics) -> None:
    """Export drift where the checkpoint has a reference, and the device where it is an accelerator."""
    try:
        reference = DriftReference.load(settings.checkpoint, checkpoint.fingerprint())
    except DriftReferenceError as error:
        reference = None
        logger.warning("drift is not measured", reason=str(error))
    else:
        if reference is None:
            logger.info(
                "drift is not measured", reason=f"{settings.checkpoint} has no {DRIFT_FILE}: docs/operations.md"
            )
    if reference is not None:
        metrics.watch_drift(DriftMonitor(reference, settings.drift_half_life_s))
    if runtime.device.startswith("cuda"):
        metrics.watch_device(runtime.device)


def tracing_for(settings: Settings) -> "Tracing | None":
    """The tracer, or None where nobody asked for one: then nothing of it is even imported.

    Raises:
        ValueError: it was asked for and the extra is not installed.
    """
    if not settings.tracing:
        return None
    try:
        from service.observe.tracing import Tracing  # noqa: PLC0415  (an extra)
    except ModuleNotFoundError as error:
        raise ValueError(f"tracing needs the extra otel (pip install 'emberwatch[otel]'): {error}") from error
    return Tracing(version("emberwatch"))
