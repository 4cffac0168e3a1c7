"""The network's tensors, named as in `mamba_ssm.Mamba` and `mamba_ssm.Mamba2`, independent of torch.nn."""

import math
from dataclasses import dataclass, fields, replace
from typing import TypeAlias

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
class Mamba2Weights:
    """One residual block: RMSNorm, then Mamba-2."""

    norm: Tensor  # (d_model,)
    in_proj: Tensor  # (d_inner + conv_width + n_heads, d_model): z, then x, B, C, then dt
    conv1d: Tensor  # (conv_width, 1, d_conv)
    conv1d_bias: Tensor  # (conv_width,)
    dt_bias: Tensor  # (n_heads,)
    A_log: Tensor  # (n_heads,); A = -exp(A_log)
    D: Tensor  # (n_heads,)
    gated_norm: Tensor  # (d_inner,); `norm.weight` of the block in mamba_ssm
    out_proj: Tensor  # (d_model, d_inner)


Block: TypeAlias = BlockWeights | Mamba2Weights


@dataclass(frozen=True, slots=True)
class NetworkWeights:
    """Embedding, blocks, final norm and the two heads."""

    embedding: Tensor  # (d_model, d_input)
    embedding_bias: Tensor  # (d_model,)
    blocks: tuple[Block, ...]  # of one kind
    norm_f: Tensor  # (d_model,)
    risk_head: Tensor  # (1, d_model)
    risk_head_bias: Tensor  # (1,)
    forecast_head: Tensor  # (2 * n_channels, d_model): means, then log scales
    forecast_head_bias: Tensor  # (2 * n_channels,)

    def mamba1_blocks(self) -> tuple[BlockWeights, ...]:
        """The blocks, for kernels that were written for Mamba-1.

        Raises:
            ValueError: they are of another kind.
        """
        blocks = tuple(block for block in self.blocks if isinstance(block, BlockWeights))
        if len(blocks) < len(self.blocks):
            raise ValueError("these kernels compute Mamba-1 blocks, the network's are Mamba-2")
        return blocks

    def mamba2_blocks(self) -> tuple[Mamba2Weights, ...]:
        """The blocks, for kernels that were written for Mamba-2.

        Raises:
            ValueError: they are of another kind.
        """
        blocks = tuple(block for block in self.blocks if isinstance(block, Mamba2Weights))
        if len(blocks) < len(self.blocks):
            raise ValueError("these kernels compute Mamba-2 blocks, the network's are Mamba-1")
        return blocks

    def to(self, *, device: torch.device, dtype: torch.dtype) -> "NetworkWeights":
        """A detached copy on another device and in another dtype."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.detach().to(device=device, dtype=dtype, copy=True)

        def move_block(block: Block) -> Block:
            return type(block)(**{field.name: move(getattr(block, field.name)) for field in fields(block)})

        rest = {f.name: move(getattr(self, f.name)) for f in fields(NetworkWeights) if f.name != "blocks"}
        return NetworkWeights(blocks=tuple(map(move_block, self.blocks)), **rest)

    def with_norms_folded(self) -> "NetworkWeights":
        """The same function: each norm's weight multiplied into the projection behind it, and 1 in its place.

        Raises:
            ValueError: the blocks are not Mamba-1's.
        """
        blocks = tuple(
            replace(block, in_proj=block.in_proj * block.norm, norm=torch.ones_like(block.norm))
            for block in self.mamba1_blocks()
        )
        return replace(
            self,
            blocks=blocks,
            norm_f=torch.ones_like(self.norm_f),
            risk_head=self.risk_head * self.norm_f,
            forecast_head=self.forecast_head * self.norm_f,
        )

    def with_bf16_projections(self) -> "NetworkWeights":
        """Norms folded, then embedding, in_proj, x_proj, out_proj and heads as bf16 holds them, in the dtype they had.

        Raises:
            ValueError: the blocks are not Mamba-1's.
        """

        def rounded(tensor: Tensor) -> Tensor:
            return tensor.to(torch.bfloat16).to(tensor.dtype)

        folded = self.with_norms_folded()
        blocks = tuple(
            replace(
                block, in_proj=rounded(block.in_proj), x_proj=rounded(block.x_proj), out_proj=rounded(block.out_proj)
            )
            for block in folded.mamba1_blocks()
        )
        return replace(
            folded,
            blocks=blocks,
            embedding=rounded(self.embedding),
            risk_head=rounded(folded.risk_head),
            forecast_head=rounded(folded.forecast_head),
        )


def random_weights(config: MambaConfig) -> NetworkWeights:
    """Untrained weights of a plausible size in float64, for checks and benchmarks.

    Activations stay near one, step sizes in Mamba's range. Drawn from torch's global generator.
    """
    block = _random_mamba2 if config.block == "mamba2" else _random_mamba1
    return NetworkWeights(
        embedding=_matrix(config.d_model, config.d_input),
        embedding_bias=torch.randn(config.d_model, dtype=torch.float64),
        blocks=tuple(block(config) for _ in range(config.n_layer)),
        norm_f=torch.ones(config.d_model, dtype=torch.float64),
        risk_head=_matrix(1, config.d_model),
        risk_head_bias=torch.zeros(1, dtype=torch.float64),
        forecast_head=_matrix(2 * config.n_channels, config.d_model),
        forecast_head_bias=torch.zeros(2 * config.n_channels, dtype=torch.float64),
    )


def _matrix(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64) / math.sqrt(shape[-1])


def _near(center: float, spread: float, width: int) -> Tensor:
    return center + spread * torch.randn(width, dtype=torch.float64)


def _random_mamba1(config: MambaConfig) -> BlockWeights:
    d = config.d_inner
    return BlockWeights(
        norm=_near(1.0, 0.1, config.d_model),
        in_proj=_matrix(2 * d, config.d_model),
        conv1d=_matrix(d, 1, config.d_conv),
        conv1d_bias=_near(0.0, 0.1, d),
        x_proj=_matrix(config.dt_rank + 2 * config.d_state, d),
        dt_proj=_matrix(d, config.dt_rank),
        dt_proj_bias=_near(-4.0, 1.0, d),
        A_log=torch.log(1 + 8 * torch.rand(d, config.d_state, dtype=torch.float64)),
        D=_near(0.0, 1.0, d),
        out_proj=_matrix(config.d_model, d),
    )


def _random_mamba2(config: MambaConfig) -> Mamba2Weights:
    d, width, heads = config.d_inner, config.conv_width, config.n_heads
    return Mamba2Weights(
        norm=_near(1.0, 0.1, config.d_model),
        in_proj=_matrix(d + width + heads, config.d_model),
        conv1d=_matrix(width, 1, config.d_conv),
        conv1d_bias=_near(0.0, 0.1, width),
        dt_bias=_near(-4.0, 1.0, heads),
        A_log=torch.log(1 + 8 * torch.rand(heads, dtype=torch.float64)),
        D=_near(0.0, 1.0, heads),
        gated_norm=_near(1.0, 0.1, d),
        out_proj=_matrix(config.d_model, d),
    )
