"""Where the recurrent states of the vehicles in cache live."""

import contextlib
import math
import mmap

import torch
from torch import Tensor

from kernels.config import MambaConfig
from kernels.reference import RecurrentState


class StatePool:
    """Recurrent states by slot, fp32, one contiguous record per slot and kind. The only place that knows their layout.

    The convolution's samples lie slice by slice, so that a vector load takes one sample of many channels; `read` and
    `write` speak the reference layout of `RecurrentState`.

    Attributes:
        conv: (n_slots, n_layer, d_conv - 1, conv_width), oldest sample first.
        ssm: (n_slots, n_layer, d_inner, d_state).

    Slot 0 is the dummy that absorbs padding; it belongs to no vehicle. Which vehicle sits where is not known here.
    """

    def __init__(self, config: MambaConfig, n_slots: int, device: torch.device) -> None:
        if n_slots < 2:
            raise ValueError(f"n_slots must be at least 2 (slot 0 is the dummy), got {n_slots}")
        self.config = config
        n_layer, width, history = config.conv_state_shape
        self.conv = _zeros((n_slots, n_layer, history, width), device)
        self.ssm = _zeros((n_slots, *config.ssm_state_shape), device)

    @property
    def n_slots(self) -> int:
        """Slots in all, the dummy included."""
        return self.conv.shape[0]

    def read(self, slots: Tensor) -> RecurrentState:
        """Copy of the states in `slots` (batch,) int64."""
        # index_select copies whole states; an index in brackets takes half as long again.
        conv = self.conv.index_select(0, slots).transpose(-1, -2).contiguous()
        return RecurrentState(conv, self.ssm.index_select(0, slots))

    def write(self, slots: Tensor, state: RecurrentState) -> None:
        """Overwrite the states in `slots` (batch,) int64, which must not repeat."""
        self.conv[slots] = state.conv.to(self.conv).transpose(-1, -2)
        self.ssm[slots] = state.ssm.to(self.ssm)

    def zero(self, slots: Tensor) -> None:
        """Put `slots` (batch,) int64 back to the state before the first sample."""
        self.conv[slots] = 0.0
        self.ssm[slots] = 0.0


def _zeros(shape: tuple[int, ...], device: torch.device) -> Tensor:
    """fp32 zeros; on the processor, where the system has them, in huge pages.

    A step touches every page of its vehicles once: in pages of 4 kB it waits for as many translations as for states.
    """
    n_bytes = 4 * math.prod(shape)
    if device.type != "cpu" or not n_bytes or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.zeros(shape, device=device)
    memory = mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without them: the memory is as good, only slower
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.float32).view(shape)
