"""`python -m kernels.bench_step`: the step of every backend beside its peers, in one run, once all have proved correct.

The contenders take turns round by round, so that whatever else the machine does hits all of them. The torch peers are
given states that already lie side by side, so that they need no slots, which favours them.
"""

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.backend import Backend, choose_backend
from kernels.config import MambaConfig
from kernels.cpu import CpuBackend, missing_for_cpu
from kernels.layers import rms_norm
from kernels.pool import StatePool
from kernels.reference import NetworkOutput, RecurrentState, block_step, heads, network_step
from kernels.weights import NetworkWeights, random_weights

CONFIG = MambaConfig(d_input=22, n_channels=9)  # the product's network
TOLERANCE = 1e-4  # relative error of the outputs against float64

Row = dict[str, Any]
Clock = Callable[[], float]  # seconds


@dataclass(frozen=True, slots=True)
class Inputs:
    """One batch: a sample and a state for each vehicle, fp32."""

    features: Tensor  # (batch, d_input)
    ratio: Tensor  # (batch,)
    state: RecurrentState
    slots: Tensor  # (batch,) where each lives in a pool of batch + 1

    @staticmethod
    def draw(batch: int, config: MambaConfig = CONFIG) -> "Inputs":
        """Fresh random inputs at the nominal interval."""
        return Inputs(
            features=torch.randn(batch, config.d_input),
            ratio=torch.ones(batch),
            state=RecurrentState(
                torch.randn(batch, *config.conv_state_shape), torch.randn(batch, *config.ssm_state_shape)
            ),
            slots=1 + torch.randperm(batch),
        )


class Contender:
    """Something that makes a step; `run` is what is timed."""

    def __init__(self, name: str, run: Callable[[], NetworkOutput]) -> None:
        self.name = name
        self.run = run
        self.times_us: list[float] = []

    def check(self, truth: Tensor) -> None:
        """First step against float64 `truth` (batch, n_channels). Raises RuntimeError when it is wrong."""
        value = self.run().forecast_mean.double().cpu()
        error = float(torch.linalg.vector_norm(value - truth) / torch.linalg.vector_norm(truth))
        if not error < TOLERANCE:
            raise RuntimeError(f"{self.name} is off by {error:.1e} (relative norm); nothing was measured")

    def measure(self, repeats: int, clock: Clock = time.perf_counter) -> None:
        """Adds the mean of `repeats` runs, microseconds, after one untimed run that evicts the previous contender."""
        self.run()
        start = clock()
        for _ in range(repeats):
            self.run()
        self.times_us.append((clock() - start) / repeats * 1e6)

    def quartiles(self) -> tuple[float, float, float]:
        """Lower quartile, median, upper quartile, microseconds."""
        times = torch.tensor(self.times_us, dtype=torch.float64)
        low, median, high = torch.quantile(times, torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64)).tolist()
        return low, median, high


def on_pool(backend: Backend, inputs: Inputs, config: MambaConfig = CONFIG) -> Callable[[], NetworkOutput]:
    """A backend's step, slots and all."""
    pool = StatePool(config, len(inputs.slots) + 1, backend.device)
    pool.write(inputs.slots.to(backend.device), inputs.state)
    return lambda: backend.step(pool, inputs.slots, inputs.features, inputs.ratio)


def on_layers(weights: NetworkWeights, inputs: Inputs, *, compiled: bool) -> Callable[[], NetworkOutput]:
    """A torch peer: `network_step` on one tensor of states per layer, updated in place.

    As written in reference.py it returns new states; at 240 vehicles the page faults of 67 MB of fresh memory would
    then take most of the time, which is not torch's arithmetic.
    """
    fp32 = weights.to(device=torch.device("cpu"), dtype=torch.float32)
    conv = [layer.clone() for layer in inputs.state.conv.unbind(1)]
    ssm = [layer.clone() for layer in inputs.state.ssm.unbind(1)]

    def step() -> NetworkOutput:
        x = F.linear(inputs.features, fp32.embedding, fp32.embedding_bias)
        for layer, block in enumerate(fp32.blocks):
            normed = rms_norm(x, block.norm, CONFIG.norm_eps)
            y, new_conv, new_ssm = block_step(CONFIG, block, normed, inputs.ratio, conv[layer], ssm[layer])
            conv[layer].copy_(new_conv)
            ssm[layer].copy_(new_ssm)
            x = x + y
        return heads(CONFIG, fp32, x, inputs.features)

    return torch.compile(step, dynamic=False) if compiled else step


def contenders(weights: NetworkWeights, inputs: Inputs, *, compiled: bool) -> Iterator[Contender]:
    """The torch peers first, then each backend that runs here."""
    yield Contender("torch eager", on_layers(weights, inputs, compiled=False))
    if compiled:
        torch._dynamo.reset()  # noqa: SLF001  (the documented way to forget the previous batch size)
        yield Contender("torch.compile", on_layers(weights, inputs, compiled=True))
    yield Contender("reference", on_pool(choose_backend("reference", CONFIG, weights), inputs))
    if missing_for_cpu() is None:
        yield Contender("cpu", on_pool(choose_backend("cpu", CONFIG, weights), inputs))


def state_bandwidth() -> float:
    """Bytes per second at which an array of the pool's kind is read and rewritten in place, all threads; best of 9."""
    array, best = torch.ones(16_000_000), float("inf")
    for _ in range(9):
        start = time.perf_counter()
        array.mul_(1.0)
        best = min(best, time.perf_counter() - start)
    return array.numel() * 4 / best


def rows_for(weights: NetworkWeights, batch: int, bandwidth: float, options: "Options") -> Iterator[Row]:
    """Checks, measures and reports all contenders at one batch size."""
    inputs = Inputs.draw(batch)
    exact = RecurrentState(inputs.state.conv.double(), inputs.state.ssm.double())
    truth, _ = network_step(CONFIG, weights, inputs.features.double(), inputs.ratio.double(), exact)
    field = list(contenders(weights, inputs, compiled=options.compiled))
    for contender in field:
        contender.check(truth.forecast_mean)
    repeats = max(4, 64 // batch)
    for _ in range(options.rounds):
        for contender in field:
            contender.measure(repeats, options.clock)
    peers = [contender for contender in field if contender.name.startswith("torch")]
    floor = batch * CONFIG.state_bytes / bandwidth * 1e6
    for contender in field:
        yield from report(contender, peers, "step_time", {"batch": batch, "length": 1}, floor)


def report(contender: Contender, peers: list[Contender], name: str, params: Row, floor: float) -> Iterator[Row]:
    """One row per peer; ratio above 1 means that the contender is faster."""
    low, median, high = contender.quartiles()
    for peer in peers:
        yield {
            "name": name,
            "params": {"backend": contender.name, "device": "cpu", **params},
            "value": round(median, 2),
            "unit": "us",
            "lo": round(low, 2),
            "hi": round(high, 2),
            "peer": peer.name,
            "ratio": round(peer.quartiles()[1] / median, 2),
            "floor": round(floor, 2),
        }


def replay_rows(weights: NetworkWeights, batch: int, length: int, floor: float, options: "Options") -> Iterator[Row]:
    """Replaying journals by the C++ scan against stepping them one sample after another; both give the last outputs."""
    backend, inputs = CpuBackend(CONFIG, weights), Inputs.draw(batch)
    features = torch.randn(length, batch, CONFIG.d_input)
    by_vehicle = features.transpose(0, 1).flatten(0, 1).contiguous()
    lengths, ratio = torch.full((batch,), length), torch.ones(batch * length)
    pools = [StatePool(CONFIG, batch + 1, backend.device) for _ in range(2)]

    def steps() -> NetworkOutput:
        return [backend.step(pools[0], inputs.slots, sample, inputs.ratio) for sample in features][-1]

    def scan() -> NetworkOutput:
        return backend.scan_packed(pools[1], inputs.slots, lengths, by_vehicle, ratio, last_only=True)

    stepping, scanning = Contender("cpu, step by step", steps), Contender("cpu", scan)
    scanning.check(stepping.run().forecast_mean.double())
    for _ in range(max(3, options.rounds // 5)):
        stepping.measure(1, options.clock)
        scanning.measure(1, options.clock)
    yield from report(scanning, [stepping], "scan_time", {"batch": batch, "length": length}, floor)


def this_commit() -> str:
    """The commit measured, with a mark when the tree differs from it; 'unknown' outside a checkout."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def describe_device(threads: int) -> str:
    """Processor, instruction set, threads and how busy the machine was: a shared one measures slower."""
    isa = CpuBackend(CONFIG, random_weights(CONFIG)).isa if missing_for_cpu() is None else "no extension"
    load = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return f"{platform.machine()}, {os.cpu_count()} cores, {isa}, {threads} threads, load before the run {load}"


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure."""

    devices: tuple[str, ...] = ("cpu", "cuda")
    batches: tuple[int, ...] = ()  # of both; empty: those that the targets name
    rounds: int = 25
    threads: int = 0  # of the processor; 0: torch's number
    compiled: bool = True  # torch.compile as a peer; it compiles for minutes
    scan: bool = True
    train: bool = True  # the training step, on CUDA only
    clock: Clock = time.perf_counter  # of the processor's contenders
    sweep: bool = False  # also time other ways of cutting the CUDA step; printed on standard error only


CPU_BATCHES = (1, 16, 64, 240)
CUDA_BATCHES = (1, 64, 240, 1_024, 4_096, 16_384, 131_072)


def cpu_rows(options: Options) -> list[Row]:
    """Steps and replay on the processor."""
    weights, rows = random_weights(CONFIG), list[Row]()
    with torch.inference_mode():
        bandwidth = state_bandwidth()
        for batch in options.batches or CPU_BATCHES:
            rows += rows_for(weights, batch, bandwidth, options)
        if missing_for_cpu() is None and options.scan:
            floor = 240 * CONFIG.state_bytes / bandwidth * 1e6
            rows += replay_rows(weights, 240, 60, floor, options)
    return rows


def measure(options: Options) -> Row:
    """The report, once everything measured has proved correct; `correct` is false if something had not, and was left out.

    Raises:
        RuntimeError: a contender on the processor is wrong.
    """
    if options.threads:
        torch.set_num_threads(options.threads)
    devices, rows, correct = [], list[Row](), True
    if "cpu" in options.devices:
        devices.append(describe_device(torch.get_num_threads()))
        rows += cpu_rows(options)
    if "cuda" in options.devices and torch.cuda.is_available():
        from kernels.cuda.bench_step import cuda_rows  # noqa: PLC0415  (needs a device)

        devices.append(torch.cuda.get_device_name())
        found, correct = cuda_rows(
            list(options.batches or CUDA_BATCHES), options.rounds, scan=options.scan, train=options.train,
            sweep=options.sweep, compiled=options.compiled,
        )  # fmt: skip
        rows += found
    return {
        "commit": this_commit(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": "; ".join(devices),
        "command": shlex.join(sys.argv),
        "correct": correct,
        "rows": rows,
    }


def main() -> None:
    """Prints one JSON report; exit code 1 if something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], action="append", help="both if left out")
    parser.add_argument("--batch", type=int, nargs="+", default=[])
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out (it compiles for minutes)")
    parser.add_argument("--no-scan", action="store_true", help="leave the scans out")
    parser.add_argument("--no-train", action="store_true", help="leave the training step out")
    parser.add_argument(
        "--processor-time",
        action="store_true",
        help="count processor time of all threads: for a machine with other work",
    )
    parser.add_argument("--sweep", action="store_true", help="also time other ways of cutting the CUDA step")
    given = parser.parse_args()
    report_of_run = measure(
        Options(
            devices=tuple(given.device or ("cpu", "cuda")),
            batches=tuple(given.batch),
            rounds=given.rounds,
            threads=given.threads,
            compiled=not given.no_compile,
            scan=not given.no_scan,
            train=not given.no_train,
            clock=time.process_time if given.processor_time else time.perf_counter,
            sweep=given.sweep,
        )
    )
    sys.stdout.write(json.dumps(report_of_run, indent=1) + "\n")
    if not report_of_run["correct"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
