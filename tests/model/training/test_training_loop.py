"""The loop: losses, schedule, lanes, several processes, early stopping, and a resume that changes nothing."""

import math
from dataclasses import replace
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from scipy import stats
from torch import Tensor

from kernels import MambaConfig, NetworkOutput, NetworkWeights, RecurrentState, network_scan
from kernels.training import forward_chunked
from model.channels import VAN_SCHEMA
from model.dataset import Sequences
from model.network import RiskNetwork
from model.training import Ranks, Trainer, TrainingConfig, TrainingDivergedError
from model.training.loop import Progress, Scalars, learning_rate, parameter_groups
from model.training.losses import focal_loss, forecast_nats, masked_mean
from model.training.sampler import Sampler

N = len(VAN_SCHEMA.channels)
SIZES = MambaConfig(d_input=VAN_SCHEMA.d_input, n_channels=N, d_model=8, n_layer=2, d_state=4, dt_rank=2)
TINY = TrainingConfig(
    length=24, batch=2, pretrain_steps=3, finetune_steps=5, warmup_steps=2, warmup_samples=4, validate_every=4,
    save_every=4, average_decay=0.9,
)  # fmt: skip
CPU = torch.device("cpu")


def sequences(vans: int, length: int, seed: int = 0, lengths: list[int] | None = None) -> Sequences:
    """Random features with events in every other van."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(vans, length, VAN_SCHEMA.d_input)).astype(np.float32)
    inputs[..., N : 2 * N] = rng.random((vans, length, N)) < 0.9
    label = np.zeros((vans, length), np.bool_)
    label[::2, length // 2 : length // 2 + 12] = True  # wide enough for a sparse AUROC
    n = np.array(lengths or [length] * vans)
    inside = np.arange(length) < n[:, None]
    return Sequences(
        inputs=np.where(inside[..., None], inputs, 0).astype(np.float32),
        ratio=np.where(inside, rng.uniform(0.5, 3.0, (vans, length)), 1.0).astype(np.float32),
        label=label & inside,
        valid=inside,
        ts_ms=np.tile(np.arange(length) * 5_000, (vans, 1)),
        lengths=n,
        vehicle_ids=tuple(f"van-{i}" for i in range(vans)),
        faults=("",) * vans,
        events_ms=(np.zeros(0, np.int64),) * vans,
    )


def trainer(folder: Path, config: TrainingConfig = TINY, kind: type[Trainer] = Trainer) -> Trainer:
    """A trainer of the tiny network; the same every time."""
    torch.manual_seed(3)
    return kind(RiskNetwork(SIZES), VAN_SCHEMA, sequences(4, 80), sequences(2, 60, seed=1), config, Ranks(CPU), folder)


def everything(of: Trainer) -> dict[str, Tensor]:
    """Weights, averages, best weights and the optimiser's moments."""
    moments = of._optimiser.state_dict()["state"]
    return {
        **{f"weight {name}": p for name, p in of.network.state_dict().items()},
        **{f"average {name}": p for name, p in of._average.items()},
        **{f"best {name}": p for name, p in of._best.items()},
        **{f"{name} {i}": p for i, moment in moments.items() for name, p in moment.items()},
    }


class Interrupted(Exception):
    """The machine went away."""


class KilledAfterSaving(Trainer):
    """A trainer that dies when it has saved for the first time."""

    def save(self) -> None:
        """Save, then die."""
        super().save()
        raise Interrupted


def test_a_resumed_run_equals_one_that_was_never_interrupted(tmp_path: Path) -> None:
    """Killed after step 4 and resumed, a run of 8 has the weights, averages and moments of one that ran through."""
    whole = trainer(tmp_path / "whole")
    best = whole.run()
    with pytest.raises(Interrupted):
        trainer(tmp_path / "parts", kind=KilledAfterSaving).run()
    again = trainer(tmp_path / "parts")
    again.resume()
    assert again.progress.step == 4
    resumed_best = again.run()
    assert again.progress == whole.progress
    assert again.progress.step == 8
    assert {"average embedding.weight", "exp_avg 0", "exp_avg_sq 0", "step 0"} <= set(everything(whole))
    for name, value in everything(whole).items():
        assert torch.equal(value, everything(again)[name]), name
    for name, value in best.items():
        assert torch.equal(value, resumed_best[name]), name
    untrained = trainer(tmp_path / "untrained").network.state_dict()
    assert not torch.equal(best["embedding.weight"], untrained["embedding.weight"])


def test_a_run_of_other_settings_does_not_resume(tmp_path: Path) -> None:
    """The settings that differ are named."""
    first = trainer(tmp_path)
    first.save()
    with pytest.raises(ValueError, match="differ: learning_rate"):
        trainer(tmp_path, replace(TINY, learning_rate=1e-4)).resume()
    with pytest.raises(FileNotFoundError):
        trainer(tmp_path / "elsewhere").resume()


def test_a_diverged_gradient_ends_the_run_and_spares_the_point_to_resume_from(tmp_path: Path) -> None:
    """Infinite weights raise with the step, and what was saved before stays as it was."""
    run = trainer(tmp_path)
    run.save()
    saved = (tmp_path / "resume-0.pt").read_bytes()
    with torch.no_grad():
        run.network.embedding.weight.fill_(math.inf)
    with pytest.raises(TrainingDivergedError, match="not finite in step 4"):
        run.run()
    assert (tmp_path / "resume-0.pt").read_bytes() == saved


def test_early_stopping_stops_and_keeps_the_best(tmp_path: Path) -> None:
    """After `patience` validations without a better risk the run ends, with the weights of the best one."""
    risks = iter([9.0, 0.5, 0.3, 0.4, 0.35, 0.2])

    class Scripted(Trainer):
        """A trainer whose validations go as we say."""

        def judge(self, weights: dict[str, Tensor]) -> Scalars:
            """The next figure."""
            del weights
            return {"validation_risk": next(risks)}

    config = replace(TINY, pretrain_steps=2, finetune_steps=20, validate_every=2, patience=2)
    run = trainer(tmp_path, config, Scripted)
    seen: dict[int, Tensor] = {}

    def remember(progress: Progress, scalars: Scalars) -> None:
        del scalars
        seen[progress.step] = run._average["embedding.weight"].clone()

    best = run.run(remember)
    assert run.progress.step == 10
    assert (run.progress.best_risk, run.progress.best_step, run.progress.since_best) == (0.3, 6, 2)
    assert torch.equal(best["embedding.weight"], seen[6])
    assert next(risks) == 0.2


def test_validation_risk_is_the_mean_loss_over_whole_histories(tmp_path: Path) -> None:
    """Window by window, with padding and warm-up left out, the figures are those of one long scan of each van."""
    run = trainer(tmp_path)
    data = sequences(3, 60, seed=5, lengths=[60, 31, 7])
    run._validation = data
    weights = run._average
    figures = run.judge(weights)
    risk, nats = [], []
    for van, n in enumerate(data.lengths):
        inputs, ratio = (
            torch.from_numpy(data.inputs[van : van + 1, :n]),
            torch.from_numpy(data.ratio[van : van + 1, :n]),
        )
        with torch.no_grad():
            output, _ = network_scan(SIZES, run.network.weights(), inputs, ratio)
        label = torch.from_numpy(data.label[van : van + 1, :n]).float()
        risk.append(focal_loss(output.risk_logit, label, 2.0)[0, TINY.warmup_samples :])
        # The forecast across a window's edge is not scored: its two halves lie in different windows.
        edges = np.arange(1, n) % TINY.length != 0
        present = data.inputs[van, 1:n, N : 2 * N].astype(bool) & edges[:, None]
        nats.append(forecast_nats(output, inputs[..., :N])[0][torch.from_numpy(present)])
    assert figures["validation_risk"] == pytest.approx(float(torch.cat(risk).mean()), rel=1e-5)
    assert figures["validation_forecast"] == pytest.approx(float(torch.cat(nats).mean()), rel=1e-5)
    assert 0.0 <= figures["validation_auroc"] <= 1.0


def test_the_schedule_warms_up_and_then_falls_to_a_fiftieth() -> None:
    """The rate rises in a line over the warm-up, never rises after it, and ends near 2 % of its height."""
    config = TrainingConfig(pretrain_steps=100, finetune_steps=900, warmup_steps=50, learning_rate=1e-3)
    rates = [learning_rate(config, step) for step in range(config.total_steps)]
    assert rates[0] == pytest.approx(1e-3 / 50)
    assert rates[24] == pytest.approx(0.5e-3, rel=0.01)
    assert max(rates) == pytest.approx(1e-3, rel=0.02)
    assert rates.index(max(rates)) == pytest.approx(49, abs=1)
    assert all(a >= b for a, b in pairwise(rates[50:]))
    assert rates[-1] == pytest.approx(0.02e-3, rel=0.01)


def test_only_matrices_decay() -> None:
    """Every parameter is in one group; A_log, D, biases, norms, convolutions and dt are not pulled to zero."""
    network = RiskNetwork(SIZES)
    names = {id(p): name for name, p in network.named_parameters()}
    decayed, kept = ({names[id(p)] for p in group["params"]} for group in parameter_groups(network, TINY))
    assert decayed | kept == set(names.values())
    assert not decayed & kept
    assert {name.removeprefix("layers.0.mixer.") for name in decayed if "layers.0" in name} == {
        "in_proj.weight", "x_proj.weight", "out_proj.weight",
    }  # fmt: skip
    assert {"embedding.weight", "risk_head.weight", "forecast_head.weight"} <= decayed


@pytest.mark.parametrize("alpha", [None, 0.25])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.0, 5.0])
def test_focal_loss_is_its_definition(gamma: float, alpha: float | None) -> None:
    """Per instant -alpha_t (1 - p_t)^gamma log(p_t) in float64, with its gradient; gamma 0 is the cross-entropy."""
    logit = torch.linspace(-12, 12, 49, dtype=torch.float64).repeat(2, 1).requires_grad_()
    label = torch.tensor([[0.0], [1.0]], dtype=torch.float64).expand(2, 49)
    loss = focal_loss(logit, label, gamma, alpha)
    p = 1.0 / (1.0 + np.exp(-logit.detach().numpy()))
    p_t = np.where(label.numpy() > 0.5, p, 1.0 - p)
    alpha_t = 1.0 if alpha is None else np.where(label.numpy() > 0.5, alpha, 1.0 - alpha)
    np.testing.assert_allclose(loss.detach().numpy(), -alpha_t * (1.0 - p_t) ** gamma * np.log(p_t), rtol=1e-9)
    if gamma == 0.0 and alpha is None:
        entropy = torch.nn.functional.binary_cross_entropy(torch.from_numpy(p), label, reduction="none")
        np.testing.assert_allclose(loss.detach().numpy(), entropy.numpy(), rtol=1e-9)
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, label, gamma, alpha), (logit,))


def test_forecast_nats_are_the_laplace_likelihood_of_the_next_sample() -> None:
    """Entry t is -log Laplace(z[t + 1]; mean[t], scale[t]) as scipy has it."""
    rng = np.random.default_rng(4)
    z, mean, log_scale = (torch.from_numpy(rng.normal(size=(2, 9, 3))) for _ in range(3))
    nats = forecast_nats(NetworkOutput(torch.zeros(2, 9), mean, log_scale), z)
    expected = -stats.laplace.logpdf(z[:, 1:].numpy(), mean[:, :-1].numpy(), np.exp(log_scale[:, :-1].numpy()))
    np.testing.assert_allclose(nats.numpy(), expected, rtol=1e-12)
    assert masked_mean(nats, torch.zeros_like(nats)) == 0.0


def test_a_lane_goes_on_from_the_state_of_its_last_window(tmp_path: Path) -> None:
    """Window after window of one van gives what one long scan gives; another van starts from zero."""
    calls: list[tuple[Tensor, Tensor, RecurrentState | None, NetworkOutput]] = []

    def spying(
        config: MambaConfig, weights: NetworkWeights, features: Tensor, ratio: Tensor, state: RecurrentState | None
    ) -> tuple[NetworkOutput, RecurrentState]:
        output, after = forward_chunked(config, weights, features, ratio, state)
        calls.append((features, ratio, state, output))
        return output, after

    config = replace(TINY, learning_rate=0.0, batch=1)
    run = trainer(tmp_path, config)
    run._forward = spying
    run._sampler._next[:] = 0  # the first van from its first sample
    for _ in range(3):
        run._step()
    assert run._sampler._next[0] == 3 * TINY.length
    inputs, ratio = torch.cat([call[0] for call in calls], dim=1), torch.cat([call[1] for call in calls], dim=1)
    whole, _ = network_scan(SIZES, run.network.weights(), inputs, ratio)
    risk = torch.cat([call[3].risk_logit for call in calls], dim=1)
    torch.testing.assert_close(risk, whole.risk_logit, rtol=1e-4, atol=1e-5)
    broken, _ = network_scan(SIZES, run.network.weights(), calls[1][0], calls[1][1])
    assert not torch.allclose(broken.risk_logit, calls[1][3].risk_logit, rtol=1e-3)
    run._step()  # 80 samples hold three windows of 24: the next one is another van's
    state = calls[3][2]
    assert state is not None
    assert not state.ssm.any()
    assert not state.conv.any()


def test_dropout_hides_channels_from_the_inputs_and_leaves_the_targets() -> None:
    """With dropout 1 for optional channels and 0 for core ones, exactly the optional ones vanish from the inputs."""
    config = replace(TINY, channel_dropout=1.0, core_dropout=0.0, core_only_share=0.0, sparse_share=0.0)
    data = sequences(4, 80)
    batch = Sampler(VAN_SCHEMA, data, config, CPU).draw()
    plain = Sampler(VAN_SCHEMA, data, replace(config, channel_dropout=0.0), CPU).draw()
    optional = torch.tensor([not channel.core for channel in VAN_SCHEMA.channels])
    for part in (batch.inputs[..., :N], batch.inputs[..., N : 2 * N]):
        assert not part[..., optional].any()
        assert part[..., ~optional].any()
    core = torch.cat((~optional, ~optional, torch.ones(4, dtype=torch.bool)))
    assert torch.equal(batch.inputs[..., core], plain.inputs[..., core])
    for name in ("z", "present", "label", "counted", "ratio"):
        assert torch.equal(getattr(batch, name), getattr(plain, name)), name
    assert torch.equal(plain.inputs[..., :N], plain.z)


def test_lanes_lose_channels_together_as_often_as_asked_and_never_all() -> None:
    """A quarter of the lanes sees core channels only, a tenth a random half, none nothing."""
    config = replace(TINY, batch=1, channel_dropout=0.0, core_dropout=0.0, core_only_share=0.25, sparse_share=0.1)
    sampler = Sampler(VAN_SCHEMA, sequences(2, 80), config, CPU)
    hidden = np.array([sampler._hide() for _ in range(4_000)])
    core = np.array([channel.core for channel in VAN_SCHEMA.channels])
    core_only = (hidden == ~core).all(axis=1)
    assert 0.22 < core_only.mean() < 0.28
    assert 0.08 < hidden[:, core].any(axis=1).mean() < 0.12
    assert 0.55 < (~hidden).all(axis=1).mean() < 0.75
    assert not hidden.all(axis=1).any()


def test_the_sampler_never_shows_two_vans_in_one_window() -> None:
    """Every window is a stretch of one van's history, on which the lane goes on until the history ends."""
    data = sequences(5, 80, lengths=[80, 70, 50, 24, 10])
    sampler = Sampler(
        VAN_SCHEMA,
        data,
        replace(TINY, channel_dropout=0.0, core_dropout=0.0, core_only_share=0.0, sparse_share=0.0),
        CPU,
    )
    followed = 0
    for _ in range(40):
        before, vans = sampler._next.copy(), sampler._vans.copy()
        batch = sampler.draw()
        for lane, van in enumerate(sampler._vans):
            start = int(sampler._next[lane]) - TINY.length
            window = data.inputs[van, start : start + TINY.length]
            np.testing.assert_array_equal(batch.inputs[lane].numpy(), window)
            if not batch.fresh[lane]:
                assert (van, start) == (vans[lane], before[lane])
                followed += 1
            else:
                assert not batch.counted[lane, : TINY.warmup_samples].any()
    assert followed > 10


def halves(features: Tensor, label: Tensor, part: slice) -> list[Tensor]:
    """Gradients of the training loss on a part of the batch."""
    torch.manual_seed(0)
    network = RiskNetwork(SIZES)
    output, _ = forward_chunked(SIZES, network.weights(), features[part], torch.ones(features[part].shape[:2]), None)
    risk = masked_mean(focal_loss(output.risk_logit, label[part], 2.0), torch.ones_like(label[part]))
    forecast = masked_mean(forecast_nats(output, features[part][..., :N]), torch.ones(len(label[part]), 19, N))
    (risk + forecast).backward()
    Ranks(CPU).average_gradients(network.parameters())
    return [p.grad for p in network.parameters() if p.grad is not None]


def one_of_two(index: int, folder: str, features: Tensor, label: Tensor) -> None:
    """What each process of a run of two does."""
    import os  # noqa: PLC0415

    os.environ.update(WORLD_SIZE="2", RANK=str(index), LOCAL_RANK=str(index))
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=index, world_size=2)
    ranks = Ranks(CPU)
    gradients = halves(features, label, slice(2 * index, 2 * index + 2))
    said = ranks.from_first(lambda: f"from {index}")
    torch.save((gradients, said, list(ranks.share(5)), ranks.sum(torch.ones(1))), f"{folder}/{index}.pt")
    ranks.close()


def test_two_processes_have_the_gradients_of_one_with_twice_the_batch(tmp_path: Path) -> None:
    """Averaged over two gloo processes of two sequences, gradients equal those of four; shares and sums fit."""
    torch.manual_seed(1)
    features, label = torch.randn(4, 20, SIZES.d_input), (torch.rand(4, 20) < 0.3).float()
    context = get_context("spawn")
    both = [context.Process(target=one_of_two, args=(index, str(tmp_path), features, label)) for index in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(timeout=120)
    assert [process.exitcode for process in both] == [0, 0]
    alone = halves(features, label, slice(0, 4))
    shares = []
    for index in range(2):
        gradients, said, share, total = torch.load(tmp_path / f"{index}.pt")
        assert len(gradients) == len(alone)
        for ours, theirs in zip(gradients, alone, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
        assert said == "from 0"
        assert total == 2.0
        shares.append(share)
    assert shares == [[0, 2, 4], [1, 3]]
    assert not torch.allclose(halves(features, label, slice(0, 2))[0], alone[0], rtol=1e-2)
