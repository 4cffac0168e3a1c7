"""CUDA C++ to machine code with NVRTC, kept on disk.

Needs `cuda-bindings` and `nvidia-cuda-nvrtc`, no toolkit and no device. What it does not know: contexts and launches.
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

SOURCE_FOLDER = Path(__file__).parent / "source"
CACHE_VARIABLE = "EMBERWATCH_KERNEL_CACHE"


class KernelCompileError(RuntimeError):
    """NVRTC is missing or refused a source; the message holds its log."""


def cache_folder() -> Path:
    """Where machine code is kept: EMBERWATCH_KERNEL_CACHE, else the user's cache folder."""
    if folder := os.environ.get(CACHE_VARIABLE):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "emberwatch" / "kernels"


def compile_kernels(source: str, defines: Mapping[str, int], architecture: str) -> bytes:
    """Machine code (cubin) of one source file.

    Args:
        source: file name in `kernels/cuda/source`.
        defines: preprocessor definitions.
        architecture: such as `sm_90`.

    Raises:
        KernelCompileError: NVRTC is missing, or the source does not compile.
    """
    nvrtc = import_nvrtc()
    texts = {path.name: path.read_bytes() for path in sorted(SOURCE_FOLDER.iterdir()) if path.suffix in {".cu", ".cuh"}}
    version = check(nvrtc, nvrtc.nvrtcVersion())
    options = [f"--gpu-architecture={architecture}", "--std=c++17"]
    options += [f"-D{name}={value}" for name, value in sorted(defines.items())]
    key = hashlib.sha256(repr((source, texts, version, options)).encode()).hexdigest()[:32]
    path = cache_folder() / f"{Path(source).stem}-{architecture}-{key}.cubin"
    if path.is_file():
        return path.read_bytes()
    code = compile_text(nvrtc, source, texts, options)
    store(path, code)
    return code


def import_nvrtc() -> Any:
    """The bindings of NVRTC.

    Raises:
        KernelCompileError: they are not installed; says how.
    """
    try:
        from cuda.bindings import nvrtc  # noqa: PLC0415  (only machines with a GPU have it)
    except ImportError as error:
        raise KernelCompileError("install emberwatch[gpu]: cuda-bindings and nvidia-cuda-nvrtc are needed") from error
    return nvrtc


def check(nvrtc: Any, answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """What a call of NVRTC returned beside its status.

    Raises:
        KernelCompileError: the status is not success.
    """
    status, *rest = answer
    if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
        raise KernelCompileError(f"NVRTC: {status!r}")
    return tuple(rest)


def compile_text(nvrtc: Any, source: str, texts: Mapping[str, bytes], options: list[str]) -> bytes:
    """Compile one of `texts`; the others are its headers."""
    headers = [name for name in texts if name.endswith(".cuh")]
    (program,) = check(
        nvrtc,
        nvrtc.nvrtcCreateProgram(
            texts[source],
            source.encode(),
            len(headers),
            [texts[name] for name in headers],
            [name.encode() for name in headers],
        ),
    )
    try:
        (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            (size,) = check(nvrtc, nvrtc.nvrtcGetProgramLogSize(program))
            log = b" " * size
            check(nvrtc, nvrtc.nvrtcGetProgramLog(program, log))
            raise KernelCompileError(f"{source} {options}: {status!r}\n{log.decode(errors='replace')}")
        (size,) = check(nvrtc, nvrtc.nvrtcGetCUBINSize(program))
        code: bytes = b" " * size
        check(nvrtc, nvrtc.nvrtcGetCUBIN(program, code))  # fills the bytes in place
        return code
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def store(path: Path, code: bytes) -> None:
    """Write the file whole or not at all; a folder that cannot be written costs a warning, not the kernel."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(code)
        Path(file.name).replace(path)
    except OSError as error:
        logger.warning("compiled kernels are not kept in %s: %s", path.parent, error)
