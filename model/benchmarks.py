"""Measurements of the kernels, for the command line, which may not reach them itself."""

from kernels.bench_step import Options as StepBenchmark
from kernels.bench_step import measure as measure_step
from kernels.bench_step import this_commit

__all__ = ["StepBenchmark", "measure_step", "this_commit"]
