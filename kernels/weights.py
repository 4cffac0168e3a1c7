"""The network's tensors, named as in `mamba_ssm.Mamba`, independent of torch.nn."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor


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
