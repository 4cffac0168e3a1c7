"""The network's weights in the order and padding that the C++ kernels read, see `Network` in layout.hpp."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.config import MambaConfig
from kernels.weights import BlockWeights, NetworkWeights

PAD = 16  # kPad in layout.hpp: rows of floats are padded to this
LOG2_E = 1.4426950408889634


def pack_weights(config: MambaConfig, weights: NetworkWeights, lanes: int) -> Tensor:
    """All weights in one run, fp32 (n_floats,).

    Folding and the decay are computed in float64, so that packing costs one rounding.

    Args:
        config: sizes.
        weights: of any dtype and device.
        lanes: floats per vector of the instruction set that will read them.
    """
    weights = weights.to(device=torch.device("cpu"), dtype=torch.float64)
    parts = [part.flatten() for part in _parts(config, weights, lanes)]
    return torch.cat(parts).to(torch.float32)


def _parts(config: MambaConfig, weights: NetworkWeights, lanes: int) -> Iterator[Tensor]:
    yield from _linear(_pad(weights.embedding), _pad(weights.embedding_bias), lanes)
    for block in weights.mamba1_blocks():
        yield from _block(config, block, lanes)
    # The norm's weight scales the inputs of the projection that follows it, so it is folded into that one.
    heads = torch.cat((weights.forecast_head, weights.risk_head)) * weights.norm_f
    yield from _linear(_pad(heads), _pad(torch.cat((weights.forecast_head_bias, weights.risk_head_bias))), lanes)


def _block(config: MambaConfig, block: BlockWeights, lanes: int) -> Iterator[Tensor]:
    in_proj = torch.cat([_pad(part) for part in (block.in_proj * block.norm).chunk(2)])
    x_proj = torch.cat(
        [_pad(part) for part in torch.split(block.x_proj, [config.dt_rank, config.d_state, config.d_state])]
    )
    yield from _linear(in_proj, in_proj.new_zeros(len(in_proj)), lanes)
    yield _pad(block.conv1d.squeeze(1)).T
    yield _pad(block.conv1d_bias)
    yield from _linear(x_proj, x_proj.new_zeros(len(x_proj)), lanes)
    yield from _linear(_pad(block.dt_proj), _pad(block.dt_proj_bias), lanes)
    yield _pad((-torch.exp(block.A_log) * LOG2_E).T).T
    yield _pad(block.D)
    out_proj = _pad(block.out_proj)
    yield from _linear(out_proj, out_proj.new_zeros(len(out_proj)), lanes)


def _pad(tensor: Tensor) -> Tensor:
    """Zeros appended to the first dimension up to a multiple of PAD."""
    missing = -len(tensor) % PAD
    return F.pad(tensor, (0,) * (2 * tensor.dim() - 1) + (missing,))


def _linear(weight: Tensor, bias: Tensor, lanes: int) -> tuple[Tensor, Tensor]:
    """Weight (outputs, inputs) as (outputs / lanes, inputs, lanes), and the bias (outputs,)."""
    return weight.view(-1, lanes, weight.shape[1]).transpose(1, 2), bias
