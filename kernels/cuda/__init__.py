"""Kernels in CUDA C++, compiled at run time for the device at hand: the step, the scan from a state, and training."""

from kernels.cuda.backend import CudaBackend, missing_for_cuda
from kernels.cuda.causal_conv1d import causal_conv1d
from kernels.cuda.compiler import KernelCompileError
from kernels.cuda.network import network_scan_cuda
from kernels.cuda.selective_scan import ScanTiling, selective_scan

__all__ = [
    "CudaBackend",
    "KernelCompileError",
    "ScanTiling",
    "causal_conv1d",
    "missing_for_cuda",
    "network_scan_cuda",
    "selective_scan",
]
