"""A model on disk: `model.safetensors` beside `model.json` (sizes, channels, normaliser, calibration, fingerprint).

Tensors may be stored in half precision to keep the file small; they are always loaded as fp32, and every figure in the
model card is of the weights as loaded.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from kernels import MambaConfig
from model.channels import ChannelSchema
from model.network import RiskNetwork
from model.normaliser import FleetPrior
from model.preprocess import VERSION as PREPROCESSING
from model.preprocess import Preprocessor
from model.scoring import Calibration

FORMAT = 2  # 2: the forecast is of the difference to the held z-scores
SHIPPED = Path(__file__).parent / "weights"


class CheckpointError(ValueError):
    """The checkpoint cannot be used; the message says which part and why."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything needed to preprocess, score and alert."""

    network: RiskNetwork
    schema: ChannelSchema
    prior: FleetPrior
    calibration: Calibration
    horizon_s: float = 7_200.0  # the risk is of an event within so many seconds
    warmup_samples: int = 60  # no alert before so many samples of a session
    provenance: dict[str, Any] = field(default_factory=dict)  # data, seed, date, figures; not part of the fingerprint

    @property
    def config(self) -> MambaConfig:
        """Sizes of the network."""
        return self.network.config

    def preprocessor(self) -> Preprocessor:
        """The preprocessing that this model was trained with."""
        return Preprocessor(self.schema, self.prior, self.config.nominal_interval_s)

    def description(self) -> dict[str, Any]:
        """The JSON part, without fingerprint and provenance."""
        return {
            "format": FORMAT,
            "preprocessing": PREPROCESSING,
            "config": self.config.described(),
            "schema": self.schema.to_json(),
            "normaliser": asdict(self.prior),
            "calibration": asdict(self.calibration),
            "horizon_s": self.horizon_s,
            "warmup_samples": self.warmup_samples,
        }

    def fingerprint(self) -> str:
        """32 hex digits over whatever changes a state or a forecast: weights, normaliser, channels, state layout.

        The calibration is left out: a new threshold must not throw away the states of a fleet.
        """
        return self._digest(self.network.state_dict())

    def risk_fingerprint(self) -> str:
        """32 hex digits over whatever changes a risk: the same without the forecast head. Reports of risk are of this."""
        tensors = self.network.state_dict()
        return self._digest({name: tensor for name, tensor in tensors.items() if not name.startswith("forecast_head.")})

    def _digest(self, tensors: Mapping[str, torch.Tensor]) -> str:
        described = {
            key: self.description()[key] for key in ("format", "preprocessing", "config", "schema", "normaliser")
        }
        digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
        for name, tensor in sorted(tensors.items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]


def save_checkpoint(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Write a checkpoint; rounding to `dtype` happens in the network too, so that it equals what will be loaded."""
    folder.mkdir(parents=True, exist_ok=True)
    rounded = {k: v.detach().cpu().to(dtype).contiguous() for k, v in checkpoint.network.state_dict().items()}
    checkpoint.network.load_state_dict(rounded)
    save_file(rounded, folder / "model.safetensors")
    text = checkpoint.description() | {"fingerprint": checkpoint.fingerprint(), "provenance": checkpoint.provenance}
    (folder / "model.json").write_text(json.dumps(text, indent=2) + "\n")


def store_calibration(folder: Path, calibration: Calibration) -> None:
    """Replace the operating point of a checkpoint on disk; weights and fingerprint stay as they are.

    Raises:
        CheckpointError: there is no readable checkpoint.
    """
    file = folder / "model.json"
    try:
        text = json.loads(file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"no readable checkpoint in {folder}: {error}") from error
    file.write_text(json.dumps(text | {"calibration": asdict(calibration)}, indent=2) + "\n")


def load_checkpoint(folder: Path = SHIPPED) -> Checkpoint:
    """Read a checkpoint, on the CPU in fp32.

    Raises:
        CheckpointError: a file is missing, unreadable, of another format, or its fingerprint does not match.
    """
    try:
        text = json.loads((folder / "model.json").read_text())
        tensors = load_file(folder / "model.safetensors")
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(f"no readable checkpoint in {folder}: {error}") from error
    if text.get("format") != FORMAT:
        raise CheckpointError(f"{folder} has format {text.get('format')}, this version reads {FORMAT}")
    if text.get("preprocessing") != PREPROCESSING:
        raise CheckpointError(
            f"{folder} was trained with preprocessing {text.get('preprocessing')}, this version has {PREPROCESSING}: "
            "the same samples would mean something else to it; train it again"
        )
    try:
        network = RiskNetwork(MambaConfig(**text["config"]))
        network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        checkpoint = Checkpoint(
            network=network.eval().requires_grad_(requires_grad=False),
            schema=ChannelSchema.from_json(text["schema"]),
            prior=FleetPrior.from_json(text["normaliser"]),
            calibration=Calibration(**text["calibration"]),
            horizon_s=text["horizon_s"],
            warmup_samples=text["warmup_samples"],
            provenance=text["provenance"],
        )
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{folder} does not describe a usable model: {error}") from error
    if checkpoint.fingerprint() != text["fingerprint"]:
        raise CheckpointError(
            f"{folder}: fingerprint is {checkpoint.fingerprint()}, model.json says {text['fingerprint']}; "
            "weights and description do not belong together"
        )
    return checkpoint
