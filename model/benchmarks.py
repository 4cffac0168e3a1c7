"""Measurements of the kernels, and how reports name commit and machine, for the service, which may not reach them itself."""

from kernels.bench_step import Options as StepBenchmark
from kernels.bench_step import describe_device, this_commit
from kernels.bench_step import measure as measure_step

__all__ = ["StepBenchmark", "describe_device", "measure_step", "this_commit"]
