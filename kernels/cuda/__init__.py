"""Kernels in CUDA C++, compiled at run time for the device at hand: the training path."""

from kernels.cuda.causal_conv1d import causal_conv1d
from kernels.cuda.compiler import KernelCompileError
from kernels.cuda.network import network_scan_cuda
from kernels.cuda.selective_scan import ScanTiling, selective_scan

__all__ = ["KernelCompileError", "ScanTiling", "causal_conv1d", "network_scan_cuda", "selective_scan"]
