"""The network in C++ for the processor: AVX-512, AVX2 or portable vectors, chosen on the machine that runs it."""

from kernels.cpu.backend import ISA_VARIABLE, CpuBackend, instruction_sets, missing_for_cpu

__all__ = ["ISA_VARIABLE", "CpuBackend", "instruction_sets", "missing_for_cpu"]
