"""Start a compiled kernel on torch's current stream, with one structure of parameters."""

import ctypes
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from kernels.cuda.compiler import compile_kernels

Defines = tuple[tuple[str, int], ...]

PORTABLE_CLUSTER = 8


class CudaLaunchError(RuntimeError):
    """The driver refused a call."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Which kernel, and how much of the device it takes."""

    source: str  # file in kernels/cuda/source
    kernel: str
    defines: Mapping[str, int]
    blocks: int
    threads: int  # per block
    shared_bytes: int = 0  # dynamic shared memory per block
    cluster: int = 1  # blocks per cluster, as the kernel is compiled; more than 8 must be allowed by name


class Strides(ctypes.Structure):
    """Elements between neighbours of the two outer dimensions."""

    _fields_ = (("batch", ctypes.c_int64), ("row", ctypes.c_int64))

    @staticmethod
    def of(tensor: torch.Tensor | None) -> "Strides":
        """Of a (batch, length, channels) tensor, or zero."""
        return Strides() if tensor is None else Strides(tensor.stride(0), tensor.stride(1))


def pointer(tensor: torch.Tensor | None) -> int | None:
    """Address of the first element; null for None."""
    return None if tensor is None else tensor.data_ptr()


def launch(what: Launch, params: ctypes.Structure, device: torch.device) -> None:
    """Start the kernel; returns before it has run.

    Args:
        what: the kernel.
        params: passed by value; its addresses are of tensors on `device`, which live until the stream has passed.
        device: a CUDA device.

    Raises:
        ValueError: `device` is not a CUDA device.
        KernelCompileError: the kernel does not compile.
        CudaLaunchError: the driver refuses.
    """
    if device.type != "cuda":
        raise ValueError(f"CUDA kernels need tensors on a CUDA device, got {device}")
    driver = import_driver()
    with torch.cuda.device(device):
        ensure_context(driver, device)
        defines = tuple(sorted(what.defines.items()))
        function = load_function(
            torch.cuda.current_device(), what.source, what.kernel, defines, what.shared_bytes, what.cluster
        )
        argument = (ctypes.c_void_p * 1)(ctypes.addressof(params))
        stream = torch.cuda.current_stream().cuda_stream
        answer = driver.cuLaunchKernel(
            function, what.blocks, 1, 1, what.threads, 1, 1, what.shared_bytes, stream, ctypes.addressof(argument), 0
        )
        check(driver, answer, f"launch of {what}")


def import_driver() -> Any:
    """The bindings of the driver."""
    from cuda.bindings import driver  # noqa: PLC0415  (only machines with a GPU have it)

    return driver


def ensure_context(driver: Any, device: torch.device) -> None:
    """Make torch's context current in this thread; autograd's threads may not have touched the driver yet."""
    (context,) = check(driver, driver.cuCtxGetCurrent(), "current context")
    if int(context) == 0:
        index = torch.cuda.current_device() if device.index is None else device.index
        (handle,) = check(driver, driver.cuDeviceGet(index), "device")
        (context,) = check(driver, driver.cuDevicePrimaryCtxRetain(handle), "primary context")
        check(driver, driver.cuCtxSetCurrent(context), "context")


@functools.cache
def load_function(
    device_index: int, source: str, kernel: str, defines: Defines, shared_bytes: int, cluster: int = 1
) -> Any:
    """The kernel as the driver knows it, allowed as much shared memory and as large a cluster as it is launched with."""
    driver = import_driver()
    module = load_module(device_index, source, defines)
    (function,) = check(driver, driver.cuModuleGetFunction(module, kernel.encode()), f"look-up of {kernel}")
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    check(driver, driver.cuFuncSetAttribute(function, attribute, shared_bytes), f"{shared_bytes} B for {kernel}")
    if cluster > PORTABLE_CLUSTER:
        attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED
        check(driver, driver.cuFuncSetAttribute(function, attribute, 1), f"clusters of {cluster} for {kernel}")
    return function


def most_clusters(what: Launch, device: torch.device) -> int:
    """How many clusters of a kernel the device holds at once; 0 where it cannot hold one.

    Raises:
        KernelCompileError: the kernel does not compile.
        CudaLaunchError: the driver refuses to answer.
    """
    driver = import_driver()
    with torch.cuda.device(device):
        ensure_context(driver, device)
        defines = tuple(sorted(what.defines.items()))
        function = load_function(
            torch.cuda.current_device(), what.source, what.kernel, defines, what.shared_bytes, what.cluster
        )
        if what.cluster == 1:
            occupancy = driver.cuOccupancyMaxActiveBlocksPerMultiprocessor(function, what.threads, what.shared_bytes)
            (blocks,) = check(driver, occupancy, f"occupancy of {what.kernel}")
            return int(blocks) * torch.cuda.get_device_properties(device).multi_processor_count
        attribute = driver.CUlaunchAttribute()
        attribute.id = driver.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION
        attribute.value.clusterDim.x, attribute.value.clusterDim.y, attribute.value.clusterDim.z = what.cluster, 1, 1
        config = driver.CUlaunchConfig()
        config.gridDimX, config.gridDimY, config.gridDimZ = what.cluster, 1, 1
        config.blockDimX, config.blockDimY, config.blockDimZ = what.threads, 1, 1
        config.sharedMemBytes, config.attrs, config.numAttrs = what.shared_bytes, [attribute], 1
        (clusters,) = check(driver, driver.cuOccupancyMaxActiveClusters(function, config), f"clusters of {what.kernel}")
        return int(clusters)


@functools.cache
def load_module(device_index: int, source: str, defines: Defines) -> Any:
    """Compile for this device and load into the current context; stays loaded."""
    driver = import_driver()
    major, minor = torch.cuda.get_device_capability(device_index)
    code = compile_kernels(source, dict(defines), f"sm_{major}{minor}")
    image = ctypes.create_string_buffer(code, len(code))
    (module,) = check(driver, driver.cuModuleLoadData(ctypes.addressof(image)), f"load of {source}")
    return module


def check(driver: Any, answer: tuple[Any, ...], what: str) -> tuple[Any, ...]:
    """What a call of the driver returned beside its status.

    Raises:
        CudaLaunchError: the status is not success.
    """
    status, *rest = answer
    if status != driver.CUresult.CUDA_SUCCESS:
        raise CudaLaunchError(f"{what}: {status!r}")
    return tuple(rest)
