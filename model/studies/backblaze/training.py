"""Training of a network on drives, by the loop of the neural baselines, and its outputs on others."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kernels import NetworkOutput
from model.baselines.stateful_training import Figure, Loss, NeuralConfig, risk_logit, stream, train_stateful
from model.studies.backblaze.config import FOCAL_ALPHA, FOCAL_GAMMA, BackblazeConfig
from model.studies.backblaze.drives import Bools, Floats, Singles
from model.studies.backblaze.inputs import Panel
from model.studies.backblaze.networks import make_network
from model.training.config import TrainingConfig
from model.training.loop import risk_loss
from model.training.losses import masked_mean
from model.training.sampler import Batch

AT_ONCE = 4_096  # windows


@dataclass(frozen=True, slots=True)
class Lessons:
    """Sequences with what is to be learnt on the days that count."""

    panel: Panel
    target: Singles  # (n_drives, longest)
    counted: Bools  # (n_drives, longest)


class WindowSampler:
    """Draws windows that hold a counted day, every counted day being as likely; each starts from the zero state."""

    def __init__(self, lessons: Lessons, config: BackblazeConfig, device: torch.device) -> None:
        self._lessons = lessons
        self._device = device
        self._batch = config.batch
        self._length = min(config.window, lessons.panel.ratio.shape[1])
        self._rng = np.random.default_rng((config.seed, 2))
        self._drives, self._days = np.nonzero(lessons.counted)

    def draw(self) -> Batch:
        """The next windows."""
        pick = self._rng.integers(len(self._drives), size=self._batch)
        latest = self._lessons.panel.ratio.shape[1] - self._length
        start = np.clip(self._days[pick] - self._rng.integers(self._length, size=self._batch), 0, latest)
        rows, places = self._drives[pick][:, None], start[:, None] + np.arange(self._length)
        panel = self._lessons.panel
        inputs, ratio, label, counted = (
            torch.from_numpy(array[rows, places]).to(self._device)
            for array in (panel.inputs, panel.ratio, self._lessons.target, self._lessons.counted)
        )
        z, present = inputs.chunk(2, dim=-1)
        fresh = torch.ones(self._batch, dtype=torch.bool, device=self._device)
        return Batch(inputs, ratio, z, present, label, counted, fresh)


def neural_config(config: BackblazeConfig, loss: str, positive_share: float) -> NeuralConfig:
    """The loop's settings with one of LOSSES; the weighted focal loss gives both kinds of day the same weight in all."""
    alpha = {"focal": FOCAL_ALPHA, "weighted focal": 1.0 - positive_share}.get(loss)
    training = TrainingConfig(
        seed=config.seed, length=config.window, batch=config.batch, pretrain_steps=0, finetune_steps=config.steps,
        learning_rate=config.learning_rate, warmup_steps=max(config.steps // 10, 1), average_decay=0.98,
        risk_loss="bce" if loss == "bce" else "focal", focal_gamma=FOCAL_GAMMA, focal_alpha=alpha,
        validate_every=config.validate_every,
    )  # fmt: skip
    return NeuralConfig(training, precision="fp32")


def risk_of(training: TrainingConfig) -> Loss:
    """The product's risk loss over the days that count."""

    def loss(output: NetworkOutput, batch: Batch, _: bool) -> Tensor:
        return masked_mean(risk_loss(training, output, batch.label), batch.counted)

    return loss


def days_of(output: NetworkOutput) -> Tensor:
    """The number that a network tells besides the risk: (lanes, length)."""
    return output.forecast_mean[..., 0]


def absolute_error(output: NetworkOutput, batch: Batch, _: bool) -> Tensor:
    """Mean absolute error of `days_of` over the days that count."""
    return masked_mean((days_of(output) - batch.label).abs(), batch.counted)


def fit_network(
    name: str,
    lessons: Lessons,
    loss: Loss,
    figure: Callable[[nn.Module], float],
    settings: NeuralConfig,
    config: BackblazeConfig,
    device: torch.device,
) -> nn.Module:
    """A network trained on `lessons`; of its averaged weights those with the best validation figure."""
    network = make_network(name, lessons.panel.inputs.shape[2], config, device)
    sampler = WindowSampler(lessons, config, device)
    train_stateful(network, sampler, loss, Figure("validation", figure), settings, device)
    return network


def outputs(
    network: nn.Module,
    panel: Panel,
    asked: Bools,
    settings: NeuralConfig,
    device: torch.device,
    read: Callable[[NetworkOutput], Tensor] = risk_logit,
) -> Floats:
    """(n_rows,) what the network says of the asked days, given the window that ends with each; 0 of other days.

    Whole histories would tell how long ago the data begin, which is different in the test period and no news of the drive.

    Args:
        network: trained on windows of the same length.
        panel: of the drives.
        asked: (n_rows,) drive after drive.
        settings: of the training.
        device: where the network is.
        read: which output.
    """
    known = panel.day >= 0
    drive, day = (index[asked] for index in np.nonzero(known))
    length = min(settings.training.length, known.shape[1])
    start = np.maximum(day - length + 1, 0)
    said = np.zeros(len(asked))
    told = []
    for group in np.array_split(np.arange(len(drive)), -(-len(drive) // AT_ONCE)):
        rows, places = drive[group][:, None], start[group][:, None] + np.arange(length)
        out = stream(network, panel.inputs[rows, places], panel.ratio[rows, places], device, settings, read)
        told.append(out[np.arange(len(group)), day[group] - start[group]])
    said[asked] = np.concatenate(told)
    return said
