"""The CUDA half of `kernels.bench_step`: checks, then the step beside its peers, each under a CUDA graph, then the scan.

Prints what it finds on standard error as it goes, and goes on after a failure: a size whose check fails is not timed.
Peers: the same network in plain torch; mamba-ssm's own step, where it is installed; a transformer of six layers with a
window of 512 samples in a ring cache, all vehicles in lock-step at one place of the ring, which favours it.
"""

import math
import statistics
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from ctypes import sizeof
from functools import partial
from multiprocessing import get_context
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels.config import MambaConfig
from kernels.cuda.backend import CudaBackend
from kernels.cuda.compiler import compile_kernels
from kernels.cuda.step import CUTS, KEPT, KEPT_RANKS, StepKernel, StepParams
from kernels.cuda.step_plan import StepPlan
from kernels.layers import rms_norm
from kernels.pool import StatePool
from kernels.reference import RecurrentState, block_step, heads, network_scan, network_step
from kernels.scan_forms import CHUNKED
from kernels.weights import NetworkWeights, random_weights

CONFIG = MambaConfig(d_input=22, n_channels=9)
TOLERANCE = 1e-5
WINDOW, LAYERS, WIDTH, HEADS = 512, 6, 128, 4  # the transformer
CHECKED = (1, 2, 7, 64, 133, 240, 500, 1024, 1100, 2300)
MOST_POISONED, MOST_COMPARED, LEAST_COMPARED = 4_096, 1_024, 64  # vehicles of a check
MOST_MAMBA_SSM = 32_768  # above, its grid is too large
SCANS = ((1, 34_560), (240, 34_560))
Row = dict[str, Any]
Work = Callable[[], object]


def say(*words: object) -> None:
    """To people, at once."""
    print(*words, file=sys.stderr, flush=True)  # noqa: T201


def attempt(name: str, work: Callable[[], object]) -> bool:
    """Run a section; a failure is printed and the next section follows."""
    try:
        work()
    except ModuleNotFoundError as error:
        say(f"without {name}: {error}")
        return False
    except Exception:  # noqa: BLE001  (the point is to go on)
        say(f"FAILED {name}\n{traceback.format_exc()}")
        torch.cuda.empty_cache()
        return False
    return True


# ------------------------------------------------------------------------------------------------------- the cuts


def cuts(batch: int, *, sweep: bool) -> list[tuple[dict[str, Any], int | None]]:
    """Ways of cutting a batch that are worth timing: fields of StepPlan and vehicles per tile. {}: the kernel's choice."""
    if not sweep:
        return [({}, None)]
    one = [({"ranks": ranks, "threads": threads}, 1) for ranks in (16, 8, 4) for threads in (128, 256, 512)]
    few = [({"ranks": ranks}, vans) for ranks, vans in ((16, 8), (8, 8), (8, 5), (4, 4), (4, 3), (2, 1))]
    some = [({"ranks": 4, "kept": kept}, 8) for kept in (-1, 0, 25, 45)]
    some += [({"ranks": 2}, 4), ({"ranks": 2}, 8), ({"ranks": 1}, 2), ({"ranks": 1}, 4)]
    two_teams: dict[str, Any] = {"threads": 256, "advancers": 256, "bulk": True}
    many: list[tuple[dict[str, Any], int]] = [
        ({"ranks": 1, "ring": 3, "bulk": True}, 8),
        ({"ranks": 1, "columns": 16, "pipe": 2, "bulk": True}, 16),
        *[({"ranks": 2, **two_teams, **more}, 8) for more in ({}, {"kept": 0}, {"ring": 6}, {"advancers": 128})],
        *[({"ranks": 1, "columns": 16, **two_teams, **more}, 16) for more in ({}, {"kept": 0}, {"advancers": 128})],
    ]
    found: list[tuple[dict[str, Any], int]] = (
        one if batch <= 8 else few if batch <= 64 else some if batch <= 512 else many
    )
    return [({}, None), *found]


def compile_plan(plan: StepPlan, architecture: str) -> None:
    """Fill the cache on disk."""
    compile_kernels("step.cu", plan.defines(sizeof(StepParams)), architecture)


def compile_ahead(batches: list[int], *, sweep: bool) -> None:
    """Compile what will be timed, all at once in other processes: one takes seconds."""
    plans = {StepPlan(CONFIG, **cut) for batch in batches for cut, _ in cuts(batch, sweep=sweep) if cut}
    plans |= {StepPlan(CONFIG, **fields, bf16=bf16) for fields, _ in CUTS for bf16 in (False, True)}
    plans |= {StepPlan(CONFIG, KEPT_RANKS, kept=KEPT, bf16=bf16) for bf16 in (False, True)}
    major, minor = torch.cuda.get_device_capability()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        jobs = [pool.submit(compile_plan, plan, f"sm_{major}{minor}") for plan in plans]
        for job, plan in zip(jobs, plans, strict=True):
            attempt(f"compiling {plan}", job.result)


# ------------------------------------------------------------------------------------------------------- checks


def relative_error(value: Tensor, truth: Tensor) -> float:
    """Norm of the difference over the norm of the truth."""
    truth = truth.double()
    return float(torch.linalg.vector_norm(value.double() - truth) / torch.linalg.vector_norm(truth))


class Step:
    """One batch in a pool: inputs, states and outputs on the device."""

    def __init__(self, batch: int, *, checked: bool = False) -> None:
        at = torch.device("cuda")
        self.features = torch.randn(batch, CONFIG.d_input, device=at)
        self.ratio = torch.ones(batch, device=at)
        if checked:
            self.ratio = torch.exp(torch.rand(batch, device=at) * 10.8 - 1.6)
        spare = 5 if checked else 0
        self.pool = StatePool(CONFIG, batch + 1 + spare, at)
        self.slots = 1 + torch.randperm(batch + spare, device=at)[:batch]
        self.out = torch.full((batch, 2 * CONFIG.n_channels + 1), torch.nan, device=at)
        if checked:
            self.pool.conv.fill_(torch.nan)
            self.pool.ssm.fill_(torch.nan)
            self.pool.conv[self.slots] = torch.randn_like(self.pool.conv[self.slots])
            self.pool.ssm[self.slots] = torch.randn_like(self.pool.ssm[self.slots])
        else:
            self.pool.conv.normal_()
            self.pool.ssm.normal_()

    def run(self, kernel: StepKernel, plan: StepPlan | None = None, vans: int | None = None) -> None:
        """Advance all."""
        kernel.run(self.pool, self.slots, self.features, self.ratio, self.out, plan, vans)


def check_step(
    weights: NetworkWeights, kernel: StepKernel, batch: int, plan: StepPlan | None = None, vans: int | None = None
) -> bool:
    """One step from random states over random gaps against float64, and no other slot touched.

    Of a large batch, random rows are held against float64, and the pool is not poisoned. A small batch is stepped
    until enough vehicles have been: an error is relative to the norm over them, and one risk alone may lie next to zero.
    """
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
    untouched = True
    for _ in range(-(-LEAST_COMPARED // batch)):
        untouched &= compare_step(weights, kernel, Step(batch, checked=batch <= MOST_POISONED), plan, vans, pairs)
    errors = {
        name: relative_error(torch.cat([value for value, _ in found]), torch.cat([truth for _, truth in found]))
        for name, found in pairs.items()
    }
    good = all(error < TOLERANCE for error in errors.values()) and untouched  # NaN is not less either
    cut = plan or kernel.plan(batch)[0]
    words = f"ranks {cut.ranks} columns {cut.columns} threads {cut.threads} vans {vans}"
    say("ok    " if good else "WRONG ", f"step of {batch}: {words}", "" if untouched else "UNUSED SLOTS WRITTEN",
        " ".join(f"{name}={error:.1e}" for name, error in errors.items()))  # fmt: skip
    return good


def compare_step(
    weights: NetworkWeights, kernel: StepKernel, step: Step, plan: StepPlan | None, vans: int | None,
    pairs: dict[str, list[tuple[Tensor, Tensor]]],
) -> bool:  # fmt: skip
    """Makes one step and appends what it gave and the truth; whether unused slots kept their poison, if they had any."""
    batch, n = len(step.slots), CONFIG.n_channels
    some = torch.randperm(batch, device="cuda")[:MOST_COMPARED]
    before = step.pool.read(step.slots[some])
    start = RecurrentState(before.conv.double(), before.ssm.double())
    truth, after = network_step(CONFIG, weights, step.features[some].double(), step.ratio[some].double(), start)
    step.run(kernel, plan, vans)
    torch.cuda.synchronize()
    state, out = step.pool.read(step.slots[some]), step.out[some]
    found = {
        "mean": (out[:, :n], truth.forecast_mean),
        "scale": (out[:, n : 2 * n], truth.forecast_log_scale),
        "risk": (out[:, 2 * n], truth.risk_logit),
        "conv": (state.conv, after.conv),
        "ssm": (state.ssm, after.ssm),
    }
    for layer in range(CONFIG.n_layer):
        found[f"ssm of layer {layer}"] = (state.ssm[:, layer], after.ssm[:, layer])
    for name, pair in found.items():
        pairs.setdefault(name, []).append(pair)
    unused = torch.ones(step.pool.n_slots, dtype=torch.bool, device="cuda")
    unused[step.slots] = False
    poison = torch.isnan(step.pool.ssm[unused]).all() & torch.isnan(step.pool.conv[unused]).all()
    return (batch > MOST_POISONED or bool(poison)) and not bool(torch.isnan(step.out).any())


def check_scan(weights: NetworkWeights, backend: CudaBackend) -> bool:
    """Sequences of different lengths against float64 scans, and a scan against steps."""
    lengths = torch.tensor([2_500, 0, 700, 1, 2_499])
    features = torch.randn(int(lengths.sum()), CONFIG.d_input, device="cuda")
    ratio = torch.where(torch.rand(len(features), device="cuda") < 0.01, 500.0, 1.0)
    pool, slots = StatePool(CONFIG, 7, torch.device("cuda")), torch.tensor([3, 1, 6, 2, 4], device="cuda")
    pool.conv.normal_()
    pool.ssm.normal_()
    start = pool.read(slots)
    backend.scan_packed(pool, slots, lengths, features, ratio)
    found, worst, first = pool.read(slots), 0.0, 0
    for vehicle, length in enumerate(lengths.tolist()):
        own, at = slice(first, first + length), slice(vehicle, vehicle + 1)
        first += length
        if length == 0:
            worst = max(worst, 0.0 if torch.equal(found.ssm[at], start.ssm[at]) else 1.0)
            continue
        before = RecurrentState(start.conv[at].double(), start.ssm[at].double())
        rows = (features[None, own].double(), ratio[None, own].double())
        _, after = network_scan(CONFIG, weights, *rows, before, scan=CHUNKED)
        worst = max(worst, relative_error(found.ssm[at], after.ssm), relative_error(found.conv[at], after.conv))
    stepped = StatePool(CONFIG, 3, torch.device("cuda"))
    slot = torch.tensor([2], device="cuda")
    stepped.write(slot, RecurrentState(start.conv[:1], start.ssm[:1]))
    for t in range(2_500):
        backend.step(stepped, slot, features[t, None], ratio[t, None])
    apart = relative_error(stepped.read(slot).ssm, found.ssm[:1])
    good = worst < TOLERANCE and apart < TOLERANCE
    say("ok    " if good else "WRONG ", f"packed scan: against float64 {worst:.1e}, against 2,500 steps {apart:.1e}")
    return good


# ------------------------------------------------------------------------------------------------------- peers


def torch_step(weights: NetworkWeights, batch: int) -> Work:
    """The same network in plain torch, one tensor of states per layer, updated in place."""
    step = Step(batch)
    state = step.pool.read(step.slots)
    conv = [layer.clone() for layer in state.conv.unbind(1)]
    ssm = [layer.clone() for layer in state.ssm.unbind(1)]

    def run() -> object:
        x = F.linear(step.features, weights.embedding, weights.embedding_bias)
        for layer, block in enumerate(weights.blocks):
            normed = rms_norm(x, block.norm, CONFIG.norm_eps)
            y, new_conv, new_ssm = block_step(CONFIG, block, normed, step.ratio, conv[layer], ssm[layer])
            conv[layer].copy_(new_conv)
            ssm[layer].copy_(new_ssm)
            x = x + y
        return heads(CONFIG, weights, x, step.features)

    return run


def compiled_step(weights: NetworkWeights, batch: int) -> Work:
    """The same through torch.compile."""
    torch._dynamo.reset()  # noqa: SLF001  (the documented way to forget the previous batch size)
    work: Work = torch.compile(torch_step(weights, batch), dynamic=False)
    return work


def mamba_ssm_step(weights: NetworkWeights, batch: int, dtype: torch.dtype = torch.float32) -> Work:
    """mamba-ssm's own step in the same residual network, states fp32, side by side; it knows no elapsed time."""
    from mamba_ssm import Mamba  # noqa: PLC0415  (optional peer)

    mixers = [
        Mamba(CONFIG.d_model, CONFIG.d_state, CONFIG.d_conv, CONFIG.expand, CONFIG.dt_rank).to("cuda", dtype)
        for _ in range(CONFIG.n_layer)
    ]
    features = torch.randn(batch, CONFIG.d_input, device="cuda")
    # Its kernel wants the convolution's state in the dtype of the input, four samples of it.
    conv = [torch.randn(batch, CONFIG.d_inner, CONFIG.d_conv, device="cuda", dtype=dtype) for _ in mixers]
    ssm = [torch.randn(batch, CONFIG.d_inner, CONFIG.d_state, device="cuda") for _ in mixers]

    def run() -> object:
        x = F.linear(features, weights.embedding, weights.embedding_bias)
        for layer, mixer in enumerate(mixers):
            normed = F.rms_norm(x, (CONFIG.d_model,), weights.blocks[layer].norm, CONFIG.norm_eps)
            y, _, _ = mixer.step(normed.to(dtype).unsqueeze(1), conv[layer], ssm[layer])
            x = x + y.squeeze(1)
        return heads(CONFIG, weights, x, features)

    return run


def transformer_step(weights: NetworkWeights, batch: int) -> Work:
    """Six layers, window 512, bf16 ring cache of 1,573 kB per vehicle, in steady state: the whole window is filled."""
    at, of = torch.device("cuda"), torch.bfloat16

    def matrix(rows: int, columns: int) -> Tensor:
        return (torch.randn(rows, columns, device=at) / math.sqrt(columns)).to(of)

    layers = [
        (matrix(3 * WIDTH, WIDTH), matrix(WIDTH, WIDTH), matrix(4 * WIDTH, WIDTH), matrix(WIDTH, 4 * WIDTH))
        for _ in range(LAYERS)
    ]
    shape = (batch, HEADS, WINDOW, WIDTH // HEADS)
    keys = [torch.randn(shape, device=at, dtype=of) for _ in layers]
    values = [torch.randn(shape, device=at, dtype=of) for _ in layers]
    features = torch.randn(batch, CONFIG.d_input, device=at)
    place, norm = torch.zeros(1, dtype=torch.int64, device=at), torch.ones(WIDTH, device=at, dtype=of)

    def run() -> object:
        x = F.linear(features, weights.embedding, weights.embedding_bias).to(of)
        for (qkv, out, up, down), key, value in zip(layers, keys, values, strict=True):
            q, k, v = F.linear(F.rms_norm(x, (WIDTH,), norm), qkv).view(batch, 3, HEADS, 1, WIDTH // HEADS).unbind(1)
            key.index_copy_(2, place, k)
            value.index_copy_(2, place, v)
            y = F.scaled_dot_product_attention(q, key, value)
            x = x + F.linear(y.reshape(batch, WIDTH), out)
            x = x + F.linear(F.gelu(F.linear(F.rms_norm(x, (WIDTH,), norm), up)), down)
        place.add_(1).remainder_(WINDOW)
        return heads(CONFIG, weights, x.float(), features)

    return run


# ------------------------------------------------------------------------------------------------------- timing


def graphed(work: Work) -> Work:
    """The same under a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()

    def replay() -> Work:
        graph.replay()
        return work  # holds the tensors that the graph works on

    return replay


def microseconds(work: Work, repeats: int) -> float:
    """Mean of back-to-back runs."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    work()
    start.record()
    for _ in range(repeats):
        work()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end)) / repeats * 1e3


def copy_bandwidth() -> float:
    """Bytes read and written per second by a large copy on the device; the median of 9."""
    source = torch.randn(1 << 29, device="cuda")
    target = torch.empty_like(source)
    times = [microseconds(lambda: target.copy_(source), 3) for _ in range(9)]
    return 2 * source.numel() * 4 / statistics.median(times) * 1e6


def in_turns(contenders: dict[str, Work], rounds: int, repeats: int) -> dict[str, list[float]]:
    """Microseconds of each, sorted; they alternate, so that whatever else happens hits all of them."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            times[name].append(microseconds(work, repeats))
    return {name: sorted(values) for name, values in times.items()}


def step_rows(
    weights: NetworkWeights, kernels: dict[str, StepKernel], batch: int, rounds: int, bandwidth: float, *, sweep: bool,
    compiled: bool,
) -> Iterator[Row]:  # fmt: skip
    """Checks and times one batch size."""
    repeats, contenders, memory = max(3, min(50, 40_000 // batch)), {}, {}

    def add(name: str, make: Callable[[], Work]) -> None:
        before = torch.cuda.memory_allocated()
        contenders[name] = graphed(make())
        memory[name] = (torch.cuda.memory_allocated() - before) / batch

    exact = weights.to(device=torch.device("cuda"), dtype=torch.float64)
    if not check_step(exact, kernels["cuda"], batch):
        return
    torch.cuda.empty_cache()
    step = Step(batch)
    for name, kernel in kernels.items():
        attempt(f"{name} at {batch}", partial(add, name, partial(partial, step.run, kernel)))
    peers: dict[str, tuple[int, Callable[[], Work]]] = {
        "torch eager": (1_024, partial(torch_step, weights, batch)),
        "torch.compile": (1_024 if compiled else 0, partial(compiled_step, weights, batch)),
        "mamba_ssm": (MOST_MAMBA_SSM, partial(mamba_ssm_step, weights, batch)),
        "transformer": (16_384, partial(transformer_step, weights, batch)),
    }
    for name, (most, make) in peers.items():
        if batch <= most:
            attempt(f"{name} at {batch}", partial(add, name, make))
    times = in_turns(contenders, rounds, repeats)
    floor = 2 * batch * CONFIG.state_bytes / bandwidth * 1e6
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, values in times.items():
        rivals: list[str] = [peer for peer in peers if peer in medians and peer != name] if name in kernels else []
        for peer in rivals or ("",):
            ratio = medians[peer] / medians[name] if peer else None
            yield row(
                "step_time", name, batch, 1, values, "us", peer or None, ratio, floor,
                bytes_per_vehicle=CONFIG.state_bytes if name in kernels else memory[name],
            )  # fmt: skip
        said = {peer: round(medians[peer] / medians[name], 2) for peer in rivals}
        say(f"step {batch:6d} {name:12s} {medians[name]:9.1f} us, floor {floor:7.1f} ({floor / medians[name]:.0%}), "
            f"faster than {said}")  # fmt: skip
    contenders.clear()
    if sweep and "cuda" in kernels:
        attempt(f"sweep at {batch}", partial(sweep_cuts, weights, kernels["cuda"], step, batch, repeats, floor))


def sweep_cuts(weights: NetworkWeights, kernel: StepKernel, step: Step, batch: int, repeats: int, floor: float) -> None:
    """Checks and times other ways of cutting the batch; printed, not reported."""
    exact = weights.to(device=torch.device("cuda"), dtype=torch.float64)

    def one(cut: dict[str, Any], vans: int | None) -> None:
        plan = StepPlan(CONFIG, **cut)
        if kernel.capacity(plan) == 0 or not check_step(exact, kernel, min(batch, 300), plan, vans):
            return
        times = [microseconds(graphed(partial(step.run, kernel, plan, vans)), repeats) for _ in range(3)]
        say(f"  cut {batch:6d} {cut} vans {vans} ring {plan.ring_slots}: {statistics.median(times):.1f} us "
            f"({floor / statistics.median(times):.0%} of floor)")  # fmt: skip

    for cut, vans in cuts(batch, sweep=True):
        if cut:
            attempt(f"cut {cut}", partial(one, cut, vans))


def scan_rows(backend: CudaBackend, rounds: int, bandwidth: float) -> Iterator[Row]:
    """Backfilling 48 h from stored states to final states, outputs at the end only."""
    for batch, length in SCANS:
        features = torch.randn(batch * length, CONFIG.d_input, device="cuda")
        ratio, lengths = torch.ones(batch * length, device="cuda"), torch.full((batch,), length)
        pool, slots = StatePool(CONFIG, batch + 1, torch.device("cuda")), 1 + torch.randperm(batch, device="cuda")

        def scan(
            pool: StatePool = pool, slots: Tensor = slots, lengths: Tensor = lengths, features: Tensor = features,
            ratio: Tensor = ratio,
        ) -> object:  # fmt: skip
            return backend.scan_packed(pool, slots, lengths, features, ratio, last_only=True)

        times = sorted(microseconds(scan, 1) / 1e3 for _ in range(min(rounds, 5)))
        # Read each sample once and each state twice: what a perfect scan would move.
        floor = (features.numel() * 4 + 2 * batch * CONFIG.state_bytes) / bandwidth * 1e3
        say(f"scan of {batch} x {length}: {statistics.median(times):.2f} ms")
        yield row("scan_time", "cuda", batch, length, times, "ms", None, None, floor)
        del features, ratio, pool
        torch.cuda.empty_cache()


def row(
    name: str, backend: str, batch: int, length: int, values: list[float], unit: str, peer: str | None,
    ratio: float | None, floor: float, **more: object,
) -> Row:  # fmt: skip
    """One row of the report."""
    return {
        "name": name,
        "params": {"backend": backend, "device": torch.cuda.get_device_name(), "batch": batch, "length": length},
        "value": round(statistics.median(values), 3), "unit": unit, "lo": round(values[len(values) // 4], 3),
        "hi": round(values[-1 - len(values) // 4], 3), "peer": peer,
        "ratio": None if ratio is None else round(ratio, 3), "floor": round(floor, 3), **more,
    }  # fmt: skip


def _extend(rows: list[Row], more: Callable[[], Iterator[Row]]) -> None:
    """Rows that were made before a failure are kept."""
    for found in more():
        rows.append(found)  # noqa: PERF402


def cuda_rows(
    batches: list[int], rounds: int, *, scan: bool, train: bool, sweep: bool, compiled: bool
) -> tuple[list[Row], bool]:
    """Everything on this device: rows, and whether all checks passed."""
    torch.set_float32_matmul_precision("highest")
    random = random_weights(CONFIG)
    weights = random.to(device=torch.device("cuda"), dtype=torch.float32)
    exact = random.to(device=torch.device("cuda"), dtype=torch.float64)
    rows: list[Row] = []
    good: list[bool] = []
    attempt("compiling", partial(compile_ahead, batches, sweep=sweep))
    backend = CudaBackend(CONFIG, random, torch.device("cuda"))
    kernels = {"cuda": backend.kernel, "cuda bf16": StepKernel(CONFIG, random, torch.device("cuda"), bf16=True)}
    for fields, _ in CUTS:
        say(f"{backend.kernel.capacity(StepPlan(CONFIG, **fields))} clusters of {dict(fields)} fit")

    def check(work: Callable[[], bool]) -> None:
        good.append(False)
        good[-1] = work()

    with torch.inference_mode():
        for batch in CHECKED:
            attempt(f"check of {batch}", partial(check, partial(check_step, exact, backend.kernel, batch)))
        bandwidth = copy_bandwidth()
        say(f"{torch.cuda.get_device_name()}: copy {bandwidth / 1e12:.3f} TB/s; torch {torch.__version__}")
        torch.cuda.empty_cache()
        for batch in batches:
            own = partial(step_rows, weights, kernels, batch, rounds, bandwidth, sweep=sweep, compiled=compiled)
            attempt(f"step of {batch}", partial(_extend, rows, own))
            torch.cuda.empty_cache()
        if scan:
            attempt("check of the scan", partial(check, partial(check_scan, exact, backend)))
            attempt("scan", partial(_extend, rows, partial(scan_rows, backend, rounds, bandwidth)))
    if train:
        from kernels.cuda.bench_training import time_steps  # noqa: PLC0415  (builds its own contenders)

        with redirect_stdout(sys.stderr):  # standard output is for the report
            attempt("training step", lambda: time_steps(64, 2_048, rounds, rows))
    return rows, all(good)
