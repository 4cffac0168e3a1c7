"""The network's tensors, named as in `mamba_ssm.Mamba`, independent of torch.nn."""

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from kernels.config import MambaConfig


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """One residual block: RMSNorm, then Mamba-1."""

    norm: Tensor  # (d_model,)
    in_proj: Tensor  # (2 * d_inner, d_model)
    conv1d: Tensor  # (d_inner, 1, d_conv)
    conv1d_bias: Tensor  # (d_inner,)
    x_proj: Tensor  # (dt_rank + 2 * d_state, d_inner)
    dt_proj: Tensor  # (d_inner, dt_rank)
    dt_proj_bias: Tensor  # (d_inner,)
    A_log: Tensor  # (d_inner, d_state); A = -exp(A_log)
    D: Tensor  # (d_inner,)
    out_proj: Tensor  # (d_model, d_inner)


@dataclass(frozen=True, slots=True)
class NetworkWeights:
    """Embedding, blocks, final norm and the two heads."""

    embedding: Tensor  # (d_model, d_input)
    embedding_bias: Tensor  # (d_model,)
    blocks: tuple[BlockWeights, ...]
    norm_f: Tensor  # (d_model,)
    risk_head: Tensor  # (1, d_model)
    risk_head_bias: Tensor  # (1,)
    forecast_head: Tensor  # (2 * n_channels, d_model): means, then log scales
    forecast_head_bias: Tensor  # (2 * n_channels,)

    def to(self, *, device: torch.device, dtype: torch.dtype) -> "NetworkWeights":
        """A detached copy on another device and in another dtype."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device=device, dtype=dtype, copy=True)

        blocks = tuple(
            BlockWeights(**{field.name: move(getattr(block, field.name)) for field in fields(BlockWeights)})
            for block in self.blocks
        )
        rest = {f.name: move(getattr(self, f.name)) for f in fields(NetworkWeights) if f.name != "blocks"}
        return NetworkWeights(blocks=blocks, **rest)


def random_weights(config: MambaConfig) -> NetworkWeights:
    """Untrained weights of a plausible size in float64, for checks and benchmarks.

    Activations stay near one, step sizes in Mamba's range. Drawn from torch's global generator.
    """

    def matrix(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64) / math.sqrt(shape[-1])

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
