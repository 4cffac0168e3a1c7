"""The network's forward pass for training, on whatever device: differentiable, over whole sequences."""

import logging
from typing import Protocol

import torch
from torch import Tensor

from kernels.config import MambaConfig
from kernels.reference import NetworkOutput, RecurrentState, network_scan
from kernels.scan import selective_scan_chunked, selective_scan_mamba_ssm
from kernels.weights import NetworkWeights

logger = logging.getLogger(__name__)


class TrainingForward(Protocol):
    """Outputs at every step, with gradients to the weights."""

    def __call__(
        self,
        config: MambaConfig,
        weights: NetworkWeights,
        features: Tensor,
        ratio: Tensor,
        state: RecurrentState | None,
    ) -> tuple[NetworkOutput, RecurrentState | None]:
        """Carry (batch, length, d_input) sequences on from `state` (None: zero).

        Returns:
            Outputs at every step, and the last state; None where this form cannot start from one.
        """


def forward_chunked(
    config: MambaConfig, weights: NetworkWeights, features: Tensor, ratio: Tensor, state: RecurrentState | None
) -> tuple[NetworkOutput, RecurrentState | None]:
    """In fp32 on any device, by our chunked scan."""
    return network_scan(config, weights, features, ratio, state, scan=selective_scan_chunked)


def forward_mamba_ssm(
    config: MambaConfig, weights: NetworkWeights, features: Tensor, ratio: Tensor, state: RecurrentState | None
) -> tuple[NetworkOutput, RecurrentState | None]:
    """With bf16 products and mamba-ssm's scan, which cannot carry a state: every sequence starts from zero."""
    del state
    with torch.autocast("cuda", torch.bfloat16):
        output, _ = network_scan(config, weights, features, ratio, None, scan=selective_scan_mamba_ssm)
    return (
        NetworkOutput(output.risk_logit.float(), output.forecast_mean.float(), output.forecast_log_scale.float()),
        None,
    )


def training_forward(device: torch.device) -> TrainingForward:
    """The fastest form on this device, chosen aloud: mamba-ssm's scan on CUDA when installed, else the chunked scan."""
    if device.type == "cuda":
        try:
            import mamba_ssm  # noqa: F401, PLC0415  (it needs CUDA merely to be imported)
        except ImportError:
            logger.warning("mamba-ssm is not installed: training falls back to the chunked scan, which is far slower")
            return forward_chunked
        logger.info("training with mamba-ssm's selective scan in bf16, state in fp32")
        return forward_mamba_ssm
    return forward_chunked
