"""The networks' own promises: pieces equal the whole, and chunked attention equals dense attention."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from model.baselines.lstm import LstmConfig, LstmNetwork
from model.baselines.neural import NeuralBaseline
from model.baselines.protocol import BaselineError
from model.baselines.stateful_training import NeuralConfig, carried
from model.baselines.train_neural import main
from model.baselines.transformer import TransformerConfig, TransformerNetwork, banded_attention, rotated
from model.channels import VAN_SCHEMA
from model.checkpoint import load_checkpoint
from model.dataset import build_sequences
from model.normaliser import FleetPrior
from model.preprocess import Preprocessor

from .toy_fleet import ToyFleet

N_CHANNELS = len(VAN_SCHEMA.channels)
PREPROCESSOR = Preprocessor(VAN_SCHEMA, FleetPrior((0.0,) * N_CHANNELS, (10.0,) * N_CHANNELS), 5.0)


def networks() -> list[nn.Module]:
    """Small ones of both kinds."""
    torch.manual_seed(0)
    d_input = VAN_SCHEMA.d_input
    return [
        LstmNetwork(LstmConfig(d_input, N_CHANNELS, d_hidden=12)),
        TransformerNetwork(TransformerConfig(d_input, N_CHANNELS, d_model=16, n_layer=3, n_head=2, window=8)),
    ]


def toy_input(lanes: int, length: int) -> tuple[Tensor, Tensor]:
    """Random inputs and elapsed-time ratios."""
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(lanes, length, VAN_SCHEMA.d_input, generator=generator)
    return inputs, 0.5 + torch.rand(lanes, length, generator=generator)


@pytest.mark.parametrize("pieces", [[40], [1] * 40, [7, 8, 1, 24], [16, 24], [3, 37]])
@pytest.mark.parametrize("network", networks(), ids=["lstm", "transformer"])
def test_pieces_equal_the_whole(network: nn.Module, pieces: list[int]) -> None:
    """A sequence in pieces with the state carried gives what it gives at once."""
    inputs, ratio = toy_input(3, 40)
    whole, _ = network(inputs, ratio, network.initial_state(3, torch.device("cpu")))  # type: ignore[operator]
    state = network.initial_state(3, torch.device("cpu"))  # type: ignore[operator]
    parts = []
    for x, r in zip(inputs.split(pieces, dim=1), ratio.split(pieces, dim=1), strict=True):
        output, state = network(x, r, state)
        parts.append(output)
    for name in ("risk_logit", "forecast_mean", "forecast_log_scale"):
        together = torch.cat([getattr(part, name) for part in parts], dim=1)
        torch.testing.assert_close(together, getattr(whole, name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("length", [1, 8, 13, 32])
def test_chunked_attention_equals_dense_attention(length: int) -> None:
    """With any part of the carried window filled, queries see the last eight positions and nothing else."""
    window, lanes = 8, 3
    generator = torch.Generator().manual_seed(2)
    q = torch.randn(lanes, 2, length, 4, generator=generator)
    k, v = torch.randn(2, lanes, 2, window + length, 4, generator=generator)
    filled = torch.tensor([0, 3, 8])
    query, key = window + torch.arange(length)[:, None], torch.arange(window + length)[None, :]
    seen = (key <= query) & (key > query - window)
    dense = seen[None] & (key[None] >= window - filled[:, None, None])
    expected = F.scaled_dot_product_attention(q, k, v, attn_mask=dense[:, None])
    torch.testing.assert_close(banded_attention(q, k, v, filled, window), expected, rtol=1e-5, atol=1e-6)


def test_rotary_products_depend_on_distance_only() -> None:
    """The product of a query and a key moved by the same number of positions does not change."""
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(3))
    near = (rotated(q, 5) * rotated(k, 2)).sum()
    far = (rotated(q, 905) * rotated(k, 902)).sum()
    torch.testing.assert_close(near, far, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("network", networks(), ids=["lstm", "transformer"])
def test_a_fresh_lane_forgets(network: nn.Module) -> None:
    """`carried` gives fresh lanes the initial state, leaves the others, and cuts the gradient."""
    inputs, ratio = toy_input(2, 9)
    _, state = network(inputs, ratio, network.initial_state(2, torch.device("cpu")))  # type: ignore[operator]
    kept = carried(state, torch.tensor([True, False]))
    for part, old in zip(kept, state, strict=True):
        assert not part[0].any()
        assert torch.equal(part[1], old[1])
        assert not part.requires_grad


def test_the_full_sizes_are_as_documented() -> None:
    """About 0.8 and 1.2 million parameters."""
    sizes = {
        name: sum(p.numel() for p in NeuralBaseline(name, preprocessor=PREPROCESSOR).network.parameters())
        for name in ("lstm", "transformer")
    }
    assert 0.80e6 < sizes["lstm"] < 0.85e6
    assert 1.15e6 < sizes["transformer"] < 1.25e6


def test_an_unknown_precision_is_refused() -> None:
    """The message lists the known ones."""
    with pytest.raises(BaselineError, match="fp32, tf32, bf16"):
        NeuralConfig(precision="fp8")


def test_the_command_trains_from_a_folder(tmp_path: Path) -> None:
    """Sequences on disk become a baseline that loads and scores."""
    preprocessor = load_checkpoint().preprocessor()
    fleet = ToyFleet(4, length=1_200)
    for split in ("train", "validation"):
        build_sequences(fleet, preprocessor, range(4), workers=1, folder=tmp_path / split)
    folders = {"--train": tmp_path / "train", "--validation": tmp_path / "validation", "--out": tmp_path / "out"}
    numbers = {"--batch": 2, "--length": 200, "--validate-every": 1}
    steps = {"--pretrain-steps": 1, "--finetune-steps": 2}
    main(["--name", "lstm", *(str(word) for pair in (folders | numbers | steps).items() for word in pair)])
    loaded = NeuralBaseline.load(tmp_path / "out", torch.device("cpu"))
    (score,) = loaded.score([fleet.trace(0)])
    assert np.isfinite(score).all()
    assert any("validation_auroc" in entry for entry in loaded.history)
