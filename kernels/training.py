"""The network's forward pass for training, on whatever device: differentiable, over whole sequences."""

import logging
from functools import partial
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from kernels.config import BlockKind, MambaConfig
from kernels.cpu import missing_for_cpu
from kernels.cpu.training_scan import selective_scan_cpu
from kernels.reference import NetworkOutput, RecurrentState, heads, network_scan, residual_scan
from kernels.scan_forms import CHUNKED, ScanForms
from kernels.ssd import ssd_scan_chunked
from kernels.weights import NetworkWeights

logger = logging.getLogger(__name__)

CPU = ScanForms(selective_scan_cpu, ssd_scan_chunked)  # Mamba-2's matrix products are torch's own


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
    return network_scan(config, weights, features, ratio, state, scan=CHUNKED)


def forward_cpu(
    config: MambaConfig, weights: NetworkWeights, features: Tensor, ratio: Tensor, state: RecurrentState | None
) -> tuple[NetworkOutput, RecurrentState]:
    """In fp32 on the processor, by the scan in C++; raises ValueError when d_state of Mamba-1 is above 128."""
    return network_scan(config, weights, features, ratio, state, scan=CPU)


def forward_bf16(
    config: MambaConfig, weights: NetworkWeights, features: Tensor, ratio: Tensor, state: RecurrentState | None
) -> tuple[NetworkOutput, RecurrentState]:
    """By the chunked scan, the blocks' products in bf16; residual stream, recurrent state and heads are fp32."""
    with torch.autocast(features.device.type, torch.bfloat16):
        x, last = residual_scan(config, weights, features, ratio, state, CHUNKED)
    return heads(config, weights, x, features), last


def scan_forms_cpu() -> ScanForms:
    """The fastest forms on this processor, for inference too."""
    return CPU if missing_for_cpu() is None else CHUNKED


def training_forward(
    device: torch.device, dtype: torch.dtype = torch.bfloat16, block: BlockKind = "mamba1"
) -> TrainingForward:
    """The fastest form on this device, chosen aloud: our kernels, or the chunked scan where they cannot run.

    `dtype` is that of the blocks' products on CUDA; residual stream, recurrent state and heads are fp32 in any case.
    """
    if block == "mamba2":
        return _mamba2_forward(device, dtype)
    if device.type == "cpu":
        missing = missing_for_cpu()
        if missing is None:
            logger.info("the scan in C++ serves training on %d threads", torch.get_num_threads())
            return forward_cpu
        logger.warning("the chunked scan in torch serves training, which is far slower: %s", missing)
    if device.type != "cuda":
        return forward_chunked
    if find_spec("cuda") is None:
        logger.warning("cuda-bindings is not installed (extra gpu): the chunked scan serves, which is far slower")
        return forward_chunked
    from kernels.cuda.network import network_scan_cuda  # noqa: PLC0415  (needs the gpu extra)

    logger.info("the fused CUDA kernels scan whole sequences: products in %s, state in fp32", dtype)
    return partial(network_scan_cuda, dtype=dtype)


def _mamba2_forward(device: torch.device, dtype: torch.dtype) -> TrainingForward:
    if device.type != "cuda" or dtype is not torch.bfloat16:
        # mamba-ssm's products of fp32 operands are TF32, which is not what was asked for.
        logger.info("Mamba-2 blocks are trained by the chunked scan in torch")
        return forward_chunked
    from kernels.cuda.ssd import missing_for_ssd  # noqa: PLC0415  (as below)

    missing = "cuda-bindings is not installed (extra gpu)" if find_spec("cuda") is None else missing_for_ssd()
    if missing is not None:
        logger.warning("the chunked scan in torch trains Mamba-2 blocks, which is far slower: %s", missing)
        return forward_bf16
    from kernels.cuda.network import network_scan_cuda  # noqa: PLC0415  (needs the gpu extra)

    logger.info("mamba-ssm's kernels scan whole sequences of Mamba-2 blocks: products in %s, state in fp32", dtype)
    return partial(network_scan_cuda, dtype=dtype)
