"""Compiling the sources at run time: no device needed, only NVRTC."""

from pathlib import Path

import pytest

from kernels.cuda.compiler import CACHE_VARIABLE, KernelCompileError, compile_kernels

DEFINES = {"WIDTH": 4, "PACK": 4, "SEGMENT": 32, "ELEMENT_BF16": 1, "PARAMS_BYTES": 120}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skip aloud without NVRTC; else start from an empty cache."""
    pytest.importorskip("cuda.bindings.nvrtc", reason="needs cuda-bindings and nvidia-cuda-nvrtc")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))


def test_machine_code_is_kept_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second call reads the file that the first one wrote."""
    code = compile_kernels("causal_conv1d.cu", DEFINES, "sm_90")
    assert code.startswith(b"\x7fELF")
    (file,) = tmp_path.iterdir()
    monkeypatch.setattr("kernels.cuda.compiler.compile_text", lambda *_: pytest.fail("compiled again"))
    assert compile_kernels("causal_conv1d.cu", DEFINES, "sm_90") == code == file.read_bytes()


def test_other_definitions_are_another_kernel(tmp_path: Path) -> None:
    """Nothing compiled for other sizes is ever taken for this one."""
    compile_kernels("causal_conv1d.cu", DEFINES, "sm_90")
    compile_kernels("causal_conv1d.cu", DEFINES | {"WIDTH": 3}, "sm_90")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_refusal_carries_the_compilers_log() -> None:
    """A structure that differs from the caller's does not compile, and the message says why."""
    with pytest.raises(KernelCompileError, match="differs from the caller's"):
        compile_kernels("causal_conv1d.cu", DEFINES | {"PARAMS_BYTES": 8}, "sm_90")


def test_an_unwritable_cache_costs_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The kernel compiles all the same."""
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    assert compile_kernels("causal_conv1d.cu", DEFINES, "sm_90").startswith(b"\x7fELF")
    assert "not kept" in caplog.text
