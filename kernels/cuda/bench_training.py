"""Check, then time the training path: `python -m kernels.cuda.bench_training`, on a CUDA device.

Prints what it finds as it goes and goes on after a failure; then one JSON report on the last line, in the format of
`kernels.bench_step`. The peer is mamba-ssm's fused block under bf16 autocast in the same residual network, when it is
installed, at the same sizes in the same process; contenders take turns.
"""

import argparse
import json
import statistics
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.config import MambaConfig
from kernels.cuda.causal_conv1d import conv_backward, conv_forward
from kernels.cuda.network import fused_heads, network_scan_cuda
from kernels.cuda.selective_scan import Operands, ScanTiling, scan_backward, scan_forward, selective_scan
from kernels.reference import NetworkOutput, network_scan
from kernels.scan import selective_scan_chunked
from kernels.scan_forms import CHUNKED
from kernels.weights import BlockWeights, NetworkWeights, random_weights

CONFIG = MambaConfig(d_input=22, n_channels=9)
SIZES = ((16, 17_280), (8, 34_560), (64, 2_048), (32, 34_560))
TILINGS = (
    ScanTiling(),
    ScanTiling(forward_keep=4),
    ScanTiling(forward_keep=2, forward_blocks=1, backward_keep=4, backward_blocks=1),
    ScanTiling(tile=16),
    ScanTiling(tile=64, backward_blocks=1),
    ScanTiling(steps=4, backward_keep=2),
    ScanTiling(tile=16, steps=4, backward_keep=2),
    ScanTiling(tile=16, steps=8, backward_keep=2, backward_blocks=1),
    ScanTiling(steps=4, backward_keep=4),
)
Row = dict[str, Any]


def say(*words: object) -> None:
    """Print at once."""
    print(*words, flush=True)  # noqa: T201


def attempt(name: str, work: Callable[[], object]) -> None:
    """Run a section; a failure is printed and the next section follows."""
    try:
        work()
    except Exception:  # noqa: BLE001  (the point is to go on)
        say(f"FAILED {name}\n{traceback.format_exc()}")
        torch.cuda.empty_cache()


def poison(gigabytes: float = 1.0) -> None:
    """Fill the allocator's free memory with NaN, so that what a kernel leaves unwritten shows."""
    del_me = [torch.full((int(gigabytes * 2**28) // 8,), float("nan"), device="cuda") for _ in range(8)]
    del_me += [torch.full((2**20 // 4 // 16,), float("nan"), device="cuda") for _ in range(64)]
    torch.cuda.synchronize()
    del del_me


# ------------------------------------------------------------------------------------------------------- checks


def relative_error(value: Tensor, truth: Tensor) -> float:
    """Norm of the difference over the norm of the truth."""
    truth = truth.detach().double()
    difference = torch.linalg.vector_norm(value.detach().double() - truth)
    return float(difference / torch.linalg.vector_norm(truth).clamp(min=1e-30))


def check_scan(
    batch: int, length: int, d_inner: int, d_state: int, dtype: torch.dtype, tiling: ScanTiling
) -> dict[str, float]:
    """Relative errors of outputs, last state and gradients against the chunked scan in float64 on the device."""
    at = torch.device("cuda")
    rank = 8
    ratio = torch.where(
        torch.rand(batch, length, device=at) < 0.05, torch.exp(9.2 * torch.rand(batch, length, device=at)), 1.0
    )
    leaves = {
        "xz": torch.randn(batch, length, 2 * d_inner, device=at).to(dtype),
        "projected": torch.randn(batch, length, rank + 2 * d_state, device=at).to(dtype),
        "dt_raw": torch.randn(batch, length, d_inner, device=at).to(dtype),
        "dt_bias": -4 + torch.randn(d_inner, device=at),
        "A": -torch.exp(torch.randn(d_inner, d_state, device=at)),
        "D": torch.randn(d_inner, device=at),
        "state": torch.randn(batch, d_inner, d_state, device=at),
    }
    d_out, d_last = torch.randn(batch, length, d_inner, device=at), torch.randn(batch, d_inner, d_state, device=at)
    results = []
    for truth in (True, False):
        own = {n: (t.double() if truth else t).detach().clone().requires_grad_() for n, t in leaves.items()}
        u, z = own["xz"].chunk(2, dim=-1)
        _, B, C = own["projected"].split((rank, d_state, d_state), dim=-1)
        if truth:
            step, r = F.softplus(own["dt_raw"] + own["dt_bias"], threshold=50.0), ratio.double().unsqueeze(-1)
            y, last = selective_scan_chunked(u, step * r, step * r.clamp(max=12.0), own["A"], B, C, own["state"])
            out = (y + own["D"] * u) * F.silu(z)
        else:
            poison()
            rest = (own["A"], B, C, own["D"], z, own["state"], tiling)
            out, last = selective_scan(u, own["dt_raw"], own["dt_bias"], ratio, 12.0, *rest)
        gradients = torch.autograd.grad([out, last], list(own.values()), [d_out.to(out), d_last.to(last)])
        results.append({"out": out, "last": last} | dict(zip((f"d_{n}" for n in own), gradients, strict=True)))
    torch.cuda.synchronize()
    return {name: relative_error(results[1][name], value) for name, value in results[0].items()}


def check_network(dtype: torch.dtype, batch: int, length: int) -> dict[str, float]:
    """Relative errors of outputs and the gradient of every weight against the reference in float64 on the device."""
    weights = random_weights(CONFIG)
    features = torch.randn(batch, length, CONFIG.d_input, device="cuda")
    ratio = torch.exp(0.3 * torch.randn(batch, length, device="cuda"))
    results = []
    for truth in (True, False):
        of = torch.float64 if truth else torch.float32
        own = weights.to(device=torch.device("cuda"), dtype=of)
        leaves = {name: tensor.requires_grad_() for name, tensor in named(own).items()}
        if truth:
            output, last = network_scan(CONFIG, own, features.double(), ratio.double(), scan=CHUNKED)
        else:
            poison()
            output, last = network_scan_cuda(CONFIG, own, features, ratio, dtype=dtype)
        gradients = torch.autograd.grad(loss_of(output), list(leaves.values()))
        values = {"risk": output.risk_logit, "mean": output.forecast_mean, "conv": last.conv, "ssm": last.ssm}
        results.append(values | dict(zip(leaves, gradients, strict=True)))
    return {name: relative_error(results[1][name], value) for name, value in results[0].items()}


def named(weights: NetworkWeights) -> dict[str, Tensor]:
    """Every tensor under a name."""
    rest = {f.name: getattr(weights, f.name) for f in fields(NetworkWeights) if f.name != "blocks"}
    return rest | {
        f"{layer}.{f.name}": getattr(block, f.name)
        for layer, block in enumerate(weights.blocks)
        for f in fields(BlockWeights)
    }


def verdict(name: str, found: dict[str, float], tolerance: float) -> bool:
    """Print the errors, the worst first."""
    good = all(error <= tolerance for error in found.values())
    ordered = sorted(found.items(), key=lambda item: -item[1] if item[1] == item[1] else -1e30)
    say("ok    " if good else "WRONG ", name, " ".join(f"{k}={v:.1e}" for k, v in (ordered[:4] if good else ordered)))
    return good


def check_everything(*, thorough: bool) -> bool:
    """Every check; a failure is printed with the errors of all its tensors."""
    fp32, bf16 = torch.float32, torch.bfloat16
    day = (2, 1030, 256, 64)
    cases = [((3, 203, 37, 64), fp32, ScanTiling()), (day, fp32, ScanTiling()), (day, bf16, ScanTiling())]
    if thorough:
        cases += [((2, 333, 48, n), dtype, ScanTiling()) for n in (16, 32, 128) for dtype in (fp32, bf16)]
        cases += [(day, fp32, tiling) for tiling in TILINGS[1:]]
    good: list[bool] = []

    def case(name: str, errors: Callable[[], dict[str, float]], tolerance: float) -> None:
        good.append(False)
        good[-1] = verdict(name, errors(), tolerance)

    for shape, dtype, tiling in cases:
        name = f"scan {shape} {dtype} {tiling}"
        errors = partial(check_scan, *shape, dtype, tiling)
        attempt(name, partial(case, name, errors, 1e-5 if dtype == fp32 else 1e-2))
    for dtype, tolerance in ((fp32, 3e-4), (bf16, 0.2)):
        name = f"network {dtype}"
        attempt(name, partial(case, name, partial(check_network, dtype, 2, 515), tolerance))
    return all(good)


# ------------------------------------------------------------------------------------------------------- timing


def milliseconds(work: Callable[[], object], rounds: int, warm_up: int = 2) -> float:
    """Median time on the device."""
    for _ in range(warm_up):
        work()
    times: list[float] = []
    for _ in range(rounds):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        work()
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def in_turns(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Times of contenders that alternate, in milliseconds, sorted."""
    for work in contenders.values():
        milliseconds(work, 1)
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            times[name].append(milliseconds(work, 1, warm_up=0))
    return {name: sorted(values) for name, values in times.items()}


def exp_floor_ms(batch: int, length: int) -> float:
    """Time in which the device's special function units do one exponential per state: 16 per clock and multiprocessor."""
    device = torch.cuda.get_device_properties("cuda")
    clock_hz = 1e3 * getattr(device, "clock_rate", 1_755_000)
    exps = batch * length * CONFIG.d_inner * CONFIG.d_state
    return float(1e3 * exps / (16 * device.multi_processor_count * clock_hz))


def time_kernels(batch: int, length: int, rounds: int, *, sweep: bool) -> None:
    """Each kernel of one layer alone, in bf16."""
    at, d, n, rank = torch.device("cuda"), CONFIG.d_inner, CONFIG.d_state, CONFIG.dt_rank
    block = random_weights(replace(CONFIG, n_layer=1)).to(device=at, dtype=torch.float32).mamba1_blocks()[0]
    xz = torch.randn(batch, length, 2 * d, device=at, dtype=torch.bfloat16)
    x, z = xz.chunk(2, dim=-1)
    projected = torch.randn(batch, length, rank + 2 * n, device=at, dtype=torch.bfloat16)
    _, B, C = projected.split((rank, n, n), dim=-1)
    dt_raw = torch.randn(batch, length, d, device=at, dtype=torch.bfloat16)
    ratio = torch.ones(batch, length, device=at)
    conv = (block.conv1d.squeeze(1), block.conv1d_bias, None)
    u = conv_forward(x, *conv)
    d_xz = torch.empty_like(xz)
    say(f"kernels of one layer at batch {batch}, length {length}; exp floor {exp_floor_ms(batch, length):.2f} ms")
    say(f"  conv forward {milliseconds(lambda: conv_forward(x, *conv), rounds):.3f} ms, floor of bytes at 3 TB/s "
        f"{4 * u.numel() / 3e9:.3f}")  # fmt: skip
    say(f"  conv backward {milliseconds(lambda: conv_backward(x, *conv, u, d_xz[..., :d]), rounds):.3f} ms, floor "
        f"{6 * u.numel() / 3e9:.3f}")  # fmt: skip
    A = -torch.exp(block.A_log)

    def one(tiling: ScanTiling) -> None:
        operands = Operands(u, dt_raw, z, B, C, block.dt_proj_bias, ratio, A, block.D, None, 12.0, tiling)
        plain = milliseconds(lambda: scan_forward(operands, for_backward=False), rounds)
        kept = milliseconds(lambda: scan_forward(operands, for_backward=True), rounds)
        result = scan_forward(operands, for_backward=True)
        assert result.checkpoints is not None
        checkpoints = result.checkpoints

        def backward(*, deterministic: bool = False) -> None:
            scan_backward(operands, result.y, checkpoints, u, None, d_xz[..., d:], deterministic=deterministic)

        back = milliseconds(backward, rounds)
        fixed = milliseconds(lambda: backward(deterministic=True), rounds)
        say(f"  scan forward {plain:.2f} ms, for backward {kept:.2f}, backward {back:.2f}, deterministic {fixed:.2f}: "
            f"{tiling}")  # fmt: skip

    for tiling in TILINGS if sweep else TILINGS[:1]:
        attempt(f"timing of {tiling}", partial(one, tiling))


def loss_of(output: NetworkOutput) -> Tensor:
    """A scalar that every output enters."""
    parts = (output.risk_logit, output.forecast_mean, output.forecast_log_scale)
    return torch.stack([part.square().mean() for part in parts]).sum()


class MambaSsmNetwork(torch.nn.Module):
    """The same residual network around mamba-ssm's fused block, under bf16 autocast; it knows no elapsed time."""

    def __init__(self, weights: NetworkWeights) -> None:
        super().__init__()
        from mamba_ssm import Mamba  # noqa: PLC0415  (optional peer)

        self.weights = weights
        self.mixers = torch.nn.ModuleList(
            Mamba(CONFIG.d_model, CONFIG.d_state, CONFIG.d_conv, CONFIG.expand, CONFIG.dt_rank)
            for _ in range(CONFIG.n_layer)
        ).cuda()

    def forward(self, features: Tensor) -> NetworkOutput:
        """Outputs at every step."""
        x = F.linear(features, self.weights.embedding, self.weights.embedding_bias)
        for block, mixer in zip(self.weights.blocks, self.mixers, strict=True):
            normed = F.rms_norm(x, (CONFIG.d_model,), block.norm, CONFIG.norm_eps)
            with torch.autocast("cuda", dtype=torch.bfloat16):
                y = mixer(normed)
            x = x + y
        return fused_heads(CONFIG, self.weights, x, features)


def training_steps(batch: int, length: int) -> Iterator[tuple[str, Callable[[], object]]]:
    """One forward and backward pass of each contender."""
    weights = random_weights(CONFIG).to(device=torch.device("cuda"), dtype=torch.float32)
    leaves = [tensor.requires_grad_() for tensor in named(weights).values()]
    features = torch.randn(batch, length, CONFIG.d_input, device="cuda")
    ratio = torch.ones(batch, length, device="cuda")

    def ours() -> None:
        for leaf in leaves:
            leaf.grad = None
        output, _ = network_scan_cuda(CONFIG, weights, features, ratio)
        loss_of(output).backward()

    yield "cuda", ours
    try:
        peer = MambaSsmNetwork(weights)
    except ImportError as error:
        say(f"no peer: {error}")
        return

    def theirs() -> None:
        for leaf in (*leaves, *peer.parameters()):
            leaf.grad = None
        loss_of(peer(features)).backward()

    yield "mamba_ssm", theirs


def time_steps(batch: int, length: int, rounds: int, rows: list[Row]) -> None:
    """Whole training steps; a contender that fails or does not fit is left out aloud."""
    contenders: dict[str, Callable[[], object]] = {}
    memory = {}
    for name, work in training_steps(batch, length):

        def once(name: str = name, work: Callable[[], object] = work) -> None:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            work()
            torch.cuda.synchronize()
            memory[name] = torch.cuda.max_memory_allocated() / 2**30
            contenders[name] = work

        attempt(f"{name} at {batch} x {length}", once)
    times = in_turns(contenders, rounds)
    peer = statistics.median(times["mamba_ssm"]) if "mamba_ssm" in times else None
    for name, values in times.items():
        median = statistics.median(values)
        say(f"train step {name} batch {batch} length {length}: {median:.2f} ms, "
            f"{batch * length / median / 1e3:.3f} M samples/s, {memory[name]:.1f} GiB")  # fmt: skip
        rows.append(
            {
                "name": "train_step_time",
                "params": {"backend": name, "device": torch.cuda.get_device_name(), "batch": batch, "length": length},
                "value": median, "unit": "ms", "lo": values[len(values) // 4], "hi": values[-1 - len(values) // 4],
                "peer": "mamba_ssm" if peer and name == "cuda" else None, "ratio": peer / median if peer and name == "cuda" else None,
                # Per layer one exponential forward and at least one backward.
                "floor": 2 * CONFIG.n_layer * exp_floor_ms(batch, length) if name == "cuda" else None,
                "samples_per_s": batch * length / median * 1e3, "peak_gib": memory[name],
            }
        )  # fmt: skip


def profile(batch: int, length: int) -> None:
    """Which kernels take the time of our step."""
    from torch.profiler import ProfilerActivity  # noqa: PLC0415  (slow to import)
    from torch.profiler import profile as torch_profile  # noqa: PLC0415

    _, ours = next(training_steps(batch, length))
    ours()
    torch.cuda.synchronize()
    with torch_profile(activities=[ProfilerActivity.CUDA]) as found:
        ours()
        torch.cuda.synchronize()
    totals = [(event.key, event.self_device_time_total / 1e3, event.count) for event in found.key_averages()]
    say(f"kernels of one training step at batch {batch}, length {length}: {sum(t for _, t, _ in totals):.2f} ms")
    for key, total, count in sorted(totals, key=lambda item: -item[1])[:28]:
        say(f"  {total:8.3f} ms {count:4d} x {key[:110]}")


@dataclass(frozen=True, slots=True)
class Options:
    """Command line."""

    rounds: int
    sizes: tuple[tuple[int, int], ...]
    sweep: bool
    thorough: bool
    profile: bool


def parse() -> Options:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--size", action="append", metavar="BATCHxLENGTH", help="may be repeated; all sizes if left out"
    )
    parser.add_argument("--sweep", action="store_true", help="time the scan with every tiling")
    parser.add_argument("--thorough", action="store_true", help="check every tiling and d_state")
    parser.add_argument("--profile", action="store_true", help="list the kernels of a step by time")
    given = parser.parse_args()
    sizes = tuple((int(size.split("x")[0]), int(size.split("x")[1])) for size in given.size or ()) or SIZES
    return Options(given.rounds, sizes, given.sweep, given.thorough, given.profile)


def commit() -> str:
    """Abbreviated commit of the working tree, or `unknown`."""
    answer = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"],  # noqa: S607
        capture_output=True, text=True, check=False, cwd=Path(__file__).parent,
    )  # fmt: skip
    return answer.stdout.strip() or "unknown"


def main() -> int:
    """Check, time, report; 1 if a check failed."""
    options = parse()
    if not torch.cuda.is_available():
        say("needs a CUDA device")
        return 1
    say(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, commit {commit()}")
    rows: list[Row] = []
    good = check_everything(thorough=options.thorough)
    for batch, length in options.sizes[:2]:
        attempt("kernels", partial(time_kernels, batch, length, options.rounds, sweep=options.sweep))
        torch.cuda.empty_cache()
    if options.profile:
        attempt("profile", partial(profile, *options.sizes[0]))
        torch.cuda.empty_cache()
    for batch, length in options.sizes:
        attempt("steps", partial(time_steps, batch, length, options.rounds, rows))
        torch.cuda.empty_cache()
    say("all checks passed" if good else "SOME CHECKS FAILED: the times mean nothing")
    report = {
        "commit": commit(), "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(), "command": " ".join(["kernels.cuda.bench_training", *sys.argv[1:]]),
        "correct": good, "rows": rows,
    }  # fmt: skip
    say(json.dumps(report))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
