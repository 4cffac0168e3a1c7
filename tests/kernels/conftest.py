"""Small random networks in float64: fresh weights and inputs for every test run."""

import os
from collections.abc import Callable

import pytest
import torch

from kernels import BlockWeights, MambaConfig, NetworkWeights

MakeWeights = Callable[[MambaConfig], NetworkWeights]


@pytest.fixture(autouse=True)
def _fresh_seed(record_property: Callable[[str, object], None]) -> None:
    """Every run draws new inputs; the seed is recorded, and EMBERWATCH_TEST_SEED repeats one."""
    seed = int(os.environ.get("EMBERWATCH_TEST_SEED", torch.seed() % 2**31))
    record_property("seed", seed)
    print(f"EMBERWATCH_TEST_SEED={seed}")  # noqa: T201  (pytest shows it when the test fails)
    torch.manual_seed(seed)


def random_weights(config: MambaConfig) -> NetworkWeights:
    """Weights of a plausible size: activations stay near one, step sizes in Mamba's range."""

    def matrix(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.float64).mul(shape[-1] ** -0.5)

    def block() -> BlockWeights:
        d = config.d_inner
        return BlockWeights(
            norm=1 + 0.1 * torch.randn(config.d_model, dtype=torch.float64),
            in_proj=matrix(2 * d, config.d_model),
            conv1d=matrix(d, 1, config.d_conv),
            conv1d_bias=0.1 * torch.randn(d, dtype=torch.float64),
            x_proj=matrix(config.dt_rank + 2 * config.d_state, d),
            dt_proj=matrix(d, config.dt_rank),
            dt_proj_bias=-4 + torch.randn(d, dtype=torch.float64),
            A_log=torch.log(1 + 8 * torch.rand(d, config.d_state, dtype=torch.float64)),
            D=torch.randn(d, dtype=torch.float64),
            out_proj=matrix(config.d_model, d),
        )

    return NetworkWeights(
        embedding=matrix(config.d_model, config.d_input),
        embedding_bias=torch.randn(config.d_model, dtype=torch.float64),
        blocks=tuple(block() for _ in range(config.n_layer)),
        norm_f=torch.ones(config.d_model, dtype=torch.float64),
        risk_head=matrix(1, config.d_model),
        risk_head_bias=torch.zeros(1, dtype=torch.float64),
        forecast_head=matrix(2 * config.n_channels, config.d_model),
        forecast_head_bias=torch.zeros(2 * config.n_channels, dtype=torch.float64),
    )


@pytest.fixture
def make_weights() -> MakeWeights:
    """Draws a network's weights in float64."""
    return random_weights


SMALL = MambaConfig(d_input=7, n_channels=3, d_model=12, n_layer=2, d_state=5, d_conv=4, dt_rank=3)
FULL = MambaConfig(d_input=22, n_channels=9)


@pytest.fixture(params=[SMALL, FULL], ids=["small-odd", "full"])
def config(request: pytest.FixtureRequest) -> MambaConfig:
    """An odd small size and the product's size."""
    assert isinstance(request.param, MambaConfig)
    return request.param
