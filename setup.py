"""Builds the CPU kernel where there is a compiler; everything else is in pyproject.toml."""

import platform
from pathlib import Path

from pybind11.setup_helpers import Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.extension import Extension

CPU = Path("kernels/cpu")
# Each of these is compiled for one instruction set; which one runs is decided on the machine that runs it.
FLAGS_BY_SOURCE = {
    "step_portable.cpp": [],
    "step_avx2.cpp": ["-mavx2", "-mfma"],
    "step_avx512.cpp": ["-mavx512f", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
}
COMPILE_ARGS = ["-O3", "-ffp-contract=fast", "-fno-math-errno", "-fvisibility=hidden", "-pthread"]
# gcc 12 takes the undefined upper operand of its own AVX-512 intrinsics for a mistake of ours.
COMPILE_ARGS += ["-Wno-maybe-uninitialized", "-Wno-uninitialized"]


class BuildPerInstructionSet(build_ext):
    """Compiles the per-instruction-set sources with their own flags, then the rest of the module."""

    def build_extension(self, ext: Extension) -> None:
        """Raises CompileError without a compiler; the extension is optional, so setuptools then only warns."""
        is_x86 = platform.machine().lower() in {"x86_64", "amd64"}
        for source, flags in FLAGS_BY_SOURCE.items():
            ext.extra_objects += self.compiler.compile(
                [str(CPU / source)],
                output_dir=self.build_temp,
                extra_postargs=["-std=c++17", *COMPILE_ARGS, *(flags if is_x86 else [])],
                depends=ext.depends,
            )
        super().build_extension(ext)


setup(
    ext_modules=[
        Pybind11Extension(
            "kernels.cpu._step",
            sources=[str(CPU / name) for name in ("layout.cpp", "module.cpp", "threads.cpp")],
            depends=[str(header) for header in sorted(CPU.glob("*.hpp"))],
            extra_compile_args=COMPILE_ARGS,
            extra_link_args=["-pthread"],
            cxx_std=17,
            optional=True,  # without a compiler the package installs all the same, and torch serves
        )
    ],
    cmdclass={"build_ext": BuildPerInstructionSet},
)
