"""The CUDA half of `kernels.bench_blocks`: the step and the training step of either kind of block, in turns.

Goes on after a failure, which it prints on standard error: what fails, or is wrong in its first step, is not timed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial

import torch

from kernels.backend import Backend, TorchBackend, choose_backend
from kernels.bench_step import Contender, Inputs, Row, on_pool, report
from kernels.config import MambaConfig
from kernels.cuda.bench_step import Work, attempt, graphed, microseconds, say
from kernels.cuda.bench_training import loss_of
from kernels.reference import RecurrentState, network_step
from kernels.training import forward_bf16, training_forward
from kernels.weights import NetworkWeights, random_weights

AT = torch.device("cuda")


@dataclass(frozen=True, slots=True)
class Kind:
    """What is timed: a network on a backend."""

    config: MambaConfig
    way: str

    @property
    def name(self) -> str:
        """For the report."""
        return f"{self.config.block}, d_state {self.config.d_state}, {self.way}"


def drawn(config: MambaConfig, batch: int) -> Inputs:
    """`Inputs.draw` on the device."""
    state = RecurrentState(
        torch.randn(batch, *config.conv_state_shape, device=AT), torch.randn(batch, *config.ssm_state_shape, device=AT)
    )
    features = torch.randn(batch, config.d_input, device=AT)
    return Inputs(features, torch.ones(batch, device=AT), state, 1 + torch.randperm(batch, device=AT))


def steps_of(config: MambaConfig, batch: int) -> dict[str, Work]:
    """By name: the step of each backend, checked, as it is called and under a CUDA graph."""
    weights, inputs = random_weights(config), drawn(config, batch)
    exact = RecurrentState(inputs.state.conv.double(), inputs.state.ssm.double())
    at_float64 = weights.to(device=AT, dtype=torch.float64)
    truth, _ = network_step(config, at_float64, inputs.features.double(), inputs.ratio.double(), exact)
    expected = truth.forecast_mean.cpu()

    def torch_backend() -> Backend:
        return TorchBackend("torch", config, weights.to(device=AT, dtype=torch.float32), AT)

    found: dict[str, Work] = {}

    def add(way: str, make: Callable[[], Backend]) -> None:
        one = Contender(Kind(config, way).name, on_pool(make(), inputs, config))
        one.check(expected)
        found[one.name] = one.run
        found[f"{one.name}, graph"] = graphed(one.run)

    attempt("torch", partial(add, "torch", torch_backend))
    attempt("cuda", partial(add, "cuda", lambda: choose_backend("cuda", config, weights)))
    return found


def step_rows(configs: Sequence[MambaConfig], batch: int, rounds: int) -> Iterator[Row]:
    """Microseconds of a step, back to back; the peer is Mamba-1's backend `cuda` under a CUDA graph."""
    with torch.inference_mode():
        works = {name: work for config in configs for name, work in steps_of(config, batch).items()}
        yield from timed(works, Kind(configs[0], "cuda").name + ", graph", "step_time", batch, 1, rounds, repeats=10)


def training_step(config: MambaConfig, batch: int, length: int, *, chunked: bool) -> Work:
    """One forward and backward pass with bf16 products."""
    weights: NetworkWeights = random_weights(config).to(device=AT, dtype=torch.float32)
    leaves = [getattr(weights, field.name) for field in fields(weights) if field.name != "blocks"]
    leaves += [getattr(block, field.name) for block in weights.blocks for field in fields(block)]
    for leaf in leaves:
        leaf.requires_grad_()
    features, ratio = torch.randn(batch, length, config.d_input, device=AT), torch.ones(batch, length, device=AT)
    forward = forward_bf16 if chunked else training_forward(AT, block=config.block)

    def run() -> None:
        for leaf in leaves:
            leaf.grad = None
        output, _ = forward(config, weights, features, ratio, None)
        loss_of(output).backward()

    return run


def train_rows(configs: Sequence[MambaConfig], batch: int, length: int, rounds: int) -> Iterator[Row]:
    """Microseconds and the most memory of a training step; the peer is Mamba-1's. Mamba-2 also in plain torch."""
    works: dict[str, Work] = {}
    memory: dict[str, float] = {}
    for config in configs:
        for way in ("cuda", "torch") if config.block == "mamba2" else ("cuda",):
            name = Kind(config, way).name

            def once(config: MambaConfig = config, way: str = way, name: str = name) -> None:
                work = training_step(config, batch, length, chunked=way == "torch")
                work()  # compiles and tunes
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
                work()
                torch.cuda.synchronize()
                memory[name] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
                works[name] = work

            attempt(f"{name} at {batch} x {length}", once)
            torch.cuda.empty_cache()
    peer = Kind(configs[0], "cuda").name
    for row in timed(works, peer, "train_step_time", batch, length, max(3, rounds // 5), repeats=1):
        yield {**row, "peak_gib": memory[row["params"]["backend"]]}


def timed(
    works: dict[str, Work], peer: str, name: str, batch: int, length: int, rounds: int, *, repeats: int
) -> Iterator[Row]:
    """All in turn, round after round; rows of microseconds by the device's clock."""
    field = {name: Contender(name, lambda: None) for name in works}  # type: ignore[arg-type,return-value]
    for _ in range(rounds):
        for key, work in works.items():
            field[key].times_us.append(microseconds(work, repeats))
    params = {"batch": batch, "length": length, "device": torch.cuda.get_device_name()}
    for one in field.values():
        say(f"{name} {batch} x {length}: {one.name}: {one.quartiles()[1]:.1f} us")
        yield from report(one, [field[peer]] if peer in field else [one], name, params, 0.0)
