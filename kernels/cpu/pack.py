"""The network's weights in the order and padding that the C++ kernels read, see `Network` in layout.hpp."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.config import MambaConfig
from kernels.weights import BlockWeights, NetworkWeights

PAD = 16  # kPad in layout.hpp: rows of floats are padded to this
LOG2_E = 1.4426950408889634
SMALLEST_WEIGHT = 2.0**-40  # of an output whose weights are all smaller, rounding is measured by this


def pack_weights(config: MambaConfig, weights: NetworkWeights, lanes: int) -> Tensor:
    """All weights in one run, fp32 (n_floats,).

    Folding and the decay are computed in float64, so that packing costs one rounding.

    Args:
        config: sizes.
        weights: of any dtype and device.
        lanes: floats per vector of the instruction set that will read them.
    """
    weights = weights.to(device=torch.device("cpu"), dtype=torch.float64).with_norms_folded()
    return torch.cat([part.to(torch.float32).flatten() for part in _parts(config, weights, lanes)])


def _parts(config: MambaConfig, weights: NetworkWeights, lanes: int) -> Iterator[Tensor]:
    yield from linear_parts(_pad(weights.embedding), _pad(weights.embedding_bias), lanes)
    for block in weights.mamba1_blocks():
        yield from _block(config, block, lanes)
    heads = torch.cat((weights.forecast_head, weights.risk_head))
    yield from linear_parts(_pad(heads), _pad(torch.cat((weights.forecast_head_bias, weights.risk_head_bias))), lanes)


def _block(config: MambaConfig, block: BlockWeights, lanes: int) -> Iterator[Tensor]:
    in_proj = torch.cat([_pad(part) for part in block.in_proj.chunk(2)])
    x_proj = torch.cat(
        [_pad(part) for part in torch.split(block.x_proj, [config.dt_rank, config.d_state, config.d_state])]
    )
    yield from linear_parts(in_proj, in_proj.new_zeros(len(in_proj)), lanes)
    yield _pad(block.conv1d.squeeze(1)).T
    yield _pad(block.conv1d_bias)
    yield from linear_parts(x_proj, x_proj.new_zeros(len(x_proj)), lanes)
    yield from linear_parts(_pad(block.dt_proj), _pad(block.dt_proj_bias), lanes)
    decay = -torch.exp(block.A_log) * LOG2_E
    yield _pad(decay.T).T
    yield _pad(-decay.amin(1))
    yield _pad(block.D)
    out_proj = _pad(block.out_proj)
    yield from linear_parts(out_proj, out_proj.new_zeros(len(out_proj)), lanes)


def _pad(tensor: Tensor) -> Tensor:
    """Zeros appended to the first dimension up to a multiple of PAD."""
    missing = -len(tensor) % PAD
    return F.pad(tensor, (0,) * (2 * tensor.dim() - 1) + (missing,))


def linear_parts(weight: Tensor, bias: Tensor, lanes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`Linear` in layout.hpp, its parts in their order.

    A weight becomes a whole number below 2^31 times a power of two that its output's weights share. Of the number the
    upper 24 bits are free, and it is rounded to fp32: together an error of at most 1.5 * 2^-23 (1.8e-7) of the output's
    largest weight. The lowest bytes of three weights hold the fourth, and are part of the value of the three.

    Args:
        weight: (outputs, inputs) float64, outputs a multiple of `lanes`.
        bias: (outputs,) float64.
        lanes: floats per vector.

    Returns:
        Weight (outputs / lanes, inputs, lanes) fp32; the same narrow, (outputs / lanes, inputs / 4 rounded up, 3,
        lanes), words in the guise of fp32; bias and scale (outputs,) float64.
    """
    outputs, inputs = weight.shape
    exponent = 30.0 - torch.floor(torch.log2(weight.abs().amax(1).clamp(min=SMALLEST_WEIGHT)))
    inverse = torch.exp2(exponent)
    padded = F.pad(weight * inverse[:, None], (0, -inputs % 4))
    words = padded.view(outputs // lanes, lanes, -1, 4).permute(0, 2, 3, 1)  # (tiles, groups, 4, lanes)
    fourth = _upper_bits(words[:, :, 3:])
    low = torch.cat([(fourth >> shift) & 0xFF for shift in (24, 16, 8)], 2)
    three = _upper_bits(words[:, :, :3] - low) + low
    wide = torch.cat((three, fourth), 2).flatten(1, 2)[:, :inputs].to(torch.float32)
    return wide, three.to(torch.int32).view(torch.float32), bias * inverse, 1.0 / inverse


def _upper_bits(words: Tensor) -> Tensor:
    """The nearest multiples of 256 that 32 bits hold, int64."""
    return (words / 256.0).round().clamp(-(2**23), 2**23 - 1).to(torch.int64) * 256
