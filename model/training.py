"""Train a first model on a small simulated fleet: `python -m model.training --out FOLDER`.

Forecast first, without labels; then risk (focal) and forecast together, with a label at every instant. One GPU or the
CPU. What it does not do yet: a user's own data, several GPUs, resuming.
"""

import argparse
import logging
import math
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import MambaConfig, NetworkOutput, training_scan
from model.channels import VAN_SCHEMA
from model.checkpoint import Checkpoint, save_checkpoint
from model.dataset import NOMINAL_INTERVAL_S, Sequences, SimulatedFleet, build_sequences, fit_prior
from model.evaluation import VanRisk, best_f2, choose_threshold, fit_platt, report
from model.fleet import FleetConfig
from model.network import RiskNetwork
from model.preprocess import Preprocessor
from model.scoring import Calibration

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """One training run."""

    vans: int = 320
    days: float = 8.0
    seed: int = 0
    length: int = 17_280  # samples of one training sequence (24 h)
    batch: int = 16  # sequences in a step
    pretrain_steps: int = 400  # forecast only
    finetune_steps: int = 1_600  # risk and forecast
    learning_rate: float = 1.5e-3
    warmup_steps: int = 100
    clip: float = 1.0  # of the gradient's norm
    forecast_weight: float = 0.05  # beside the risk loss
    focal_gamma: float = 2.0
    channel_dropout: float = 0.3  # probability that an optional channel is hidden for a whole sequence
    false_alarm_budget: float = 0.02  # per vehicle-day, on the validation vans
    warmup_samples: int = 60  # no alert and no loss before
    workers: int = 2


def focal_loss(logit: Tensor, label: Tensor, gamma: float) -> Tensor:
    """Focal loss per instant, any shape (Lin et al. 2017, equation 4, without alpha: the risk is calibrated later)."""
    cross_entropy = F.binary_cross_entropy_with_logits(logit, label, reduction="none")
    wrong = torch.where(label > 0.5, torch.sigmoid(-logit), torch.sigmoid(logit))
    return wrong**gamma * cross_entropy


def forecast_loss(output: NetworkOutput, z: Tensor, present: Tensor) -> Tensor:
    """Mean Laplace negative log-likelihood of the next sample, over the channels present in it, in nats."""
    mean, log_scale = output.forecast_mean[:, :-1], output.forecast_log_scale[:, :-1]
    nats = math.log(2.0) + log_scale + (z[:, 1:] - mean).abs() * torch.exp(-log_scale)
    mask = present[:, 1:]
    return (nats * mask).sum() / mask.sum().clamp(min=1)


class Sampler:
    """Random stretches of random vans, as tensors on the device."""

    def __init__(self, data: Sequences, config: TrainingConfig, device: torch.device) -> None:
        self._config = config
        self._rng = np.random.default_rng(config.seed)
        n = len(VAN_SCHEMA.channels)
        z, present = data.inputs[..., :n], data.inputs[..., n : 2 * n] != 0
        self._tensors = [
            torch.from_numpy(a).to(device) for a in (data.inputs, data.ratio, z, present, data.label, data.valid)
        ]
        self._n_vans, self._n_samples = data.ratio.shape
        self._optional = [i for i, channel in enumerate(VAN_SCHEMA.channels) if not channel.core]
        positives = data.label & data.valid
        self._positive_vans = np.flatnonzero(positives.any(axis=1))

    def draw(self) -> list[Tensor]:
        """inputs, ratio, z, present, label, valid of one batch; every other sequence from a van that has an event."""
        length = min(self._config.length, self._n_samples)
        vans = self._rng.integers(self._n_vans, size=self._config.batch)
        if len(self._positive_vans):
            vans[::2] = self._rng.choice(self._positive_vans, size=len(vans[::2]))
        starts = self._rng.integers(self._n_samples - length + 1, size=len(vans))
        batch = [
            torch.stack([t[van, start : start + length] for van, start in zip(vans, starts, strict=True)])
            for t in self._tensors
        ]
        n = len(VAN_SCHEMA.channels)
        for channel in self._optional:
            hidden = self._rng.random(len(vans)) < self._config.channel_dropout
            batch[0][np.flatnonzero(hidden), :, channel] = 0.0
            batch[0][np.flatnonzero(hidden), :, n + channel] = 0.0
        return batch


def train(network: RiskNetwork, data: Sequences, config: TrainingConfig, device: torch.device) -> None:
    """Pretrain and fine-tune in place.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    network.to(device).train()
    scan = training_scan(device)
    sampler = Sampler(data, config, device)
    total = config.pretrain_steps + config.finetune_steps
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: (
            min(1.0, (step + 1) / config.warmup_steps) * (0.02 + 0.98 * math.cos(0.5 * math.pi * step / total) ** 2)
        ),
    )
    dt_parameters = [p for name, p in network.named_parameters() if "dt_proj" in name]
    started = time.monotonic()
    for step in range(total):
        inputs, ratio, z, present, label, valid = sampler.draw()
        output = network(inputs, ratio, scan)
        forecast = forecast_loss(output, z, present)
        loss, risk = forecast, torch.zeros(())
        if step >= config.pretrain_steps:
            counted = valid.clone()
            counted[:, : config.warmup_samples] = False
            risk = (focal_loss(output.risk_logit, label.float(), config.focal_gamma) * counted).sum() / counted.sum()
            loss = 100.0 * risk + config.forecast_weight * forecast
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), config.clip)
        if not torch.isfinite(norm):
            raise FloatingPointError(f"gradient norm is {norm.item()} in step {step}")
        optimiser.step()
        schedule.step()
        if step % 50 == 0 or step == total - 1:
            dt_norm = math.sqrt(sum(float(p.grad.square().sum()) for p in dt_parameters if p.grad is not None))
            rate = (step + 1) * inputs.shape[0] * inputs.shape[1] / (time.monotonic() - started)
            logger.info(
                "step %d/%d risk %.6f forecast %.4f gradient %.3f dt gradient %.4f %.0f samples/s",
                step, total, risk.item(), forecast.item(), float(norm), dt_norm, rate,
            )  # fmt: skip


@torch.inference_mode()
def risk_logits(network: RiskNetwork, data: Sequences, device: torch.device, vans_at_once: int = 8) -> np.ndarray:
    """Logits (n_vans, length) of whole sequences from their first sample, as in service."""
    network.to(device).eval()
    scan = training_scan(device)
    parts = []
    for start in range(0, len(data), vans_at_once):
        rows = slice(start, start + vans_at_once)
        inputs, ratio = torch.from_numpy(data.inputs[rows]).to(device), torch.from_numpy(data.ratio[rows]).to(device)
        parts.append(network(inputs, ratio, scan).risk_logit.double().cpu().numpy())
    return np.concatenate(parts)


def van_risks(data: Sequences, risk: np.ndarray, skip: int) -> list[VanRisk]:
    """Each van's risks without padding and without the first `skip` samples."""
    vans = []
    for i in range(len(data)):
        n = int((data.ts_ms[i] > 0).sum())
        rows = slice(skip, n)
        vans.append(
            VanRisk(data.ts_ms[i, rows], risk[i, rows], data.label[i, rows], data.valid[i, rows], data.events_ms[i])
        )
    return vans


def calibrate(logits: np.ndarray, data: Sequences, config: TrainingConfig) -> Calibration:
    """Platt scaling and operating points on the validation vans."""
    counted = data.valid & (data.ts_ms > 0)
    counted[:, : config.warmup_samples] = False
    slope, intercept = fit_platt(logits[counted], data.label[counted])
    plain = Calibration(slope=slope, intercept=intercept)
    vans = van_risks(data, plain.risk(logits), config.warmup_samples)
    threshold = choose_threshold(vans, config.false_alarm_budget)
    f2_threshold, _ = best_f2(plain.risk(logits[counted]), data.label[counted])
    return Calibration(slope, intercept, round(threshold, 5), round(0.5 * threshold, 5), round(f2_threshold, 5))


def run(config: TrainingConfig, out: Path, device: torch.device) -> dict[str, dict[str, float | None]]:
    """Simulate, train, calibrate, evaluate and save; the figures of the model card."""
    torch.manual_seed(config.seed)
    fleet = FleetConfig(n_vehicles=config.vans, days=config.days, seed=config.seed)
    source = SimulatedFleet(fleet)
    prior = fit_prior(source, workers=config.workers)
    logger.info("prior %s", prior)
    # Vehicle-disjoint: of every eight vans five train, one validates, two test.
    preprocessor = Preprocessor(VAN_SCHEMA, prior, NOMINAL_INTERVAL_S)
    everything = build_sequences(source, preprocessor, range(config.vans), workers=config.workers, folder=None)
    data = {
        name: everything.take([van for van in range(config.vans) if van % 8 in places])
        for name, places in SPLIT.items()
    }
    logger.info("vans %s", {name: len(part) for name, part in data.items()})

    network = RiskNetwork(MambaConfig(d_input=VAN_SCHEMA.d_input, n_channels=len(VAN_SCHEMA.channels)))
    train(network, data["train"], config, device)
    # Everything below is of the rounded weights, which are what is shipped.
    network.load_state_dict({name: tensor.half() for name, tensor in network.state_dict().items()})
    # Saved before it is judged: what follows can be repeated, the training cannot.
    save_checkpoint(Checkpoint(network.cpu(), VAN_SCHEMA, prior, Calibration()), out, dtype=torch.float16)
    calibration = calibrate(risk_logits(network, data["validation"], device), data["validation"], config)
    logger.info("calibration %s", calibration)
    figures = {}
    for name in ("validation", "test"):
        risk = calibration.risk(risk_logits(network, data[name], device))
        figures[name] = report(van_risks(data[name], risk, config.warmup_samples), calibration)
        logger.info("%s %s", name, figures[name])
    provenance = {
        "data": "simulated fleet (model.fleet)",
        "fleet": {"n_vehicles": fleet.n_vehicles, "days": fleet.days, "seed": fleet.seed, "start_ms": fleet.start_ms},
        "training": asdict(config),
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "figures": figures,
    }
    checkpoint = Checkpoint(
        network.cpu(), VAN_SCHEMA, prior, calibration, warmup_samples=config.warmup_samples, provenance=provenance
    )
    save_checkpoint(checkpoint, out, dtype=torch.float16)
    return figures


SPLIT = {"train": (0, 1, 2, 3, 4), "validation": (5,), "test": (6, 7)}


def main() -> None:
    """Command line of the first training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    defaults = TrainingConfig()
    for name in ("vans", "days", "seed", "length", "batch", "pretrain_steps", "finetune_steps", "workers"):
        value = getattr(defaults, name)
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help=" ")
    options = vars(parser.parse_args())
    out = options.pop("out")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.backends.cuda.matmul.allow_tf32 = True
    run(TrainingConfig(**options), out, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


if __name__ == "__main__":
    main()
