"""Measurements of the kernels, and how reports name commit and machine, for the service, which may not reach them itself."""

import torch

from kernels.bench_step import Options as StepBenchmark
from kernels.bench_step import describe_device, this_commit
from kernels.bench_step import measure as measure_step

__all__ = ["StepBenchmark", "describe_backend", "describe_device", "measure_step", "this_commit"]


def describe_backend(backend: str) -> str:
    """The processor, and the device on which this backend computes if it is another."""
    gpu = f", {torch.cuda.get_device_name()}" if backend.startswith("cuda") and torch.cuda.is_available() else ""
    return describe_device(1) + gpu
