"""The network as a torch module, for training; its tensors are handed to `kernels`, which hold the maths."""

import math

import torch
from torch import Tensor, nn

from kernels import (
    CHUNKED,
    BlockWeights,
    Mamba2Weights,
    MambaConfig,
    NetworkOutput,
    NetworkWeights,
    ScanForms,
    network_scan,
    residual_scan,
    rms_norm,
)

# Initial step sizes spread over memories of 10 samples to 25,000 (35 h): a van's yesterday matters here.
DT_MIN, DT_MAX = 4e-5, 0.1


def initial_dt_bias(dt: Tensor) -> Tensor:
    """What softplus turns into these step sizes: the inverse of softplus is x + log(1 - exp(-x))."""
    return dt + torch.log(-torch.expm1(-dt))


class Mamba(nn.Module):
    """The parameters of one Mamba-1 block, with the names and shapes of `mamba_ssm.Mamba` and, but for dt, its initial values."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        d_inner = config.d_inner
        self.in_proj = nn.Linear(config.d_model, 2 * d_inner, bias=False)
        self.conv1d = nn.Conv1d(d_inner, d_inner, config.d_conv, groups=d_inner, padding=config.d_conv - 1)
        self.x_proj = nn.Linear(d_inner, config.dt_rank + 2 * config.d_state, bias=False)
        self.dt_proj = nn.Linear(config.dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.arange(1, config.d_state + 1).float().log().repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out_proj = nn.Linear(d_inner, config.d_model, bias=False)

        bound = config.dt_rank**-0.5
        nn.init.uniform_(self.dt_proj.weight, -bound, bound)
        # softplus(bias) is log-uniform in [DT_MIN, DT_MAX].
        dt = torch.exp(torch.rand(d_inner) * (math.log(DT_MAX) - math.log(DT_MIN)) + math.log(DT_MIN))
        with torch.no_grad():
            self.dt_proj.bias.copy_(initial_dt_bias(dt))
            self.out_proj.weight.div_(math.sqrt(config.n_layer))  # GPT-2's scaling of residual branches


class Mamba2(nn.Module):
    """The parameters of one Mamba-2 block, with the names and shapes of `mamba_ssm.Mamba2`.

    Its initial values too, but for the memories: a layer has few heads, so theirs are spaced evenly on a logarithmic
    scale instead of drawn. A head's memory is 1 / (dt * A) samples; A starts at one.
    """

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        d_inner, width, n_heads = config.d_inner, config.conv_width, config.n_heads
        self.in_proj = nn.Linear(config.d_model, d_inner + width + n_heads, bias=False)
        self.conv1d = nn.Conv1d(width, width, config.d_conv, groups=width, padding=config.d_conv - 1)
        middles = (torch.arange(n_heads) + 0.5) / n_heads
        dt = torch.exp(middles * (math.log(DT_MAX) - math.log(DT_MIN)) + math.log(DT_MIN))
        self.dt_bias = nn.Parameter(initial_dt_bias(dt))
        self.A_log = nn.Parameter(torch.zeros(n_heads))
        self.D = nn.Parameter(torch.ones(n_heads))
        self.norm = nn.RMSNorm(d_inner, eps=config.norm_eps)
        self.out_proj = nn.Linear(d_inner, config.d_model, bias=False)
        with torch.no_grad():
            self.out_proj.weight.div_(math.sqrt(config.n_layer))  # GPT-2's scaling of residual branches


class Block(nn.Module):
    """Pre-norm residual block."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.mixer = Mamba2(config) if config.block == "mamba2" else Mamba(config)


class RiskNetwork(nn.Module):
    """Embedding, residual Mamba blocks, and the risk and forecast heads on every timestep."""

    def __init__(self, config: MambaConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Linear(config.d_input, config.d_model)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm_f = nn.RMSNorm(config.d_model, eps=config.norm_eps)
        self.risk_head = nn.Linear(config.d_model, 1)
        self.forecast_head = nn.Linear(config.d_model, 2 * config.n_channels)
        nn.init.constant_(self.risk_head.bias, math.log(0.003 / 0.997))  # the base rate: Lin et al. 2017, section 3.3

    def weights(self) -> NetworkWeights:
        """The parameters as the kernels take them; shares memory and gradients with this module."""
        return NetworkWeights(
            embedding=self.embedding.weight,
            embedding_bias=self.embedding.bias,
            blocks=tuple(block_weights(block) for block in self.layers),
            norm_f=self.norm_f.weight,
            risk_head=self.risk_head.weight,
            risk_head_bias=self.risk_head.bias,
            forecast_head=self.forecast_head.weight,
            forecast_head_bias=self.forecast_head.bias,
        )

    def forward(self, features: Tensor, ratio: Tensor, scan: ScanForms = CHUNKED) -> NetworkOutput:
        """Outputs at every step of (batch, length, d_input) sequences that start from zero."""
        output, _ = network_scan(self.config, self.weights(), features, ratio, scan=scan)
        return output

    def hidden(self, features: Tensor, ratio: Tensor, scan: ScanForms = CHUNKED) -> Tensor:
        """What both heads read (batch, length, d_model), for the same sequences."""
        x, _ = residual_scan(self.config, self.weights(), features, ratio, None, scan)
        return rms_norm(x, self.norm_f.weight, self.config.norm_eps)


def block_weights(block: nn.Module) -> BlockWeights | Mamba2Weights:
    """One block's parameters under the kernels' names."""
    tensors = dict(block.named_parameters())
    if "mixer.dt_bias" in tensors:
        return Mamba2Weights(
            norm=tensors["norm.weight"],
            in_proj=tensors["mixer.in_proj.weight"],
            conv1d=tensors["mixer.conv1d.weight"],
            conv1d_bias=tensors["mixer.conv1d.bias"],
            dt_bias=tensors["mixer.dt_bias"],
            A_log=tensors["mixer.A_log"],
            D=tensors["mixer.D"],
            gated_norm=tensors["mixer.norm.weight"],
            out_proj=tensors["mixer.out_proj.weight"],
        )
    return BlockWeights(
        norm=tensors["norm.weight"],
        in_proj=tensors["mixer.in_proj.weight"],
        conv1d=tensors["mixer.conv1d.weight"],
        conv1d_bias=tensors["mixer.conv1d.bias"],
        x_proj=tensors["mixer.x_proj.weight"],
        dt_proj=tensors["mixer.dt_proj.weight"],
        dt_proj_bias=tensors["mixer.dt_proj.bias"],
        A_log=tensors["mixer.A_log"],
        D=tensors["mixer.D"],
        out_proj=tensors["mixer.out_proj.weight"],
    )
