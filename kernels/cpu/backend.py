"""Backend `cpu`: the whole network in one call into C++, all vehicles of a batch spread over the threads.

It updates the plain tensors of `StatePool` in place. What it does not know: which vehicle sits in which slot.
"""

import os

import torch
from torch import Tensor

from kernels.config import MambaConfig
from kernels.cpu.pack import pack_weights
from kernels.packed import split_outputs
from kernels.pool import StatePool
from kernels.reference import NetworkOutput, RecurrentState
from kernels.weights import NetworkWeights

try:
    from kernels.cpu._step import Sizes, Stepper, lanes
    from kernels.cpu._step import instruction_sets as compiled_instruction_sets
except ImportError as error:
    _why_not = str(error)
else:
    _why_not = ""

ISA_VARIABLE = "EMBERWATCH_CPU_ISA"  # forces an instruction set: avx512, avx2 or portable


def missing_for_cpu() -> str | None:
    """What the backend lacks here, in words; None when it can run."""
    if _why_not:
        return (
            f"the compiled module kernels.cpu._step is missing ({_why_not}): "
            "install from source where a C++17 compiler (g++ or clang++) is on the path"
        )
    return None


def instruction_sets() -> tuple[str, ...]:
    """Those that were compiled and that this processor runs, best first; empty without the extension."""
    return () if _why_not else tuple(compiled_instruction_sets())


class CpuBackend:
    """See `kernels.backend.Backend`. Uses as many threads as torch does when it is built (OMP_NUM_THREADS)."""

    name = "cpu"
    device = torch.device("cpu")

    def __init__(
        self, config: MambaConfig, weights: NetworkWeights, isa: str | None = None, threads: int | None = None
    ) -> None:
        """Packs the weights once.

        Args:
            config: sizes.
            weights: any dtype and device; copied.
            isa: instruction set; by default EMBERWATCH_CPU_ISA, else the best that this processor has.
            threads: by default torch's.

        Raises:
            ValueError: this processor cannot run `isa`.
        """
        self._config = config
        self.isa = isa or os.environ.get(ISA_VARIABLE) or compiled_instruction_sets()[0]
        self._packed = pack_weights(config, weights, lanes(self.isa))
        sizes = Sizes(
            d_input=config.d_input,
            n_channels=config.n_channels,
            d_model=config.d_model,
            n_layer=config.n_layer,
            d_state=config.d_state,
            d_conv=config.d_conv,
            d_inner=config.d_inner,
            dt_rank=config.dt_rank,
            max_hold_ratio=config.max_hold_ratio,
            norm_eps=config.norm_eps,
        )
        self._stepper = Stepper(
            sizes, self._packed.data_ptr(), self._packed.numel(), self.isa, threads or torch.get_num_threads()
        )

    @property
    def threads(self) -> int:
        """Threads of a step, the caller's included."""
        return self._stepper.threads

    def step(self, pool: StatePool, slots: Tensor, features: Tensor, ratio: Tensor) -> NetworkOutput:
        """See `Backend.step`.

        Raises:
            ValueError: a tensor has the wrong shape, or the pool is of another size or on another device.
            IndexError: a slot is not in the pool.
        """
        out = self._advance(pool, slots, None, features, ratio)
        return split_outputs(self._config, out)

    def scan(
        self, features: Tensor, ratio: Tensor, state: RecurrentState | None
    ) -> tuple[NetworkOutput, RecurrentState]:
        """See `Backend.scan`. Raises ValueError when a tensor has the wrong shape."""
        batch, length = ratio.shape
        pool, slots = StatePool(self._config, batch + 1, self.device), torch.arange(1, batch + 1)
        if state is not None:
            pool.write(slots, state)
        lengths = torch.full((batch,), length)
        out = self._advance(pool, slots, lengths, features.flatten(0, 1), ratio.flatten())
        return split_outputs(self._config, out.view(batch, length, -1)), pool.read(slots)

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
        """See `Backend.scan_packed`. Raises ValueError and IndexError as `step` does."""
        return split_outputs(self._config, self._advance(pool, slots, lengths, features, ratio, last_only=last_only))

    def _advance(
        self,
        pool: StatePool,
        slots: Tensor,
        lengths: Tensor | None,
        features: Tensor,
        ratio: Tensor,
        *,
        last_only: bool = False,
    ) -> Tensor:
        """The heads' outputs (rows, 2 * n_channels + 1), freshly allocated since the caller keeps them.

        With `last_only` (vehicles, 2 * n_channels + 1), NaN where there was no sample.
        """
        slots = _int64(slots)
        features, ratio = _fp32(features), _fp32(ratio)
        if lengths is not None:
            lengths = _int64(lengths)
        self._check(pool, slots, lengths, features, ratio)
        width = 2 * self._config.n_channels + 1
        out = torch.full((len(slots), width), torch.nan) if last_only else torch.empty(len(ratio), width)
        self._stepper.advance(
            pool.conv.data_ptr(),
            pool.ssm.data_ptr(),
            pool.n_slots,
            slots.data_ptr(),
            0 if lengths is None else lengths.data_ptr(),
            len(slots),
            features.data_ptr(),
            ratio.data_ptr(),
            out.data_ptr(),
            last_only,
        )
        return out

    def _check(self, pool: StatePool, slots: Tensor, lengths: Tensor | None, features: Tensor, ratio: Tensor) -> None:
        """C++ gets addresses only: whatever would make it read or write elsewhere is refused here."""
        if (pool.config is not self._config and pool.config != self._config) or not pool.ssm.is_cpu:
            raise ValueError(f"the pool holds states of {pool.config} on {pool.ssm.device}, not of {self._config} here")
        if slots.dim() != 1 or (lengths is not None and lengths.shape != slots.shape):
            raise ValueError("slots and lengths must be (vehicles,)")
        rows = len(slots) if lengths is None else int(lengths.sum())
        if features.shape != (rows, self._config.d_input) or ratio.shape != (rows,):
            raise ValueError(
                f"{rows} rows need features ({rows}, {self._config.d_input}) and ratio ({rows},), "
                f"got {tuple(features.shape)} and {tuple(ratio.shape)}"
            )


def _fp32(tensor: Tensor) -> Tensor:
    if tensor.dtype is torch.float32 and tensor.is_cpu and tensor.is_contiguous():
        return tensor
    return tensor.detach().to(device="cpu", dtype=torch.float32).contiguous()


def _int64(tensor: Tensor) -> Tensor:
    if tensor.dtype is torch.int64 and tensor.is_cpu and tensor.is_contiguous():
        return tensor
    return tensor.to(device="cpu", dtype=torch.int64).contiguous()
