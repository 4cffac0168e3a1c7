"""A two-layer LSTM over the product's inputs (Hochreiter & Schmidhuber 1997). It knows elapsed time only as an input."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kernels import NetworkOutput

BASE_RATE = 0.003  # of positive instants: where the risk head starts (Lin et al. 2017, section 3.3)


@dataclass(frozen=True, slots=True)
class LstmConfig:
    """Sizes; about 0.82 M parameters with nine channels."""

    d_input: int
    n_channels: int
    d_hidden: int = 256
    n_layer: int = 2


class Heads(nn.Module):
    """Risk and forecast on every step, as the product's network has them."""

    def __init__(self, d_model: int, n_channels: int) -> None:
        super().__init__()
        self.risk = nn.Linear(d_model, 1)
        self.forecast = nn.Linear(d_model, 2 * n_channels)
        nn.init.constant_(self.risk.bias, math.log(BASE_RATE / (1.0 - BASE_RATE)))

    def forward(self, x: Tensor) -> NetworkOutput:
        """Outputs of (lanes, length, d_model), in fp32 also under autocast: half a logit's digits would be ties."""
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            mean, log_scale = self.forecast(x).chunk(2, dim=-1)
            return NetworkOutput(self.risk(x).squeeze(-1), mean, log_scale)


def with_log_ratio(inputs: Tensor, ratio: Tensor) -> Tensor:
    """(lanes, length, d_input + 1): the inputs and the logarithm of elapsed over nominal time."""
    return torch.cat((inputs, torch.log(ratio).unsqueeze(-1)), dim=-1)


class LstmNetwork(nn.Module):
    """The LSTM with its heads; the state is carried from segment to segment."""

    def __init__(self, config: LstmConfig) -> None:
        super().__init__()
        self.config = config
        self.lstm = nn.LSTM(config.d_input + 1, config.d_hidden, config.n_layer, batch_first=True)
        self.heads = Heads(config.d_hidden, config.n_channels)
        with torch.no_grad():  # remember by default (Jozefowicz et al. 2015): the forget gate is the second quarter
            for name, bias in self.lstm.named_parameters():
                if name.startswith("bias_ih"):
                    bias[config.d_hidden : 2 * config.d_hidden].fill_(2.0)

    def initial_state(self, lanes: int, device: torch.device) -> tuple[Tensor, ...]:
        """Zeros: (lanes, n_layer, d_hidden) for h and c. Zero is the state before the first sample."""
        shape = (lanes, self.config.n_layer, self.config.d_hidden)
        return torch.zeros(shape, device=device), torch.zeros(shape, device=device)

    def forward(
        self, inputs: Tensor, ratio: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[NetworkOutput, tuple[Tensor, ...]]:
        """Outputs at every step of (lanes, length, d_input) segments that continue from `state`, and the next state."""
        h, c = (s.transpose(0, 1).contiguous() for s in state)
        x, (h, c) = self.lstm(with_log_ratio(inputs, ratio), (h, c))
        return self.heads(x), (h.transpose(0, 1), c.transpose(0, 1))
