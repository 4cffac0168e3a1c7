"""What every test shares: GPU tests are skipped aloud where there is no GPU, and real data is found or missed aloud."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # idle threads of several processes would spin on the same cores

import torch

REPOSITORY = Path(__file__).parents[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip GPU tests without a device, and say how to run them."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device; run `make test-gpu` on a machine that has one")
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with real telemetry beside the repository, or EMBERWATCH_DATA."""
    folder = Path(os.environ.get("EMBERWATCH_DATA", REPOSITORY.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real telemetry at {folder}; set EMBERWATCH_DATA (see README, 'Real data')")
    return folder
