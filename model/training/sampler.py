"""What the network is shown: lanes that each follow one van through its history, window after window."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.channels import ChannelSchema
from model.dataset import Sequences
from model.training.config import TrainingConfig


@dataclass(frozen=True, slots=True)
class Batch:
    """One window of each lane, on the device."""

    inputs: Tensor  # (batch, length, d_input), some channels hidden
    ratio: Tensor  # (batch, length)
    z: Tensor  # (batch, length, n_channels), nothing hidden
    present: Tensor  # (batch, length, n_channels), nothing hidden
    label: Tensor  # (batch, length) float
    counted: Tensor  # (batch, length): the risk loss counts here
    fresh: Tensor  # (batch,): the lane starts another van here, from the zero state


class Sampler:
    """Draws windows; a lane goes on where its last window ended, as the service does, until its van's trace ends.

    Which van a lane takes next is random; `event_share` of the draws take one that has an event. Its first window
    starts at the trace's beginning or, so that lanes part, at a random instant of it.
    """

    def __init__(
        self,
        schema: ChannelSchema,
        data: Sequences,
        config: TrainingConfig,
        device: torch.device,
        stream: int = 0,
        streams: int = 1,
    ) -> None:
        """Of `data`, every `streams`-th vehicle from number `stream` on goes to the device; the others are not read."""
        self._config = config
        self._device = device
        self._rng = np.random.default_rng((config.seed, stream))
        self._n_channels = len(schema.channels)
        self._core = np.array([channel.core for channel in schema.channels])
        self._dropout = np.where(self._core, config.core_dropout, config.channel_dropout)
        rows = range(stream, len(data), streams)
        if not rows:
            raise ValueError(f"{len(data)} training vehicles are too few for {streams} processes")
        self._inputs, self._ratio, self._label, self._valid = (
            on_device(array, rows, device) for array in (data.inputs, data.ratio, data.label, data.valid)
        )
        self._lengths = np.array(data.lengths[list(rows)])
        self.length = min(config.length, int(self._lengths.max()))  # of a window
        self._event_vans = np.flatnonzero((self._label & self._valid).any(dim=1).cpu().numpy())
        self._vans = np.zeros(config.batch, np.int64)
        self._next = np.full(config.batch, -1, np.int64)
        self._hidden = np.zeros((config.batch, self._n_channels), bool)

    def draw(self) -> Batch:
        """The next window of every lane."""
        fresh = np.zeros(len(self._vans), bool)
        for lane in range(len(self._vans)):
            if self._next[lane] < 0 or self._next[lane] + self.length > self._lengths[self._vans[lane]]:
                self._start(lane)
                fresh[lane] = True
        starts = self._next.copy()
        self._next += self.length
        inputs, ratio, label, valid = (
            torch.stack(
                [tensor[van, start : start + self.length] for van, start in zip(self._vans, starts, strict=True)]
            )
            for tensor in (self._inputs, self._ratio, self._label, self._valid)
        )
        n = self._n_channels
        z, present = inputs[..., :n].clone(), inputs[..., n : 2 * n].clone()
        seen = torch.from_numpy(~self._hidden).to(self._device, inputs.dtype).repeat(1, 2)
        inputs[..., : 2 * n] *= seen[:, None]
        counted = valid
        counted[torch.from_numpy(fresh).to(self._device), : self._config.warmup_samples] = False
        if not self._config.time_aware:
            ratio = torch.ones_like(ratio)
        return Batch(inputs, ratio, z, present, label.float(), counted, torch.from_numpy(fresh).to(self._device))

    def _start(self, lane: int) -> None:
        """Give the lane another van, from its first sample or from anywhere."""
        from_events = len(self._event_vans) > 0 and self._rng.random() < self._config.event_share
        van = int(self._rng.choice(self._event_vans) if from_events else self._rng.integers(len(self._lengths)))
        spare = max(int(self._lengths[van]) - self.length, 0)
        first_time = self._next[lane] < 0
        self._vans[lane] = van
        # The first windows of a run start anywhere, later ones at most one window in: lanes must not march in step.
        self._next[lane] = int(self._rng.integers((spare if first_time else min(spare, self.length)) + 1))
        if self._rng.random() < 0.5 and not first_time:
            self._next[lane] = 0
        self._hidden[lane] = self._hide()

    def _hide(self) -> NDArray[np.bool_]:
        """Which channels a lane does not see while it follows a van; at least one is left."""
        how, each = self._rng.random(), self._rng.random(self._n_channels)
        hidden = each < self._dropout
        if how < self._config.core_only_share:
            hidden |= ~self._core
        elif how < self._config.core_only_share + self._config.sparse_share:
            hidden = each < 0.5
        if hidden.all():
            hidden[np.argmax(each)] = False
        return hidden

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the next draws."""
        return {"rng": self._rng.bit_generator.state, "vans": self._vans, "next": self._next, "hidden": self._hidden}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on as the sampler that gave `state` would have."""
        self._rng.bit_generator.state = state["rng"]
        self._vans, self._next, self._hidden = state["vans"].copy(), state["next"].copy(), state["hidden"].copy()


def on_device(array: NDArray[np.generic], rows: Sequence[int], device: torch.device) -> Tensor:
    """These rows of a memory-mapped array, copied one by one: the host never holds more than one."""
    dtype = torch.from_numpy(np.empty(0, array.dtype)).dtype
    out = torch.empty((len(rows), *array.shape[1:]), dtype=dtype, device=device)
    for i, row in enumerate(rows):
        out[i] = torch.from_numpy(np.array(array[row]))
    return out
