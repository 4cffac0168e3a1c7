"""Small random networks in float64: fresh weights and inputs for every test run."""

import os
from collections.abc import Callable

import pytest
import torch

from kernels import MambaConfig, NetworkWeights
from kernels.weights import random_weights

MakeWeights = Callable[[MambaConfig], NetworkWeights]


@pytest.fixture(autouse=True)
def _fresh_seed(record_property: Callable[[str, object], None]) -> None:
    """Every run draws new inputs; the seed is recorded, and EMBERWATCH_TEST_SEED repeats one."""
    seed = int(os.environ.get("EMBERWATCH_TEST_SEED", torch.seed() % 2**31))
    record_property("seed", seed)
    print(f"EMBERWATCH_TEST_SEED={seed}")  # noqa: T201  (pytest shows it when the test fails)
    torch.manual_seed(seed)


@pytest.fixture
def make_weights() -> MakeWeights:
    """Draws a network's weights in float64."""
    return random_weights


SMALL = MambaConfig(d_input=7, n_channels=3, d_model=12, n_layer=2, d_state=5, d_conv=4, dt_rank=3)
FULL = MambaConfig(d_input=22, n_channels=9)
SMALL_2 = MambaConfig(
    d_input=7, n_channels=3, d_model=12, n_layer=2, d_state=5, d_conv=4, block="mamba2", head_dim=4, n_groups=2
)
FULL_2 = MambaConfig(d_input=22, n_channels=9, block="mamba2")


@pytest.fixture(params=[SMALL, FULL], ids=["small-odd", "full"])
def config(request: pytest.FixtureRequest) -> MambaConfig:
    """An odd small size and the product's size."""
    assert isinstance(request.param, MambaConfig)
    return request.param
