"""Who computes the step, chosen aloud."""

import logging
from collections.abc import Callable
from functools import partial
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from kernels.config import BlockKind, MambaConfig
from kernels.cpu import CpuBackend, missing_for_cpu
from kernels.cuda.backend import CudaBackend, missing_for_cuda
from kernels.cuda.mamba2 import step_mamba2
from kernels.cuda.ssd import missing_for_ssd
from kernels.packed import last_outputs, scan_each
from kernels.pool import StatePool
from kernels.reference import NetworkOutput, RecurrentState, network_scan, network_step
from kernels.scan_forms import CHUNKED
from kernels.weights import NetworkWeights

logger = logging.getLogger(__name__)

BACKENDS = ("auto", "reference", "cpu", "cuda", "cuda-bf16")
ON_CUDA = ("cuda", "cuda-bf16")
MAMBA1_ONLY = ("cpu", "cuda-bf16")  # their kernels were written for it

# In place in a pool: its slots (batch,), features (batch, d_input) and ratio (batch,), all on its device.
StepInPool: TypeAlias = Callable[[StatePool, Tensor, Tensor, Tensor], NetworkOutput]


class BackendUnavailableError(RuntimeError):
    """The backend asked for cannot run here; the message says what is missing."""


class Backend(Protocol):
    """One step for any subset of slots, and a scan from any state."""

    name: str
    device: torch.device

    def step(self, pool: StatePool, slots: Tensor, features: Tensor, ratio: Tensor) -> NetworkOutput:
        """Advance `slots` (batch,) int64 by one sample each, in place in the pool; other slots stay bit-equal.

        Args:
            pool: states, on this backend's device.
            slots: distinct, except that slot 0 may repeat as padding.
            features: (batch, d_input) fp32.
            ratio: (batch,) fp32.
        """

    def scan(
        self, features: Tensor, ratio: Tensor, state: RecurrentState | None
    ) -> tuple[NetworkOutput, RecurrentState]:
        """Carry a batch over sequences (batch, length, d_input) of one length from `state` (None: zero)."""

    def scan_packed(
        self,
        pool: StatePool,
        slots: Tensor,
        lengths: Tensor,
        features: Tensor,
        ratio: Tensor,
        *,
        last_only: bool = False,
    ) -> NetworkOutput:
        """Carry each of `slots` over its own number of samples, in place in the pool.

        Args:
            pool: states, on this backend's device.
            slots: (vehicles,) int64, distinct.
            lengths: (vehicles,) int64 on the host, samples of each, zero allowed.
            features: (lengths.sum(), d_input) fp32, vehicle after vehicle, each in order of time.
            ratio: (lengths.sum(),) fp32.
            last_only: outputs after each vehicle's last sample only, NaN for one that has none.

        Returns:
            Outputs with leading dimension lengths.sum(), or (vehicles,) with `last_only`.
        """


class TorchBackend:
    """The reference maths in fp32 on any torch device; `step` takes the place of its step."""

    def __init__(
        self,
        name: str,
        config: MambaConfig,
        weights: NetworkWeights,
        device: torch.device,
        step: StepInPool | None = None,
    ) -> None:
        self.name = name
        self.device = device
        self._config = config
        self._weights = weights
        self._step = step or self._read_and_write

    @torch.inference_mode()
    def step(self, pool: StatePool, slots: Tensor, features: Tensor, ratio: Tensor) -> NetworkOutput:
        """See `Backend.step`."""
        return self._step(pool, slots.to(self.device), features.to(self.device), ratio.to(self.device))

    def _read_and_write(self, pool: StatePool, slots: Tensor, features: Tensor, ratio: Tensor) -> NetworkOutput:
        output, state = network_step(self._config, self._weights, features, ratio, pool.read(slots))
        pool.write(slots, state)
        return output

    @torch.inference_mode()
    def scan(
        self, features: Tensor, ratio: Tensor, state: RecurrentState | None
    ) -> tuple[NetworkOutput, RecurrentState]:
        """See `Backend.scan`."""
        return network_scan(
            self._config,
            self._weights,
            features.to(self.device),
            ratio.to(self.device),
            state,
            scan=CHUNKED,
        )

    @torch.inference_mode()
    def scan_packed(
        self,
        pool: StatePool,
        slots: Tensor,
        lengths: Tensor,
        features: Tensor,
        ratio: Tensor,
        *,
        last_only: bool = False,
    ) -> NetworkOutput:
        """See `Backend.scan_packed`."""
        output = scan_each(self._config, self.scan, pool, slots, lengths, features, ratio)
        return last_outputs(self._config, output, lengths) if last_only else output


def choose_device(name: str, block: BlockKind) -> tuple[str, torch.device]:
    """The backend's final name and device for a network of these blocks.

    Raises:
        BackendUnavailableError: it cannot run here.
        ValueError: no backend has that name.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    if name in MAMBA1_ONLY and block != "mamba1":
        raise BackendUnavailableError(
            f"backend {name!r} computes Mamba-1 blocks, this model's are {block}. Use --backend reference, which serves "
            "both, or auto."
        )
    if name in ON_CUDA and not torch.cuda.is_available():
        raise BackendUnavailableError(
            f"backend {name!r} needs a CUDA device and a CUDA build of torch; "
            f"torch {torch.__version__} sees none. Use --backend reference or auto."
        )
    if name == "cuda" and block == "mamba2" and (lacking := missing_for_ssd()) is not None:
        raise BackendUnavailableError(f"backend 'cuda': {lacking}. Use --backend reference or auto.")
    missing = missing_for_cpu()
    if name == "cpu" and missing is not None:
        raise BackendUnavailableError(f"backend 'cpu': {missing}. Use --backend reference or auto.")
    if name == "auto":
        name = _best_backend(missing, block)
        logger.info("backend auto chose %s (torch %s)", name, torch.__version__)
    return name, torch.device("cuda" if name in ON_CUDA else "cpu")


def _best_backend(missing: str | None, block: BlockKind) -> str:
    """What `auto` takes; `missing` is what the backend `cpu` lacks."""
    if block == "mamba2":
        lacking = missing_for_ssd()
        if lacking is None:
            return "cuda"
        logger.warning(
            "backend auto takes the torch reference: the step in C++ computes Mamba-1 blocks, not %s, and for cuda %s",
            block, lacking,
        )  # fmt: skip
        return "reference"
    if torch.cuda.is_available():
        return "cuda"
    if missing is None:
        return "cpu"
    logger.warning("backend auto cannot use cpu and falls back to the torch reference, which is slower: %s", missing)
    return "reference"


def choose_backend(name: str, config: MambaConfig, weights: NetworkWeights) -> Backend:
    """The backend called `name`, with its own fp32 copy of the weights on its device.

    `cpu` is the C++ kernel, `cuda` the CUDA kernels. Where the device, the network or a missing package does not let them
    run, `cuda` is the reference maths in plain torch on the device, with a warning that says why. `cuda-bf16` rounds the
    projections' weights to bf16, in steps and scans alike, and never runs in plain torch. Of Mamba-2
    blocks `cuda` is mamba-ssm's step and our chunked scan.

    Raises:
        BackendUnavailableError: it cannot run here.
        ValueError: no backend has that name.
    """
    name, device = choose_device(name, config.block)
    if name == "cpu":
        backend = CpuBackend(config, weights)
        logger.info("backend cpu runs %s on %d threads", backend.isa, backend.threads)
        return backend
    if name == "cuda" and config.block == "mamba2":
        own = weights.to(device=device, dtype=torch.float32)
        logger.info(
            "backend cuda steps Mamba-2 blocks by mamba-ssm's kernel and scans them by the chunked scan in torch"
        )
        return TorchBackend(name, config, own, device, partial(step_mamba2, config, own))
    if name in ON_CUDA:
        missing = missing_for_cuda(config)
        if missing is None:
            return CudaBackend(config, weights, device, bf16=name == "cuda-bf16")
        if name == "cuda-bf16":
            raise BackendUnavailableError(f"backend {name!r}: {missing}. Use --backend cuda, reference or auto.")
        logger.warning("backend cuda runs in plain torch, which is far slower: %s", missing)
    return TorchBackend(name, config, weights.to(device=device, dtype=torch.float32), device)
