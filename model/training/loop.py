"""The training loop: both stages, validation, early stopping, and points from which a run resumes exactly."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kernels import NetworkOutput, RecurrentState, TrainingForward, training_forward
from model.channels import ChannelSchema
from model.dataset import Sequences
from model.evaluation.exact import weighted_auroc
from model.network import RiskNetwork
from model.training.config import TrainingConfig
from model.training.losses import focal_loss, forecast_nats, masked_mean
from model.training.ranks import Ranks
from model.training.sampler import Batch, Sampler

logger = logging.getLogger(__name__)

Scalars = dict[str, float]
LOG_EVERY = 25
EVERY = 12  # of the validation instants, one a minute goes into the AUROC


class TrainingDivergedError(ArithmeticError):
    """A gradient is no longer finite; the message names the step and what to change."""


@dataclass
class Progress:
    """Where a run stands; saved and restored with everything else."""

    step: int = 0
    best_risk: float = math.inf
    best_step: int = -1
    since_best: int = 0
    history: list[Scalars] = field(default_factory=list)


class Trainer:
    """Trains one network; all processes of a run do the same steps on different vans."""

    def __init__(
        self,
        network: RiskNetwork,
        schema: ChannelSchema,
        train: Sequences,
        validation: Sequences,
        config: TrainingConfig,
        ranks: Ranks,
        folder: Path,
        forward: TrainingForward | None = None,
    ) -> None:
        self.network = network.to(ranks.device)
        self.config = config
        self.progress = Progress()
        self._ranks = ranks
        self._folder = folder
        self._n_channels = len(schema.channels)
        self._forward = forward or training_forward(ranks.device, block=network.config.block)
        self._sampler = Sampler(schema, train, config, ranks.device, stream=ranks.index, streams=ranks.count)
        self._validation = validation
        self._state: RecurrentState | None = None
        self._average = {name: p.detach().clone() for name, p in self.network.state_dict().items()}
        self._best = {name: p.clone() for name, p in self._average.items()}
        self._optimiser = torch.optim.AdamW(parameter_groups(self.network, config), lr=1.0, betas=(0.9, 0.98))
        self._finite = torch.ones((), dtype=torch.bool, device=ranks.device)  # so far every gradient was
        self._dt_parameters = [p for name, p in self.network.named_parameters() if "dt_" in name]

    def run(self, on_step: Callable[[Progress, Scalars], None] | None = None) -> dict[str, Tensor]:
        """Train to the end or until validation no longer improves; the best averaged weights.

        Raises:
            TrainingDivergedError: a gradient is not finite.
        """
        started, begun = time.monotonic(), self.progress.step
        while self.progress.step < self.config.total_steps and self.progress.since_best < self.config.patience:
            scalars = self._step()
            if any(self._due(n) for n in (LOG_EVERY, self.config.validate_every, self.config.save_every)):
                self._check_finite()  # first of all: what diverged must not replace the point to resume from
            if on_step is not None and self._due(LOG_EVERY):
                done = self.progress.step - begun
                samples = done * self.config.batch * self._sampler.length * self._ranks.count
                scalars["samples_per_second"] = samples / (time.monotonic() - started)
                on_step(self.progress, scalars)
            if self._due(self.config.validate_every):
                self._validate(on_step)
            if self._due(self.config.save_every):
                self.save()
        return self._best

    def _due(self, every: int) -> bool:
        return self.progress.step % every == 0 or self.progress.step == self.config.total_steps

    def _check_finite(self) -> None:
        """A look at the device stops it, so this is not done in every step."""
        if not self._finite:
            raise TrainingDivergedError(
                f"a gradient was not finite in step {self.progress.step} or shortly before; train again with a lower "
                "--learning-rate"
            )

    def _step(self) -> Scalars:
        """One optimiser step."""
        config, step = self.config, self.progress.step
        self.network.train()
        batch = self._sampler.draw()
        output, self._state = self._forward(
            self.network.config, self.network.weights(), batch.inputs, batch.ratio, self._carried(batch)
        )
        loss, losses = self._losses(output, batch, pretraining=step < config.pretrain_steps)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._ranks.average_gradients(self.network.parameters())
        norm = torch.nn.utils.clip_grad_norm_(self.network.parameters(), config.clip)
        self._finite &= torch.isfinite(norm)
        rate = learning_rate(config, step)
        for group in self._optimiser.param_groups:
            group["lr"] = rate
        self._optimiser.step()
        self._update_average()
        self.progress.step += 1
        if not self._due(LOG_EVERY):
            return {}
        dt_norm = math.sqrt(sum(float(p.grad.square().sum()) for p in self._dt_parameters if p.grad is not None))
        scalars = {name: float(value.detach()) for name, value in losses.items()}
        return {**scalars, "gradient_norm": float(norm), "dt_gradient_norm": dt_norm, "learning_rate": rate}

    def _carried(self, batch: Batch) -> RecurrentState | None:
        """The state each lane goes on from: zero for a fresh van. No gradient reaches into the last window."""
        if self._state is None:
            return None
        keep = (~batch.fresh).to(self._state.ssm.dtype).view(-1, 1, 1, 1)
        return RecurrentState(self._state.conv.detach() * keep, self._state.ssm.detach() * keep)

    def _losses(self, output: NetworkOutput, batch: Batch, *, pretraining: bool) -> tuple[Tensor, dict[str, Tensor]]:
        forecast = masked_mean(forecast_nats(output, batch.z), batch.present[:, 1:])
        if pretraining:
            return forecast, {"forecast": forecast}
        risk = masked_mean(risk_loss(self.config, output, batch.label), batch.counted)
        total = self.config.risk_weight * risk + self.config.forecast_weight * forecast
        return total, {"risk": risk, "forecast": forecast}

    @torch.no_grad()
    def _update_average(self) -> None:
        """Exponential moving average of the weights, with a shorter memory at the start of each stage."""
        into_stage = self.progress.step - (
            0 if self.progress.step < self.config.pretrain_steps else self.config.pretrain_steps
        )
        decay = min(self.config.average_decay, (1.0 + into_stage) / (10.0 + into_stage))
        averages, values = [], []
        for name, value in self.network.state_dict().items():
            averages.append(self._average[name])
            values.append(value)
        torch._foreach_lerp_(averages, values, 1.0 - decay)

    def _validate(self, on_step: Callable[[Progress, Scalars], None] | None) -> None:
        """Judge the averaged weights; in fine-tuning remember the best."""
        figures = self.judge(self._average)
        self.progress.history.append({"step": self.progress.step, **figures})
        if self.progress.step > self.config.pretrain_steps:
            if figures["validation_risk"] < self.progress.best_risk:
                self.progress.best_risk, self.progress.best_step = figures["validation_risk"], self.progress.step
                self.progress.since_best = 0
                self._best = {name: p.clone() for name, p in self._average.items()}
            else:
                self.progress.since_best += 1
        if on_step is not None:
            on_step(self.progress, figures)

    @torch.no_grad()
    def judge(self, weights: dict[str, Tensor]) -> Scalars:
        """Risk loss and forecast of `weights` on the validation vans, whole histories from their first sample.

        The AUROC is that of this process's share of them, NaN where it has none or none has an event.
        """
        own = {name: p.clone() for name, p in self.network.state_dict().items()}
        self.network.load_state_dict(weights)
        self.network.eval()
        sums = torch.zeros(4, dtype=torch.float64, device=self._ranks.device)
        logits, labels = [torch.zeros(0)], [torch.zeros(0, dtype=torch.bool)]
        mine = list(self._ranks.share(len(self._validation)))
        for start in range(0, len(mine), self.config.batch):
            for output, batch in self._windows(mine[start : start + self.config.batch]):
                nats = forecast_nats(output, batch.z)
                present = batch.present[:, 1:]
                risk = risk_loss(self.config, output, batch.label) * batch.counted
                sums += torch.stack((risk.sum(), batch.counted.sum(), (nats * present).sum(), present.sum())).double()
                counted = batch.counted[:, ::EVERY]
                logits.append(output.risk_logit[:, ::EVERY][counted].double().cpu())
                labels.append(batch.label[:, ::EVERY][counted].bool().cpu())
        self.network.load_state_dict(own)
        sums = self._ranks.sum(sums)
        return {
            "validation_risk": float(sums[0] / sums[1].clamp(min=1)),
            "validation_forecast": float(sums[2] / sums[3].clamp(min=1)),
            "validation_auroc": weighted_auroc(torch.cat(logits).numpy(), torch.cat(labels).numpy()),
        }

    def _windows(self, vans: list[int]) -> Iterator[tuple[NetworkOutput, Batch]]:
        """Outputs over these validation vans side by side, window by window, the state carried."""
        data, device, n = self._validation, self._ranks.device, self._n_channels
        end, state = int(data.lengths[vans].max()), None
        for start in range(0, end, self.config.length):
            part = slice(start, min(start + self.config.length, end))
            inputs, ratio, label, valid = (
                torch.from_numpy(np.ascontiguousarray(a[vans, part])).to(device)
                for a in (data.inputs, data.ratio, data.label, data.valid)
            )
            if not self.config.time_aware:
                ratio = torch.ones_like(ratio)
            if start == 0:
                valid[:, : self.config.warmup_samples] = False
            output, state = self._forward(self.network.config, self.network.weights(), inputs, ratio, state)
            inside = torch.from_numpy(np.arange(part.start, part.stop) < data.lengths[vans, None]).to(device)
            present = inputs[..., n : 2 * n] * inside[..., None]
            fresh = torch.full((len(vans),), start == 0, device=device)
            yield output, Batch(inputs, ratio, inputs[..., :n], present, label.float(), valid, fresh)

    def save(self) -> None:
        """Write what a resumed run needs, atomically; every process writes its own lanes."""
        self._folder.mkdir(parents=True, exist_ok=True)
        lanes: dict[str, Any] = {"sampler": self._sampler.state_dict(), "state": None}
        if self._state is not None:
            lanes["state"] = (self._state.conv.detach().cpu(), self._state.ssm.detach().cpu())
        if self._ranks.first:
            lanes["shared"] = {
                "config": asdict(self.config),
                "ranks": self._ranks.count,
                "progress": asdict(self.progress),
                "network": self.network.state_dict(),
                "average": self._average,
                "best": self._best,
                "optimiser": self._optimiser.state_dict(),
            }
        path = self._folder / f"resume-{self._ranks.index}.pt"
        torch.save(lanes, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def resume(self) -> None:
        """Go on from what `save` wrote.

        Raises:
            FileNotFoundError: there is nothing to resume from.
            ValueError: it was written by another configuration or number of processes.
        """
        device = self._ranks.device
        shared = torch.load(self._folder / "resume-0.pt", map_location=device, weights_only=False)["shared"]
        if shared["config"] != asdict(self.config) or shared["ranks"] != self._ranks.count:
            differing = [k for k, v in asdict(self.config).items() if shared["config"].get(k) != v]
            raise ValueError(
                f"{self._folder} was trained by {shared['ranks']} processes, now {self._ranks.count}; "
                f"settings that differ: {', '.join(differing) or 'none'}. Resume with the same ones."
            )
        lanes = torch.load(self._folder / f"resume-{self._ranks.index}.pt", map_location=device, weights_only=False)
        self.network.load_state_dict(shared["network"])
        self._optimiser.load_state_dict(shared["optimiser"])
        self._average, self._best = shared["average"], shared["best"]
        self.progress = Progress(**shared["progress"])
        self._sampler.load_state_dict(lanes["sampler"])
        self._state = None if lanes["state"] is None else RecurrentState(*(t.to(device) for t in lanes["state"]))


def risk_loss(config: TrainingConfig, output: NetworkOutput, label: Tensor) -> Tensor:
    """The risk loss of the configuration, per instant (batch, length)."""
    if config.risk_loss == "bce":
        return focal_loss(output.risk_logit, label, 0.0)
    return focal_loss(output.risk_logit, label, config.focal_gamma, config.focal_alpha)


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Linear warm-up, then a cosine to a fiftieth."""
    warm = min(1.0, (step + 1) / config.warmup_steps)
    return config.learning_rate * warm * (0.02 + 0.98 * math.cos(0.5 * math.pi * step / config.total_steps) ** 2)


def parameter_groups(network: nn.Module, config: TrainingConfig) -> list[dict[str, Any]]:
    """Matrices decay; A_log, D, biases, norms and convolutions do not."""
    decayed: list[nn.Parameter] = []
    kept: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        matrix = parameter.ndim == 2 and not name.endswith("A_log") and "dt_proj" not in name
        (decayed if matrix else kept).append(parameter)
    return [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
