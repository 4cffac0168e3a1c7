"""Training and scoring of networks that carry a state, whatever they are trained for.

The product's schedule and averaging; the gradient is cut at the end of a segment while the state is carried on (Williams &
Peng 1990). The averaged weights with the best validation figure are kept. One CUDA device or the CPU. What this module does
not know: where batches come from, what the loss is, what the figure means.
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from kernels import NetworkOutput
from model.baselines.protocol import BaselineError, Singles
from model.training.config import TrainingConfig
from model.training.loop import learning_rate, parameter_groups
from model.training.sampler import Batch

logger = logging.getLogger(__name__)

State = tuple[Tensor, ...]
Loss = Callable[[NetworkOutput, Batch, bool], Tensor]  # of a batch; True while pretraining
PRECISIONS = ("fp32", "tf32", "bf16")
LOG_EVERY = 25


class StatefulNetwork(Protocol):
    """A network whose state is carried from segment to segment."""

    def initial_state(self, lanes: int, device: torch.device) -> State:
        """Zeros with the lanes first."""

    def __call__(self, inputs: Tensor, ratio: Tensor, state: State) -> tuple[NetworkOutput, State]:
        """Outputs of (lanes, length, d_input) and the next state."""


def default_training() -> TrainingConfig:
    """The product's, in shorter segments of more vans: these networks cannot be trained across two days at once."""
    return TrainingConfig(length=2_880, batch=128, finetune_steps=1_500, learning_rate=1e-3, validate_every=250)


@dataclass(frozen=True, slots=True)
class NeuralConfig:
    """One training run.

    Raises:
        BaselineError: an unknown precision.
    """

    training: TrainingConfig = field(default_factory=default_training)
    validate_vans: int = 60
    # tf32 leaves the LSTM's cell state in fp32: increments over hours would vanish in a half-precision sum.
    precision: str = "tf32"  # on CUDA: fp32, tf32 (matmuls only) or bf16 (autocast); the CPU always computes in fp32
    compile: bool = False  # torch.compile; needs a working compiler

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise BaselineError(f"precision must be one of {', '.join(PRECISIONS)}, got {self.precision!r}")


def carried(state: State, fresh: Tensor) -> State:
    """The state without its history of gradients, zero in the lanes that start anew."""
    kept = []
    for part in state:
        keep = ~fresh.view(-1, *(1,) * (part.dim() - 1))
        kept.append(torch.where(keep, part.detach(), torch.zeros((), dtype=part.dtype, device=part.device)))
    return tuple(kept)


class Draws(Protocol):
    """Where batches come from."""

    def draw(self) -> Batch:
        """The next window of every lane."""


@dataclass(frozen=True, slots=True)
class Figure:
    """What is measured on validation data: of the network as it stands, the higher the better."""

    name: str
    measure: Callable[[nn.Module], float]


def autocast(config: NeuralConfig, device: torch.device) -> torch.autocast:
    """bf16 matmuls on CUDA when asked for."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" and config.precision == "bf16")


def train_stateful(
    network: nn.Module, sampler: Draws, loss_of: Loss, figure: Figure | None, config: NeuralConfig, device: torch.device
) -> list[dict[str, float]]:
    """Train in place and leave the averaged weights: the best by `figure`, or the last without one.

    Returns:
        What was measured: step, loss, samples per second, the figure.

    Raises:
        FloatingPointError: the gradient is no longer finite.
    """
    training = config.training
    if device.type == "cuda":
        torch.set_float32_matmul_precision("highest" if config.precision == "fp32" else "high")
        torch.backends.cudnn.allow_tf32 = config.precision != "fp32"
    network.to(device).train()
    forward = cast(StatefulNetwork, torch.compile(network) if config.compile else network)
    optimiser = torch.optim.AdamW(parameter_groups(network, training), lr=1.0, betas=(0.9, 0.98))
    state = cast(StatefulNetwork, network).initial_state(training.batch, device)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    best, best_weights = -math.inf, average
    history: list[dict[str, float]] = []
    started, seen = time.monotonic(), 0
    for step in range(training.total_steps):
        batch = sampler.draw()
        with autocast(config, device):
            output, state = forward(batch.inputs, batch.ratio, carried(state, batch.fresh))
        loss = loss_of(output, batch, step < training.pretrain_steps)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), training.clip)
        for group in optimiser.param_groups:
            group["lr"] = learning_rate(training, step)
        optimiser.step()
        update_average(average, network, training, step)
        seen += batch.ratio.numel()
        last = step == training.total_steps - 1
        if step % LOG_EVERY == 0 or last:
            if not torch.isfinite(norm):
                raise FloatingPointError(f"gradient norm is {norm.item()} in step {step}: lower the learning rate")
            rate = seen / (time.monotonic() - started)
            history.append({"step": step, "loss": loss.item(), "samples_per_second": round(rate)})
            logger.info("step %d/%d loss %.4f %.0f samples/s", step, training.total_steps, loss.item(), rate)
        finetuning = step >= training.pretrain_steps
        if figure is not None and (last or (finetuning and (step + 1) % training.validate_every == 0)):
            paused = time.monotonic()
            value = of_average(network, average, figure)
            history.append({"step": step, figure.name: value})
            logger.info("step %d %s %.4f", step, figure.name, value)
            if value > best:
                best, best_weights = value, {name: weight.clone() for name, weight in average.items()}
            started += time.monotonic() - paused
    network.load_state_dict(average if figure is None else best_weights)
    return history


@torch.no_grad()
def update_average(average: dict[str, Tensor], network: nn.Module, training: TrainingConfig, step: int) -> None:
    """Exponential moving average of the weights, in place, with a shorter memory at the start of each stage."""
    into_stage = step - (training.pretrain_steps if step >= training.pretrain_steps else 0)
    decay = min(training.average_decay, (1.0 + into_stage) / (10.0 + into_stage))
    for name, value in network.state_dict().items():
        average[name].lerp_(value, 1.0 - decay)


def of_average(network: nn.Module, weights: dict[str, Tensor], figure: Figure) -> float:
    """The figure with other weights; the network is left as it was."""
    own = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(weights)
    value = figure.measure(network)
    network.load_state_dict(own)
    network.train()
    return value


def risk_logit(output: NetworkOutput) -> Tensor:
    """What `stream` reads unless told otherwise."""
    return output.risk_logit


@torch.inference_mode()
def stream(
    network: nn.Module,
    inputs: Singles,
    ratio: Singles,
    device: torch.device,
    config: NeuralConfig,
    read: Callable[[NetworkOutput], Tensor] = risk_logit,
) -> Singles:
    """One output (n, length) of whole sequences from their first sample, segment by segment with the state carried."""
    network.to(device).eval()
    forward = cast(StatefulNetwork, network)
    state = forward.initial_state(len(inputs), device)
    out = np.empty(ratio.shape, np.float32)
    for a in range(0, ratio.shape[1], config.training.length):
        piece = slice(a, a + config.training.length)
        x, r = (torch.from_numpy(np.ascontiguousarray(array[:, piece])).to(device) for array in (inputs, ratio))
        with autocast(config, device):
            output, state = forward(x, r, state)
        out[:, piece] = read(output).cpu().numpy()
    return out
