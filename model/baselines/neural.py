"""One training loop and one scorer for the neural baselines: the product's sampler, losses, schedule and averaging.

What differs from `model.training` is the network and that its gradient is cut at the end of a segment while the state is
carried on (Williams & Peng 1990). The averaged weights with the best validation AUROC are kept. One CUDA device or the
CPU.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kernels import NetworkOutput
from model.baselines.lstm import LstmConfig, LstmNetwork
from model.baselines.protocol import BaselineError, Singles
from model.baselines.transformer import TransformerConfig, TransformerNetwork
from model.channels import ChannelSchema
from model.checkpoint import load_checkpoint
from model.dataset import Sequences, Trace, TraceSource, build_sequences, preprocess_traces
from model.evaluation.exact import weighted_auroc
from model.normaliser import FleetPrior
from model.preprocess import Preprocessor
from model.training.config import TrainingConfig
from model.training.loop import learning_rate, parameter_groups, risk_loss
from model.training.losses import forecast_nats, masked_mean
from model.training.sampler import Batch, Sampler

logger = logging.getLogger(__name__)

State = tuple[Tensor, ...]
PRECISIONS = ("fp32", "tf32", "bf16")
SCORE_STRIDE = 12  # of the validation instants
LOG_EVERY = 25
NETWORKS: dict[str, tuple[Callable[..., Any], Callable[[Any], nn.Module]]] = {
    "lstm": (LstmConfig, LstmNetwork),
    "transformer": (TransformerConfig, TransformerNetwork),
}


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


def total_loss(output: NetworkOutput, batch: Batch, config: TrainingConfig, *, pretraining: bool) -> Tensor:
    """The product's loss of either stage."""
    forecast = masked_mean(forecast_nats(output, batch.z), batch.present[:, 1:])
    if pretraining:
        return forecast
    risk = masked_mean(risk_loss(config, output, batch.label), batch.counted)
    return config.risk_weight * risk + config.forecast_weight * forecast


def autocast(config: NeuralConfig, device: torch.device) -> torch.autocast:
    """bf16 matmuls on CUDA when asked for."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda" and config.precision == "bf16")


def train_network(
    network: nn.Module,
    schema: ChannelSchema,
    train: Sequences,
    validation: Sequences | None,
    config: NeuralConfig,
    device: torch.device,
) -> list[dict[str, float]]:
    """Train in place and leave the averaged weights: the best on validation, or the last without validation vans.

    Returns:
        What was measured: step, loss, samples per second, validation AUROC.

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
    sampler = Sampler(schema, train, training, device)
    state = cast(StatefulNetwork, network).initial_state(training.batch, device)
    average = {name: value.detach().clone() for name, value in network.state_dict().items()}
    best, best_weights = -math.inf, average
    history: list[dict[str, float]] = []
    started, seen = time.monotonic(), 0
    for step in range(training.total_steps):
        batch = sampler.draw()
        with autocast(config, device):
            output, state = forward(batch.inputs, batch.ratio, carried(state, batch.fresh))
        loss = total_loss(output, batch, training, pretraining=step < training.pretrain_steps)
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
        if validation is not None and (last or (finetuning and (step + 1) % training.validate_every == 0)):
            paused = time.monotonic()
            auroc = averaged_auroc(network, average, validation, config, device)
            history.append({"step": step, "validation_auroc": auroc})
            logger.info("step %d validation AUROC %.4f", step, auroc)
            if auroc > best:
                best, best_weights = auroc, {name: value.clone() for name, value in average.items()}
            started += time.monotonic() - paused
    network.load_state_dict(average if validation is None else best_weights)
    return history


@torch.no_grad()
def update_average(average: dict[str, Tensor], network: nn.Module, training: TrainingConfig, step: int) -> None:
    """Exponential moving average of the weights, in place, with a shorter memory at the start of each stage."""
    into_stage = step - (training.pretrain_steps if step >= training.pretrain_steps else 0)
    decay = min(training.average_decay, (1.0 + into_stage) / (10.0 + into_stage))
    for name, value in network.state_dict().items():
        average[name].lerp_(value, 1.0 - decay)


def averaged_auroc(
    network: nn.Module, weights: dict[str, Tensor], data: Sequences, config: NeuralConfig, device: torch.device
) -> float:
    """Validation AUROC with other weights; the network is left as it was."""
    own = {name: value.clone() for name, value in network.state_dict().items()}
    network.load_state_dict(weights)
    auroc = validation_auroc(network, data, config, device)
    network.load_state_dict(own)
    network.train()
    return auroc


def validation_auroc(network: nn.Module, data: Sequences, config: NeuralConfig, device: torch.device) -> float:
    """AUROC over the valid instants of (at most validate_vans of) the validation vans."""
    picked = np.unique(np.linspace(0, len(data.lengths) - 1, min(config.validate_vans, len(data.lengths))).astype(int))
    scores, labels = [], []
    for group in np.array_split(picked, -(-len(picked) // vans_at_once(device))):
        rows = data.take(group.tolist())
        logits = stream_logits(network, rows.inputs, rows.ratio, device, config)
        counted = rows.valid[:, ::SCORE_STRIDE]
        scores.append(logits[:, ::SCORE_STRIDE][counted])
        labels.append(rows.label[:, ::SCORE_STRIDE][counted])
    return weighted_auroc(np.concatenate(scores), np.concatenate(labels))


def vans_at_once(device: torch.device) -> int:
    """Vans scored side by side: their inputs are 21 MB each for 14 days."""
    return 64 if device.type == "cuda" else 16


@torch.inference_mode()
def stream_logits(
    network: nn.Module, inputs: Singles, ratio: Singles, device: torch.device, config: NeuralConfig
) -> Singles:
    """Risk logits (n, length) of whole sequences from their first sample, segment by segment with the state carried."""
    network.to(device).eval()
    forward = cast(StatefulNetwork, network)
    state = forward.initial_state(len(inputs), device)
    out = np.empty(ratio.shape, np.float32)
    for a in range(0, ratio.shape[1], config.training.length):
        piece = slice(a, a + config.training.length)
        x, r = (torch.from_numpy(np.ascontiguousarray(array[:, piece])).to(device) for array in (inputs, ratio))
        with autocast(config, device):
            output, state = forward(x, r, state)
        out[:, piece] = output.risk_logit.cpu().numpy()
    return out


class NeuralBaseline:
    """A network with the product's preprocessing."""

    def __init__(
        self,
        name: str,
        *,
        preprocessor: Preprocessor | None = None,
        config: NeuralConfig | None = None,
        device: torch.device | None = None,
        sizes: dict[str, Any] | None = None,
    ) -> None:
        """`preprocessor` is the shipped model's and `device` the first CUDA device or the CPU unless given.

        Raises:
            BaselineError: no network of this name.
        """
        if name not in NETWORKS:
            raise BaselineError(f"networks are {', '.join(NETWORKS)}, got {name!r}")
        self.name = name
        self.preprocessor = preprocessor or load_checkpoint().preprocessor()
        self.config = config or NeuralConfig(precision="bf16" if name == "transformer" else "tf32")
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        schema = self.preprocessor.schema
        make_config, make_network = NETWORKS[name]
        self.sizes = make_config(d_input=schema.d_input, n_channels=len(schema.channels), **(sizes or {}))
        torch.manual_seed(self.config.training.seed)
        self.network = make_network(self.sizes)
        self.history: list[dict[str, float]] = []

    def fit(self, train: TraceSource, validation: TraceSource, *, seed: int = 0, workers: int = 1) -> None:
        """Make and preprocess all vans of both fleets, then `fit_sequences`."""
        self.config = replace(self.config, training=replace(self.config.training, seed=seed))
        sequences = [
            build_sequences(source, self.preprocessor, range(len(source)), workers=workers, folder=None)
            for source in (train, validation)
        ]
        self.fit_sequences(*sequences)

    def fit_sequences(self, train: Sequences, validation: Sequences | None) -> None:
        """Train on prebuilt sequences; the weights are then rounded to half precision, as they are saved."""
        torch.manual_seed(self.config.training.seed)
        self.network = NETWORKS[self.name][1](self.sizes)
        schema = self.preprocessor.schema
        self.history = train_network(self.network, schema, train, validation, self.config, self.device)
        halves = {name: tensor.half().float() for name, tensor in self.network.state_dict().items()}
        self.network.load_state_dict(halves)

    def score(self, traces: Sequence[Trace]) -> list[Singles]:
        """One logit per sample of each trace, the state carried through the whole trace."""
        out: list[Singles] = []
        at_once = vans_at_once(self.device)
        for a in range(0, len(traces), at_once):
            out += self.score_sequences(preprocess_traces(self.preprocessor, traces[a : a + at_once]))
        return out

    def score_sequences(self, data: Sequences) -> list[Singles]:
        """Logits (length,) of each van of prebuilt sequences."""
        out: list[Singles] = []
        for group in np.array_split(np.arange(len(data.lengths)), -(-len(data.lengths) // vans_at_once(self.device))):
            rows = data.take(group.tolist())
            logits = stream_logits(self.network, rows.inputs, rows.ratio, self.device, self.config)
            out += [row[:n] for row, n in zip(logits, rows.lengths, strict=True)]
        return out

    def save(self, folder: Path) -> None:
        """Write `baseline.json` and `baseline.safetensors` (half precision)."""
        folder.mkdir(parents=True, exist_ok=True)
        weights = {k: v.detach().cpu().half().contiguous() for k, v in self.network.state_dict().items()}
        save_file(weights, folder / "baseline.safetensors")
        text = {
            "name": self.name,
            "sizes": asdict(self.sizes),
            "config": asdict(self.config),
            "schema": self.preprocessor.schema.to_json(),
            "normaliser": asdict(self.preprocessor.prior),
            "nominal_interval_s": self.preprocessor.nominal_interval_s,
            "history": self.history,
        }
        (folder / "baseline.json").write_text(json.dumps(text, indent=2) + "\n")

    @classmethod
    def load(cls, folder: Path, device: torch.device | None = None) -> "NeuralBaseline":
        """Inverse of `save`; the weights are fp32 again, rounded."""
        text = json.loads((folder / "baseline.json").read_text())
        preprocessor = Preprocessor(
            ChannelSchema.from_json(text["schema"]),
            FleetPrior.from_json(text["normaliser"]),
            text["nominal_interval_s"],
        )
        config = NeuralConfig(**{**text["config"], "training": TrainingConfig(**text["config"]["training"])})
        sizes = {k: v for k, v in text["sizes"].items() if k not in {"d_input", "n_channels"}}
        loaded = cls(text["name"], preprocessor=preprocessor, config=config, device=device, sizes=sizes)
        weights = load_file(folder / "baseline.safetensors")
        loaded.network.load_state_dict({name: tensor.float() for name, tensor in weights.items()})
        loaded.history = text["history"]
        return loaded
