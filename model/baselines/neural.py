"""The neural baselines: other networks with the product's preprocessing, sampler, losses, schedule and averaging."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kernels import NetworkOutput
from model.baselines.lstm import LstmConfig, LstmNetwork
from model.baselines.protocol import BaselineError, Singles
from model.baselines.stateful_training import Figure, NeuralConfig, stream, train_stateful
from model.baselines.transformer import TransformerConfig, TransformerNetwork
from model.channels import ChannelSchema
from model.checkpoint import load_checkpoint
from model.dataset import Sequences, Trace, TraceSource, build_sequences, preprocess_traces
from model.evaluation.exact import weighted_auroc
from model.normaliser import FleetPrior
from model.preprocess import Preprocessor
from model.training.config import TrainingConfig
from model.training.loop import risk_loss
from model.training.losses import forecast_nats, masked_mean
from model.training.sampler import Batch, Sampler

SCORE_STRIDE = 12  # of the validation instants
NETWORKS: dict[str, tuple[Callable[..., Any], Callable[[Any], nn.Module]]] = {
    "lstm": (LstmConfig, LstmNetwork),
    "transformer": (TransformerConfig, TransformerNetwork),
}


def total_loss(output: NetworkOutput, batch: Batch, config: TrainingConfig, *, pretraining: bool) -> Tensor:
    """The product's loss of either stage."""
    forecast = masked_mean(forecast_nats(output, batch.z), batch.present[:, 1:])
    if pretraining:
        return forecast
    risk = masked_mean(risk_loss(config, output, batch.label), batch.counted)
    return config.risk_weight * risk + config.forecast_weight * forecast


def train_network(
    network: nn.Module,
    schema: ChannelSchema,
    train: Sequences,
    validation: Sequences | None,
    config: NeuralConfig,
    device: torch.device,
) -> list[dict[str, float]]:
    """Train in place for the product's two tasks; the best averaged weights by validation AUROC, or the last without vans.

    Returns and raises as `train_stateful`.
    """

    def loss(output: NetworkOutput, batch: Batch, pretraining: bool) -> Tensor:
        return total_loss(output, batch, config.training, pretraining=pretraining)

    figure = None
    if validation is not None:
        figure = Figure("validation_auroc", lambda trained: validation_auroc(trained, validation, config, device))
    return train_stateful(network, Sampler(schema, train, config.training, device), loss, figure, config, device)


def validation_auroc(network: nn.Module, data: Sequences, config: NeuralConfig, device: torch.device) -> float:
    """AUROC over the valid instants of (at most validate_vans of) the validation vans."""
    picked = np.unique(np.linspace(0, len(data.lengths) - 1, min(config.validate_vans, len(data.lengths))).astype(int))
    scores, labels = [], []
    for group in np.array_split(picked, -(-len(picked) // vans_at_once(device))):
        rows = data.take(group.tolist())
        logits = stream(network, rows.inputs, rows.ratio, device, config)
        counted = rows.valid[:, ::SCORE_STRIDE]
        scores.append(logits[:, ::SCORE_STRIDE][counted])
        labels.append(rows.label[:, ::SCORE_STRIDE][counted])
    return weighted_auroc(np.concatenate(scores), np.concatenate(labels))


def vans_at_once(device: torch.device) -> int:
    """Vans scored side by side: their inputs are 21 MB each for 14 days."""
    return 64 if device.type == "cuda" else 16


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
            logits = stream(self.network, rows.inputs, rows.ratio, self.device, self.config)
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
