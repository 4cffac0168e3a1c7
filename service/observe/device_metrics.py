"""Memory and utilisation of the accelerator, read when they are asked for; nothing of it exists on a CPU."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import structlog
import torch
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

logger = structlog.get_logger(__name__)


class DeviceReading(NamedTuple):
    """What a device says of itself at one moment."""

    memory_used_bytes: int  # by all processes
    memory_total_bytes: int
    utilisation: float | None  # share of the last sample period in which a kernel ran; None if nobody can say


def read_cuda(device: str) -> DeviceReading:
    """Ask the driver. Utilisation needs NVML's bindings (extra `gpu`)."""
    free, total = torch.cuda.mem_get_info(device)
    try:
        busy: float | None = torch.cuda.utilization(device) / 100.0
    except (ModuleNotFoundError, RuntimeError):  # without the bindings, or where NVML is not allowed
        busy = None
    return DeviceReading(total - free, total, busy)


class DeviceGauges(Collector):
    """`device_memory_bytes{kind}` and `device_utilisation_ratio` of one CUDA device."""

    def __init__(self, device: str, read: Callable[[str], DeviceReading] = read_cuda) -> None:
        self._device, self._read = device, read

    def collect(self) -> Iterator[Metric]:
        """As the registry asks for it; a device that does not answer has no figures, and the log says why."""
        try:
            reading = self._read(self._device)
        except RuntimeError as error:
            logger.warning("the device does not answer", device=self._device, reason=str(error))
            return
        memory = GaugeMetricFamily(
            "emberwatch_device_memory_bytes", "Memory of the accelerator, all processes", labels=["kind"]
        )
        memory.add_metric(["used"], reading.memory_used_bytes)
        memory.add_metric(["total"], reading.memory_total_bytes)
        yield memory
        if reading.utilisation is not None:
            yield GaugeMetricFamily(
                "emberwatch_device_utilisation_ratio",
                "Share of the time in which the accelerator ran a kernel",
                reading.utilisation,
            )
