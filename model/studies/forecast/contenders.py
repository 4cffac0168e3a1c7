"""Who forecasts: persistence, a linear autoregression, and two networks on the product's training loop.

Each gives moves in the units of the task; persistence is the zero move.
"""

from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kernels import BLOCKS, MambaConfig, NetworkOutput, RecurrentState, training_forward
from model.baselines.forecasts import solved
from model.baselines.stateful_training import Figure, NeuralConfig, State, StatefulNetwork, autocast, train_stateful
from model.baselines.transformer import TransformerConfig, TransformerNetwork
from model.network import RiskNetwork
from model.studies.forecast.windows import WARMUP, Piece, Rows, Task, WindowSampler
from model.training.config import TrainingConfig
from model.training.losses import masked_mean
from model.training.sampler import Batch

Floats = NDArray[np.float64]
ORDERS = (1, 4, 16, WARMUP)  # steps that the autoregression may look back on
AT_ONCE = 8  # windows that a network scores side by side


class Contender(Protocol):
    """Forecasts every step of the pieces of a task."""

    def moves(self, task: Task) -> list[Floats]:
        """(length, n_targets) for each piece; only steps from WARMUP on are judged."""


class Persistence:
    """Nothing moves."""

    def moves(self, task: Task) -> list[Floats]:
        """See `Contender`."""
        return [np.zeros((len(piece), task.n_targets)) for piece in task.pieces]


class Autoregression:
    """Least squares from the last z-scores of all features to each move; the order is chosen on validation."""

    def __init__(self, train: Task, validation: Task) -> None:
        errors = {}
        for order in ORDERS:
            self.order, self._weights = order, self._fitted(train, order)
            errors[order] = squared_error(self, validation)
        self.order = min(errors, key=errors.__getitem__)
        self._weights = self._fitted(train, self.order)

    @staticmethod
    def _design(piece: Piece, order: int) -> Floats:
        """(length - order + 1, 1 + order * n_features): one, the held z-scores, and their last changes."""
        held = piece.held
        changes = [
            held[order - 1 - k : len(held) - k] - held[order - 2 - k : len(held) - 1 - k] for k in range(order - 1)
        ]
        return np.hstack((np.ones((len(held) - order + 1, 1)), held[order - 1 :], *changes))

    def _fitted(self, task: Task, order: int) -> Floats:
        """(1 + order * n_features, n_targets)."""
        width, n = 1 + order * task.n_features, task.n_targets
        gram, moment = np.zeros((n, width, width)), np.zeros((n, width))
        for piece in (piece for piece in task.pieces if len(piece) >= order):
            x, y = self._design(piece, order), task.targets(piece)[order - 1 :]
            known = ~np.isnan(y)
            squares: dict[bytes, Floats] = {}  # targets that are known in the same rows share them
            for j in range(n):
                used, key = x[known[:, j]], known[:, j].tobytes()
                if key not in squares:
                    squares[key] = used.T @ used
                gram[j] += squares[key]
                moment[j] += used.T @ y[known[:, j], j]
        return solved(gram, moment)

    def moves(self, task: Task) -> list[Floats]:
        """See `Contender`."""
        out = []
        for piece in task.pieces:
            moved = np.zeros((len(piece), task.n_targets))
            if len(piece) >= self.order:
                moved[self.order - 1 :] = self._design(piece, self.order) @ self._weights
            out.append(moved)
        return out


class MambaForecast(nn.Module):
    """The product's network as a network that carries a state; its forecast head gives the moves."""

    def __init__(self, config: MambaConfig, device: torch.device) -> None:
        super().__init__()
        self.network = RiskNetwork(config)
        self._scan = training_forward(device, block=config.block)

    def initial_state(self, lanes: int, device: torch.device) -> State:
        """Zeros of conv_state and ssm_state."""
        zero = RecurrentState.zeros(self.network.config, lanes, like=torch.zeros((), device=device))
        return zero.conv, zero.ssm

    def forward(self, inputs: Tensor, ratio: Tensor, state: State) -> tuple[NetworkOutput, State]:
        """See `StatefulNetwork`."""
        config = self.network.config
        output, last = self._scan(config, self.network.weights(), inputs, ratio, RecurrentState(*state))
        # The head starts from the held z-scores, the move is what it adds.
        moved = output.forecast_mean - inputs[..., : config.n_channels]
        return NetworkOutput(output.risk_logit, moved, output.forecast_log_scale), (last.conv, last.ssm)


class NetworkForecast:
    """A trained network."""

    def __init__(self, network: nn.Module, config: NeuralConfig, device: torch.device) -> None:
        self.network, self._config, self._device = network, config, device

    @torch.inference_mode()
    def moves(self, task: Task) -> list[Floats]:
        """See `Contender`: window by window, each step from the window that has seen most before it."""
        self.network.eval()
        forward = cast(StatefulNetwork, self.network)
        out = [np.zeros((len(piece), task.n_targets)) for piece in task.pieces]
        every, rows = task.windows(), Rows(task, self._device)
        for first in range(0, len(every), AT_ONCE):
            group = every[first : first + AT_ONCE]
            batch = rows.batch(group)
            with autocast(self._config, self._device):
                output, _ = forward(batch.inputs, batch.ratio, forward.initial_state(len(group), self._device))
            moved = output.forecast_mean.float().cpu().numpy()
            for row, window in zip(moved, group, strict=True):
                out[window.piece][window.judged : window.stop] = row[window.judged - window.start :][
                    : window.stop - window.judged
                ]
        return out


@dataclass(frozen=True, slots=True)
class NetworkSizes:
    """Of both networks."""

    d_model: int = 64
    n_layer: int = 4
    d_state: int = 64
    head_dim: int = 32
    attention: int = 512  # steps that the transformer's queries see in each layer


def squared_error(contender: Contender, task: Task) -> float:
    """Mean over the judged targets, in their units: 1 for persistence on the training part."""
    errors = []
    for piece, moved in zip(task.pieces, contender.moves(task), strict=True):
        error = (moved - task.targets(piece))[WARMUP:] ** 2
        errors.append(error[~np.isnan(error)])
    return float(np.concatenate(errors).mean())


def build(name: str, sizes: NetworkSizes, task: Task, device: torch.device) -> nn.Module:
    """The network called `name`: mamba1, mamba2 or transformer."""
    shared = {"d_input": task.d_input, "n_channels": task.n_targets, "d_model": sizes.d_model, "n_layer": sizes.n_layer}
    if name == "transformer":
        return TransformerNetwork(TransformerConfig(**shared, window=min(sizes.attention, task.context))).to(device)
    if name not in BLOCKS:
        raise ValueError(f"networks are {', '.join((*BLOCKS, 'transformer'))}, got {name!r}")
    config = MambaConfig(**shared, d_state=sizes.d_state, head_dim=sizes.head_dim, block=name)
    return MambaForecast(config, device).to(device)


def trained(
    name: str, sizes: NetworkSizes, train: Task, validation: Task, training: TrainingConfig, device: torch.device
) -> tuple[NetworkForecast, list[dict[str, float]]]:
    """A network after `training`: the averaged weights that were best on validation, and what was measured on the way."""
    torch.manual_seed(training.seed)
    # The Mamba network makes its own products bf16 on CUDA; torch's autocast would round its heads too.
    config = NeuralConfig(training, precision="bf16" if name == "transformer" else "tf32")
    network = build(name, sizes, train, device)
    forecast = NetworkForecast(network, config, device)

    def loss(output: NetworkOutput, batch: Batch, _: bool) -> Tensor:
        return masked_mean((output.forecast_mean - batch.z).square(), batch.present)

    figure = Figure("validation_error", lambda _: -squared_error(forecast, validation))
    sampler = WindowSampler(train, training.batch, training.seed, device)
    return forecast, train_stateful(network, sampler, loss, figure, config, device)
