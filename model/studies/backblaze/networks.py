"""The three networks, each with a risk (fails within a week) and a number (days left) on every day."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels import MambaConfig, NetworkOutput, RecurrentState, training_forward
from model.baselines.lstm import LstmConfig, LstmNetwork
from model.baselines.transformer import TransformerConfig, TransformerNetwork
from model.network import RiskNetwork
from model.studies.backblaze.config import BackblazeConfig

NETWORKS = ("mamba", "lstm", "transformer")
WEEK = 7  # days that the convolution sees
DAY_S = 86_400.0


class ConvMambaNetwork(nn.Module):
    """A causal convolution over a week, then the product's network; the state is carried from segment to segment."""

    def __init__(self, d_input: int, config: MambaConfig, device: torch.device) -> None:
        super().__init__()
        self.config = config
        self.conv1d = nn.Conv1d(d_input, config.d_input, WEEK)
        self.network = RiskNetwork(config)
        self._forward = training_forward(device, torch.float32)

    def initial_state(self, lanes: int, device: torch.device) -> tuple[Tensor, ...]:
        """Zeros with the lanes first: the last days of the input, conv and ssm states."""
        shapes = ((self.conv1d.in_channels, WEEK - 1), self.config.conv_state_shape, self.config.ssm_state_shape)
        past, conv, ssm = (torch.zeros((lanes, *shape), device=device) for shape in shapes)
        return past, conv, ssm

    def forward(
        self, inputs: Tensor, ratio: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[NetworkOutput, tuple[Tensor, ...]]:
        """Outputs at every step of (lanes, length, d_input) segments that continue from `state`, and the next state."""
        past, conv, ssm = state
        days = torch.cat((past, inputs.transpose(1, 2)), dim=2)
        x = F.silu(self.conv1d(days)).transpose(1, 2)
        output, last = self._forward(self.config, self.network.weights(), x, ratio, RecurrentState(conv, ssm))
        return output, (days[:, :, 1 - WEEK :], last.conv, last.ssm)


def make_network(name: str, d_input: int, config: BackblazeConfig, device: torch.device) -> nn.Module:
    """One of NETWORKS with fresh weights from the configuration's seed."""
    torch.manual_seed(config.seed)
    if name == "mamba":
        sizes = MambaConfig(
            d_input=config.d_model, n_channels=1, d_model=config.d_model, n_layer=config.n_layer,
            d_state=config.d_state, nominal_interval_s=DAY_S,
        )  # fmt: skip
        return ConvMambaNetwork(d_input, sizes, device)
    if name == "lstm":
        return LstmNetwork(LstmConfig(d_input, 1, d_hidden=2 * config.d_model, n_layer=config.n_layer))
    return TransformerNetwork(
        TransformerConfig(d_input, 1, d_model=config.d_model, n_layer=config.n_layer, window=config.window)
    )
