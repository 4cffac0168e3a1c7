"""The packed weights are the network's, to a stated rounding, and both copies hold the same numbers."""

import pytest
import torch

from kernels.cpu.pack import linear_parts


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("depth", [1, 7, 128])
def test_weights_are_rounded_by_their_outputs_largest(lanes: int, depth: int) -> None:
    """Outputs of any magnitude, one of zeros, one with an outlier: within 1.5 * 2^-23 of the largest weight of each."""
    weight = torch.randn(32, depth, dtype=torch.float64) * torch.exp(6.0 * torch.randn(32, 1, dtype=torch.float64))
    weight[3], weight[4, 0], weight[5] = 0.0, 1e3, -(2.0**-3)  # the last is where 24 bits end
    bias = torch.randn(32, dtype=torch.float64)
    wide, _, scaled_bias, scale = linear_parts(weight, bias, lanes)
    by_output = wide.view(-1, depth, lanes).transpose(1, 2).reshape(32, depth)
    error = (by_output.double() * scale[:, None] - weight).abs().amax(1)
    assert (error <= weight.abs().amax(1) * 1.5 * 2.0**-23).all()
    assert torch.equal(scaled_bias * scale, bias)
    assert torch.equal(torch.frexp(scale).mantissa, torch.full_like(scale, 0.5))  # powers of two round nothing


def test_narrow_weights_are_the_wide_ones() -> None:
    """Three words a lane hold four inputs: each word is one, their lowest bytes are the fourth."""
    depth, lanes = 6, 8
    weight, bias = torch.randn(16, depth, dtype=torch.float64), torch.zeros(16, dtype=torch.float64)
    wide, narrow, _, _ = linear_parts(weight, bias, lanes)
    words = narrow.view(torch.int32).view(2, 2, 3, lanes).to(torch.int64)
    low = words & 0xFF
    fourth = (low[:, :, 0] << 24) + (low[:, :, 1] << 16) + (low[:, :, 2] << 8)
    fourth = torch.where(fourth >= 2**31, fourth - 2**32, fourth)
    four = torch.cat((words, fourth.unsqueeze(2)), 2).view(2, 8, lanes)
    assert torch.equal(four[:, :depth].to(torch.float32), wide.view(2, depth, lanes))
    assert not four[:, depth + 1 :, :].any()  # the padding's fourth input
