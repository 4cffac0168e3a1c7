"""Compiled code on disk: kept where it can be, forgotten when it is stale, done without where nothing can be kept."""

import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import caching

from model.jit import entry_point, entry_point_for
from tests.conftest import REPOSITORY

ENTRY = """
from model.jit import entry_point
from part import part

@entry_point
def whole(x):
    return part(x) + 1.0

print(whole(1.0), len(whole.stats.cache_hits))
"""
PART = """
from model.jit import compiled

@compiled
def part(x):
    return x * {factor}
"""


def double(x: float) -> float:
    """What is compiled here."""
    return 2.0 * x


def run(folder: Path, cache: Path) -> str:
    """Run `entry.py` of a folder in a process of its own."""
    environment = os.environ | {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{folder}", "NUMBA_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, str(folder / "entry.py")], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_machine_code_is_kept_and_forgotten_when_a_part_changes(tmp_path: Path) -> None:
    """The second process loads what the first compiled; after a change of another file it compiles again."""
    source, cache = tmp_path / "source", tmp_path / "cache"
    source.mkdir()
    (source / "entry.py").write_text(ENTRY)
    (source / "part.py").write_text(PART.format(factor=3.0))
    assert run(source, cache) == "4.0 0"
    assert list(cache.rglob("*.nbi"))
    assert run(source, cache) == "4.0 1"
    (source / "part.py").write_text(PART.format(factor=5.0))
    assert run(source, cache) == "6.0 0"


def test_without_a_folder_to_write_to_the_code_still_runs(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Nothing is kept, and the log says so."""
    monkeypatch.setattr(caching.CacheImpl, "_locator_classes", [])
    assert entry_point(double)(4.0) == 8.0
    assert "every start compiles again" in caplog.text


def test_a_signature_given_is_the_only_one() -> None:
    """Other arguments raise instead of compiling for seconds in the middle of something."""
    only = entry_point_for(double, numba.float64)
    assert only(4) == 8.0  # converted
    with pytest.raises(TypeError):
        only(np.zeros(2))  # type: ignore[arg-type]
