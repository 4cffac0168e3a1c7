"""Training data for networks that carry a state: many lanes side by side, each playing stretches of vans in segments.

Every other lane plays vans that have an event, and each optional channel is hidden from a stretch with some probability:
the product's own sampling rule. What a lane played last is carried on by its next segment unless `fresh` says otherwise.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from model.channels import ChannelSchema
from model.dataset import Sequences


@dataclass(frozen=True, slots=True)
class LaneConfig:
    """How stretches are drawn."""

    lanes: int = 128
    segment: int = 2_880  # samples between two updates; the gradient goes no further back
    stretch: int = 34_560  # samples from a zero state (48 h), as the product's sequences
    hide_probability: float = 0.3
    warmup_samples: int = 60  # of a stretch: no risk loss
    seed: int = 0


class Segment(NamedTuple):
    """One segment of every lane."""

    inputs: Tensor  # (lanes, segment, d_input) with hidden channels zero
    ratio: Tensor  # (lanes, segment)
    z: Tensor  # (lanes, segment, n_channels) nothing hidden: what the forecast is about
    present: Tensor  # (lanes, segment, n_channels) bool
    label: Tensor  # (lanes, segment) bool
    counted: Tensor  # (lanes, segment) bool: enters the risk loss
    fresh: Tensor  # (lanes,) bool: starts from a zero state

    def to(self, device: torch.device) -> "Segment":
        """Copied to a device."""
        return Segment(*(t.to(device, non_blocking=True) for t in self))


class Lanes:
    """Draws segments for ever; the same seed draws the same."""

    def __init__(self, data: Sequences, schema: ChannelSchema, config: LaneConfig) -> None:
        self._data, self._config = data, config
        self._rng = np.random.default_rng(config.seed)
        self._n_channels = len(schema.channels)
        self._optional = [i for i, channel in enumerate(schema.channels) if not channel.core]
        with_event = [i for i in range(len(data.lengths)) if (data.label[i] & data.valid[i]).any()]
        self._event_vans = np.array(with_event, np.int64)
        self._van = np.zeros(config.lanes, np.int64)
        self._start = np.zeros(config.lanes, np.int64)
        self._position = np.zeros(config.lanes, np.int64)
        self._stop = np.zeros(config.lanes, np.int64)  # position == stop: the stretch is over
        self._hidden = np.zeros((config.lanes, len(self._optional)), np.bool_)
        self._first = True

    def draw(self) -> Segment:
        """The next segment of every lane."""
        fresh = self._position >= self._stop
        for lane in np.flatnonzero(fresh).tolist():
            self._begin(lane)
        self._first = False
        length, n = self._config.segment, self._n_channels
        inputs = np.zeros((len(fresh), length, self._data.inputs.shape[2]), np.float32)
        ratio = np.ones((len(fresh), length), np.float32)
        label, counted = np.zeros((2, len(fresh), length), np.bool_)
        for lane, (van, a, stop) in enumerate(zip(self._van, self._position, self._stop, strict=True)):
            b = min(a + length, stop)
            inputs[lane, : b - a], ratio[lane, : b - a] = self._data.inputs[van, a:b], self._data.ratio[van, a:b]
            label[lane, : b - a], counted[lane, : b - a] = self._data.label[van, a:b], self._data.valid[van, a:b]
            young = max(0, self._start[lane] + self._config.warmup_samples - a)
            counted[lane, :young] = False
        self._position += length
        z, present = inputs[:, :, :n].copy(), inputs[:, :, n : 2 * n] > 0.5
        for i, channel in enumerate(self._optional):
            lanes = np.flatnonzero(self._hidden[:, i])
            inputs[lanes, :, channel] = inputs[lanes, :, n + channel] = 0.0
        return Segment(*(torch.from_numpy(a) for a in (inputs, ratio, z, present, label, counted, fresh)))

    def _begin(self, lane: int) -> None:
        """Draw the next stretch of one lane."""
        config = self._config
        eventful = lane % 2 == 0 and len(self._event_vans) > 0
        van = int(self._rng.choice(self._event_vans) if eventful else self._rng.integers(len(self._data.lengths)))
        length = int(self._data.lengths[van])
        start = int(self._rng.integers(max(0, length - config.stretch) + 1))
        stretch = config.stretch
        if self._first:  # lanes must not all start anew at the same time
            segments = -(-config.stretch // config.segment)
            stretch = config.segment * int(self._rng.integers(1, segments + 1))
        self._van[lane], self._start[lane], self._position[lane] = van, start, start
        self._stop[lane] = min(length, start + stretch)
        self._hidden[lane] = self._rng.random(len(self._optional)) < config.hide_probability


def prefetched(lanes: Lanes, steps: int, device: torch.device) -> Iterator[Segment]:
    """`steps` segments on the device; off the CPU they are drawn ahead by a thread, and its errors are raised here."""
    if device.type == "cpu":
        for _ in range(steps):
            yield lanes.draw()
        return

    def pinned() -> Segment:
        return Segment(*(t.pin_memory() for t in lanes.draw()))

    # One thread, so that segments are drawn in order.
    with ThreadPoolExecutor(1, thread_name_prefix="lanes") as pool:
        ahead = deque(pool.submit(pinned) for _ in range(min(2, steps)))
        for step in range(steps):
            segment = ahead.popleft().result()
            if step + 2 < steps:
                ahead.append(pool.submit(pinned))
            yield segment.to(device)
