"""Runs the CUDA sources on the host, for tests without a device: the kernels' arithmetic and synchronisation, not speed."""

import ctypes
import functools
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest
import torch

from kernels.cuda.compiler import SOURCE_FOLDER
from kernels.cuda.launch import Launch

FOLDER = Path(__file__).parent / "emulation"


@functools.cache
def library(source: str, defines: tuple[tuple[str, int], ...]) -> ctypes.CDLL:
    """The source, compiled for the host."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("the emulation of the CUDA kernels needs g++")
    out = Path(tempfile.mkdtemp(prefix="emberwatch-emulation-")) / "kernels.so"
    subprocess.run(
        [
            compiler, "-std=c++17", "-O1", "-fPIC", "-shared", "-w", "-DEMBERWATCH_HOST", f"-I{SOURCE_FOLDER}",
            f"-I{FOLDER}", *(f"-D{name}={value}" for name, value in defines),
            str(FOLDER / Path(source).with_suffix(".cpp")), "-o", str(out),
        ],
        check=True,
    )  # fmt: skip
    return ctypes.CDLL(str(out))


def emulate(what: Launch, params: ctypes.Structure, device: torch.device) -> None:
    """Stands in for `kernels.cuda.launch.launch` on host tensors."""
    assert device.type == "cpu"
    defines = tuple(sorted(what.defines.items()))
    kernel = getattr(library(what.source, defines), f"emulate_{what.kernel}")
    assert kernel(ctypes.byref(params), what.blocks, what.threads, random.getrandbits(31)) == 0, "threads wait for ever"
