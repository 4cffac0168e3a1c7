"""A six-layer transformer with causal attention to the last 512 samples in every layer.

Pre-norm blocks with rotary positions (Su et al. 2021). Attention is computed in chunks of one window: the queries of a
chunk see their own and the previous chunk through a banded mask (as in Longformer, Beltagy et al. 2020). Keys and values
of the last window are carried from segment to segment (Transformer-XL, Dai et al. 2019), so a trace can be scored piece
by piece. It knows elapsed time only as an input.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import NetworkOutput
from model.baselines.lstm import Heads, with_log_ratio

ROTARY_BASE = 10_000.0


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Sizes; about 1.2 M parameters."""

    d_input: int
    n_channels: int
    d_model: int = 128
    n_layer: int = 6
    n_head: int = 4
    window: int = 512  # samples that a query sees, itself included

    @property
    def d_head(self) -> int:
        """Width of one head."""
        return self.d_model // self.n_head


def rotated(x: Tensor, first: int) -> Tensor:
    """Rotary embedding of (lanes, n_head, length, d_head) at positions `first`, `first` + 1, ..."""
    half = x.shape[-1] // 2
    frequency = ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = torch.arange(first, first + x.shape[-2], device=x.device, dtype=torch.float32)[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half:]
    return torch.cat((a * cos - b * sin, a * sin + b * cos), dim=-1)


def banded_attention(q: Tensor, k: Tensor, v: Tensor, filled: Tensor, window: int) -> Tensor:
    """Causal attention to the last `window` positions.

    Args:
        q: (lanes, n_head, length, d_head).
        k: (lanes, n_head, window + length, d_head): the carried window before the segment's own.
        v: as k.
        filled: (lanes,) how many of the carried positions, counted from the last, hold anything.
        window: positions that a query sees, itself included.

    Returns:
        (lanes, n_head, length, d_head).
    """
    lanes, n_head, length, d_head = q.shape
    n_chunks = -(-length // window)
    padding = n_chunks * window - length
    q, k, v = (F.pad(x, (0, 0, 0, padding)) for x in (q, k, v))
    queries = q.view(lanes, n_head, n_chunks, window, d_head).transpose(1, 2)
    keys, values = (x.unfold(2, 2 * window, window).permute(0, 2, 1, 4, 3) for x in (k, v))
    place = torch.arange(2 * window, device=q.device)
    ahead = place[None, :] - place[:window, None]
    band = (ahead > 0) & (ahead <= window)  # query i stands at window + i
    known = place[None, :] >= window - filled[:, None]
    first = F.scaled_dot_product_attention(
        queries[:, 0], keys[:, 0], values[:, 0], attn_mask=band & known[:, None, None, :]
    )
    parts = [first.unsqueeze(1)]
    if n_chunks > 1:
        q, k, v = (x[:, 1:].reshape(lanes * (n_chunks - 1), n_head, -1, d_head) for x in (queries, keys, values))
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=band)
        parts.append(attended.view(lanes, n_chunks - 1, n_head, window, d_head))
    out = torch.cat(parts, dim=1).transpose(1, 2).reshape(lanes, n_head, n_chunks * window, d_head)
    return out[:, :, :length]


class Layer(nn.Module):
    """Pre-norm attention and feed-forward."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.norm_attention = nn.RMSNorm(config.d_model)
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)
        self.norm_feed = nn.RMSNorm(config.d_model)
        self.up = nn.Linear(config.d_model, 4 * config.d_model)
        self.down = nn.Linear(4 * config.d_model, config.d_model)
        with torch.no_grad():  # GPT-2's scaling of residual branches
            for branch in (self.out, self.down):
                branch.weight.div_((2.0 * config.n_layer) ** 0.5)

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, filled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The layer's output, and keys and values (lanes, n_head, window, d_head) to carry on, not yet rotated."""
        lanes, length, d_model = x.shape
        window = self.config.window
        qkv = self.qkv(self.norm_attention(x)).view(lanes, length, 3, self.config.n_head, self.config.d_head)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        k, v = torch.cat((keys.to(k.dtype), k), dim=2), torch.cat((values.to(v.dtype), v), dim=2)
        attended = banded_attention(rotated(q, window), rotated(k, 0), v, filled, window)
        x = x + self.out(attended.transpose(1, 2).reshape(lanes, length, d_model))
        x = x + self.down(F.gelu(self.up(self.norm_feed(x))))
        return x, k[:, :, -window:], v[:, :, -window:]


class TransformerNetwork(nn.Module):
    """Embedding, layers and heads; the state holds the last window's keys and values of every layer."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Linear(config.d_input + 1, config.d_model)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.n_layer))
        self.norm = nn.RMSNorm(config.d_model)
        self.heads = Heads(config.d_model, config.n_channels)

    def initial_state(self, lanes: int, device: torch.device) -> tuple[Tensor, ...]:
        """Zeros: keys and values (lanes, n_layer, n_head, window, d_head) and how many are filled (lanes,)."""
        c = self.config
        shape = (lanes, c.n_layer, c.n_head, c.window, c.d_head)
        filled = torch.zeros(lanes, dtype=torch.int64, device=device)
        return torch.zeros(shape, device=device), torch.zeros(shape, device=device), filled

    def forward(
        self, inputs: Tensor, ratio: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[NetworkOutput, tuple[Tensor, ...]]:
        """Outputs at every step of (lanes, length, d_input) segments that continue from `state`, and the next state."""
        keys, values, filled = state
        x = self.embedding(with_log_ratio(inputs, ratio)).float()  # the residual stream is fp32 under autocast
        new_keys, new_values = [], []
        for i, layer in enumerate(self.layers):
            x, k, v = layer(x, keys[:, i], values[:, i], filled)
            new_keys.append(k)
            new_values.append(v)
        filled = (filled + inputs.shape[1]).clamp(max=self.config.window)
        return self.heads(self.norm(x)), (torch.stack(new_keys, 1), torch.stack(new_values, 1), filled)
