"""The network's forward pass for training, on whatever device: differentiable, over whole sequences."""

import logging
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from kernels.config import MambaConfig
from kernels.reference import NetworkOutput, RecurrentState, network_scan
from kernels.scan import selective_scan_chunked
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
    ) -> tuple[NetworkOutput, RecurrentState]:
        """Carry (batch, length, d_input) sequences on from `state` (None: zero).

        Returns:
            Outputs at every step, and the last state.
        """


def forward_chunked(
    config: MambaConfig, weights: NetworkWeights, features: Tensor, ratio: Tensor, state: RecurrentState | None
) -> tuple[NetworkOutput, RecurrentState]:
    """In fp32 on any device, by our chunked scan."""
    return network_scan(config, weights, features, ratio, state, scan=selective_scan_chunked)


def forward_cuda(
    config: MambaConfig, weights: NetworkWeights, features: Tensor, ratio: Tensor, state: RecurrentState | None
) -> tuple[NetworkOutput, RecurrentState]:
    """On CUDA by our own kernels: bf16 products; residual stream, recurrent state and heads in fp32."""
    from kernels.cuda.network import network_scan_cuda  # noqa: PLC0415  (needs the gpu extra)

    return network_scan_cuda(config, weights, features, ratio, state)


def training_forward(device: torch.device) -> TrainingForward:
    """The fastest form on this device, chosen aloud: our CUDA kernels, or the chunked scan where they cannot run."""
    if device.type != "cuda":
        return forward_chunked
    if find_spec("cuda.core") is None:
        logger.warning("cuda-core is not installed: training falls back to the chunked scan, which is far slower")
        return forward_chunked
    logger.info("training with the fused CUDA kernels: bf16 products, fp32 state")
    return forward_cuda
