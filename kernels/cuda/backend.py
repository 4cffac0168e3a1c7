"""Backend `cuda`: the step in one launch for any batch, and the scan from stored states."""

from importlib.util import find_spec

import torch
from torch import Tensor

from kernels.config import MambaConfig
from kernels.cuda.packed_scan import scan_packed_cuda
from kernels.cuda.selective_scan import D_STATES
from kernels.cuda.step import StepKernel
from kernels.cuda.step_plan import StepPlan, StepPlanError
from kernels.packed import last_outputs, scan_each, split_outputs
from kernels.pool import StatePool
from kernels.reference import NetworkOutput, RecurrentState, network_scan
from kernels.scan_forms import CHUNKED
from kernels.weights import NetworkWeights

NEEDED_CAPABILITY = (9, 0)  # clusters and their shared memory


def missing_for_cuda(config: MambaConfig) -> str | None:
    """What the kernels lack here or cannot hold, in words; None when they can run."""
    if config.block != "mamba1":
        return f"they compute Mamba-1 blocks, the network's are {config.block}"
    if not torch.cuda.is_available():
        return f"no CUDA device (torch {torch.__version__} sees none)"
    if torch.cuda.get_device_capability() < NEEDED_CAPABILITY:
        return f"the device's compute capability is {torch.cuda.get_device_capability()}, below {NEEDED_CAPABILITY}"
    try:
        found = find_spec("cuda.bindings.nvrtc")
    except ModuleNotFoundError:
        found = None
    if found is None:
        return "cuda-bindings is not installed: pip install 'emberwatch[gpu]'"
    try:
        StepPlan(config, 1).defines(0)
    except StepPlanError as error:
        return str(error)
    return None


class CudaBackend:
    """See `kernels.backend.Backend`. One stream at a time: the pool is updated in place."""

    def __init__(
        self, config: MambaConfig, weights: NetworkWeights, device: torch.device, *, bf16: bool = False
    ) -> None:
        """`bf16` rounds the projections' weights, for steps and scans alike; states and sums stay fp32.

        Raises:
            StepPlanError: the network does not fit the kernel.
        """
        if bf16:
            weights = weights.with_bf16_projections()
        self.name = "cuda-bf16" if bf16 else "cuda"
        self.device = device
        self._config = config
        self._weights = weights.to(device=device, dtype=torch.float32)
        self.kernel = StepKernel(config, weights, device, bf16=bf16)

    @torch.inference_mode()
    def step(self, pool: StatePool, slots: Tensor, features: Tensor, ratio: Tensor) -> NetworkOutput:
        """See `Backend.step`. Raises ValueError when a tensor has the wrong shape."""
        slots = slots.to(self.device, torch.int64).contiguous()
        out = torch.empty(len(slots), 2 * self._config.n_channels + 1, device=self.device)
        self.kernel.run(pool, slots, self._fp32(features), self._fp32(ratio), out)
        return split_outputs(self._config, out)

    @torch.inference_mode()
    def scan(
        self, features: Tensor, ratio: Tensor, state: RecurrentState | None
    ) -> tuple[NetworkOutput, RecurrentState]:
        """See `Backend.scan`."""
        if self._config.d_state not in D_STATES:
            return self._scan_chunked(features, ratio, state)
        batch, length = ratio.shape
        pool = StatePool(self._config, batch + 1, self.device)
        slots = torch.arange(1, batch + 1, device=self.device)
        if state is not None:
            pool.write(slots, state)
        lengths = torch.full((batch,), length)
        out = self.scan_packed(pool, slots, lengths, features.flatten(0, 1), ratio.flatten())
        shaped = NetworkOutput(
            risk_logit=out.risk_logit.view(batch, length),
            forecast_mean=out.forecast_mean.unflatten(0, (batch, length)),
            forecast_log_scale=out.forecast_log_scale.unflatten(0, (batch, length)),
        )
        return shaped, pool.read(slots)

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
        """See `Backend.scan_packed`. Raises ValueError when shapes do not fit."""
        rows = int(lengths.sum())
        if slots.dim() != 1 or lengths.shape != slots.shape or bool((lengths < 0).any()):
            raise ValueError("slots and lengths must be (vehicles,), lengths not negative")
        if features.shape != (rows, self._config.d_input) or ratio.shape != (rows,):
            raise ValueError(f"{rows} rows expected, got {tuple(features.shape)} and {tuple(ratio.shape)}")
        if self._config.d_state not in D_STATES:
            output = scan_each(self._config, self._scan_chunked, pool, slots, lengths, features, ratio)
            return last_outputs(self._config, output, lengths) if last_only else output
        return scan_packed_cuda(
            self._config, self._weights, pool, slots.to(self.device), lengths.cpu(), self._fp32(features),
            self._fp32(ratio), last_only=last_only,
        )  # fmt: skip

    def _scan_chunked(
        self, features: Tensor, ratio: Tensor, state: RecurrentState | None
    ) -> tuple[NetworkOutput, RecurrentState]:
        """In torch: the fused scan is compiled for some sizes of the state only."""
        features, ratio = self._fp32(features), self._fp32(ratio)
        return network_scan(self._config, self._weights, features, ratio, state, scan=CHUNKED)

    def _fp32(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to(self.device, torch.float32).contiguous()
