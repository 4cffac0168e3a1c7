"""The product's own model as a scorer: whole traces from their first sample, as the service would stream them."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from kernels import BackendUnavailableError, RecurrentState, choose_backend, training_forward
from model.checkpoint import Checkpoint
from model.dataset import Trace, preprocess_traces

logger = logging.getLogger(__name__)

Singles = NDArray[np.float32]

CPU_SAMPLES = 4_096  # of each van at a time: outputs of a whole fortnight would take gigabytes
CUDA_SAMPLES = 34_560


class MambaScorer:
    """A checkpoint's risk logits.

    On the CPU through the backend that the service uses there (C++ where it was built, else the torch reference), on
    CUDA through the scan of training.
    """

    name = "mamba"

    def __init__(self, checkpoint: Checkpoint, device: torch.device | None = None) -> None:
        self._checkpoint = checkpoint
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._preprocessor = checkpoint.preprocessor()
        weights = checkpoint.network.weights()
        if self.device.type == "cuda":
            self._weights = weights.to(device=self.device, dtype=torch.float32)
            self._forward = training_forward(self.device, torch.float32, checkpoint.config.block)
            return
        try:
            self._backend = choose_backend("cpu", checkpoint.config, weights)
        except BackendUnavailableError as error:
            logger.warning("scores are computed by the torch reference, which is slower: %s", error)
            self._backend = choose_backend("reference", checkpoint.config, weights)

    @property
    def fingerprint(self) -> str:
        """The checkpoint's, of its risk."""
        return self._checkpoint.risk_fingerprint()

    @torch.inference_mode()
    def score(self, traces: Sequence[Trace]) -> list[Singles]:
        """See `Scorer.score`."""
        features = preprocess_traces(self._preprocessor, traces)
        inputs, ratio = torch.from_numpy(features.inputs), torch.from_numpy(features.ratio)
        logits = self._on_cuda(inputs, ratio) if self.device.type == "cuda" else self._on_cpu(inputs, ratio)
        return [logits[i, :length].copy() for i, length in enumerate(features.lengths)]

    def _on_cpu(self, inputs: torch.Tensor, ratio: torch.Tensor) -> Singles:
        state: RecurrentState | None = None
        parts = []
        for start in range(0, ratio.shape[1], CPU_SAMPLES):
            some = slice(start, start + CPU_SAMPLES)
            output, state = self._backend.scan(inputs[:, some].contiguous(), ratio[:, some].contiguous(), state)
            parts.append(output.risk_logit.numpy().copy())
        joined: Singles = np.concatenate(parts, axis=1)
        return joined

    def _on_cuda(self, inputs: torch.Tensor, ratio: torch.Tensor) -> Singles:
        state: RecurrentState | None = None
        parts = []
        for start in range(0, ratio.shape[1], CUDA_SAMPLES):
            some = slice(start, start + CUDA_SAMPLES)
            output, state = self._forward(
                self._checkpoint.config,
                self._weights,
                inputs[:, some].to(self.device),
                ratio[:, some].to(self.device),
                state,
            )
            parts.append(output.risk_logit.cpu().numpy())
        joined: Singles = np.concatenate(parts, axis=1)
        return joined
