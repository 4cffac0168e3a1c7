"""The network in plain torch, as one step and as a scan; with mamba1.py and mamba2.py the only copy of the maths in Python.

Works in the dtype of the weights (float64 for checks, float32 to serve). The recurrent state is never modified in
place; every function returns the new one. What it does not know: slots, vehicles, calibration.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import mamba1, mamba2
from kernels.config import MambaConfig
from kernels.layers import rms_norm
from kernels.scan_forms import SEQUENTIAL, ScanForms
from kernels.weights import Block, Mamba2Weights, NetworkWeights

# Of the forecast's log scale: 1/270 of a standard deviation is finer than most sensors' steps, and a finer scale
# would let the next surprise outweigh everything else in training; 20 is wider than any z-score.
LOG_SCALE_BOUNDS = (-5.6, 3.0)


@dataclass(frozen=True, slots=True)
class RecurrentState:
    """The whole past of a batch of vehicles."""

    conv: Tensor  # (batch, n_layer, conv_width, d_conv - 1)
    ssm: Tensor  # (batch, n_layer, d_inner, d_state)

    @staticmethod
    def zeros(config: MambaConfig, batch: int, *, like: Tensor) -> "RecurrentState":
        """The state before the first sample, in the dtype and on the device of `like`."""
        return RecurrentState(
            conv=like.new_zeros(batch, *config.conv_state_shape),
            ssm=like.new_zeros(batch, *config.ssm_state_shape),
        )


@dataclass(frozen=True, slots=True)
class NetworkOutput:
    """What the heads say; leading dimensions are (batch,) for a step and (batch, length) for a scan."""

    risk_logit: Tensor  # (...,), before calibration
    forecast_mean: Tensor  # (..., n_channels), z-scores of the next sample
    forecast_log_scale: Tensor  # (..., n_channels), log of the Laplace scale


def block_step(
    config: MambaConfig, block: Block, x: Tensor, ratio: Tensor, conv_state: Tensor, ssm_state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One block of either kind, one sample; see `mamba1.block_step` and `mamba2.block_step`."""
    if isinstance(block, Mamba2Weights):
        return mamba2.block_step(config, block, x, ratio, conv_state, ssm_state)
    return mamba1.block_step(config, block, x, ratio, conv_state, ssm_state)


def block_scan(
    config: MambaConfig,
    block: Block,
    x: Tensor,
    ratio: Tensor,
    conv_state: Tensor | None,
    ssm_state: Tensor | None,
    scan: ScanForms,
) -> tuple[Tensor, Tensor, Tensor]:
    """One block of either kind over a sequence; see `mamba1.block_scan` and `mamba2.block_scan`."""
    if isinstance(block, Mamba2Weights):
        return mamba2.block_scan(config, block, x, ratio, conv_state, ssm_state, scan.mamba2)
    return mamba1.block_scan(config, block, x, ratio, conv_state, ssm_state, scan.mamba1)


def heads(config: MambaConfig, weights: NetworkWeights, x: Tensor, features: Tensor) -> NetworkOutput:
    """Final norm and the two heads on x (..., d_model).

    The forecast head says by how much the next sample will differ from this one's held z-scores, the first n_channels
    of `features` (..., d_input): persistence is where it starts from.
    """
    x = rms_norm(x, weights.norm_f, config.norm_eps)
    mean, log_scale = F.linear(x, weights.forecast_head, weights.forecast_head_bias).chunk(2, dim=-1)
    return NetworkOutput(
        risk_logit=F.linear(x, weights.risk_head, weights.risk_head_bias).squeeze(-1),
        forecast_mean=features[..., : config.n_channels] + mean,
        forecast_log_scale=log_scale.clamp(*LOG_SCALE_BOUNDS),
    )


def network_step(
    config: MambaConfig, weights: NetworkWeights, features: Tensor, ratio: Tensor, state: RecurrentState
) -> tuple[NetworkOutput, RecurrentState]:
    """Advance every vehicle of a batch by one sample.

    Args:
        config: sizes.
        weights: all tensors of one dtype and device.
        features: (batch, d_input) preprocessed samples.
        ratio: (batch,) elapsed time over the nominal interval, positive.
        state: the batch's recurrent state; not modified.
    """
    x = F.linear(features, weights.embedding, weights.embedding_bias)
    conv, ssm = [], []
    for layer, block in enumerate(weights.blocks):
        y, conv_state, ssm_state = block_step(
            config,
            block,
            rms_norm(x, block.norm, config.norm_eps),
            ratio,
            state.conv[:, layer],
            state.ssm[:, layer],
        )
        x = x + y
        conv.append(conv_state)
        ssm.append(ssm_state)
    return heads(config, weights, x, features), RecurrentState(torch.stack(conv, dim=1), torch.stack(ssm, dim=1))


def network_scan(
    config: MambaConfig,
    weights: NetworkWeights,
    features: Tensor,
    ratio: Tensor,
    state: RecurrentState | None = None,
    scan: ScanForms = SEQUENTIAL,
) -> tuple[NetworkOutput, RecurrentState]:
    """Carry every vehicle of a batch over a whole sequence.

    Args:
        config: sizes.
        weights: all tensors of one dtype and device.
        features: (batch, length, d_input), length at least 1.
        ratio: (batch, length).
        state: the initial state, or None for zero; not modified.
        scan: by which form the blocks scan.

    Returns:
        Outputs at every step, and the last state: equal to `network_step` applied sample by sample.
    """
    x, last = residual_scan(config, weights, features, ratio, state, scan)
    return heads(config, weights, x, features), last


def residual_scan(
    config: MambaConfig,
    weights: NetworkWeights,
    features: Tensor,
    ratio: Tensor,
    state: RecurrentState | None,
    scan: ScanForms,
) -> tuple[Tensor, RecurrentState]:
    """`network_scan` up to the heads: the residual stream (batch, length, d_model) that they read, and the last state."""
    # Under autocast products are bf16; the residual stream stays in the dtype of the features.
    x = F.linear(features, weights.embedding, weights.embedding_bias).to(features.dtype)
    conv, ssm = [], []
    for layer, block in enumerate(weights.blocks):
        y, conv_state, ssm_state = block_scan(
            config,
            block,
            rms_norm(x, block.norm, config.norm_eps),
            ratio,
            None if state is None else state.conv[:, layer],
            None if state is None else state.ssm[:, layer],
            scan,
        )
        x = x + y.to(x.dtype)
        conv.append(conv_state)
        ssm.append(ssm_state)
    return x, RecurrentState(torch.stack(conv, dim=1), torch.stack(ssm, dim=1))
