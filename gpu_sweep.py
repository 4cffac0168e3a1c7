"""Sweep of cuts on the device: check, then time."""
import ctypes, json, os, statistics, sys, time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
import torch
from kernels.cuda import bench_step as b
from kernels.cuda import launch as launcher
from kernels.cuda import step as step_module
from kernels.cuda.step import StepKernel, StepParams
from kernels.cuda.step_plan import StepPlan
from kernels.weights import random_weights

C = b.CONFIG
D = dict
LARGE = [
    (D(ranks=1), 8), (D(ranks=1, ring=3), 8), (D(ranks=1, pipe=2), 8), (D(ranks=1, kept=0), 8), (D(ranks=1, ring=3, kept=0), 8),
    (D(ranks=2), 8), (D(ranks=2, ring=3), 8),
    (D(ranks=1, threads=256, blocks=2), 8), (D(ranks=1, threads=256, blocks=2, kept=0), 8), (D(ranks=1, threads=256, blocks=2, ring=2), 8),
    (D(ranks=1, threads=256, blocks=2), 4),
    (D(ranks=2, threads=256, blocks=2), 8), (D(ranks=2, threads=256, blocks=2, kept=0), 8), (D(ranks=2, threads=256, blocks=2, pipe=2), 8),
    (D(ranks=1, columns=16), 16), (D(ranks=1, columns=16, pipe=2), 16), (D(ranks=1, columns=16, pipe=2, kept=0), 16),
    (D(ranks=2, columns=16), 16), (D(ranks=2, columns=16, pipe=2), 16), (D(ranks=2, columns=16, pipe=2, kept=0), 16),
    (D(ranks=4, columns=16, two_hops=True), 16), (D(ranks=4, columns=16, two_hops=True, kept=0), 16), (D(ranks=4), 8),
    (D(ranks=1, bf16=True), 8),
]
SWEEP = {
    1: [(D(ranks=16, threads=t), 1) for t in (128, 256, 512)] + [(D(ranks=16, threads=256, two_hops=True), 1),
        (D(ranks=8, threads=256), 1), (D(ranks=8, threads=512), 1), (D(ranks=16, threads=256, pipe=2), 1)],
    7: [(D(ranks=16, threads=256), 1), (D(ranks=8, threads=256), 1)],
    64: [(D(ranks=8), 8), (D(ranks=8), 5), (D(ranks=8, two_hops=True), 5), (D(ranks=4), 4), (D(ranks=4), 3), (D(ranks=4, two_hops=True), 3),
        (D(ranks=2), 1), (D(ranks=16), 10), (D(ranks=16, columns=16, two_hops=True), 10), (D(ranks=8, threads=256), 5), (D(ranks=4, threads=256), 3)],
    240: [(D(ranks=4), 8), (D(ranks=4, two_hops=True), 8), (D(ranks=4, threads=256), 8), (D(ranks=2), 4), (D(ranks=2, threads=256, blocks=2), 2),
        (D(ranks=4, threads=256, blocks=2, two_hops=True), 4), (D(ranks=8, columns=16, two_hops=True), 16), (D(ranks=4, kept=0), 8),
        (D(ranks=4, kept=25), 8), (D(ranks=4, kept=45), 8), (D(ranks=4, kept=60), 8), (D(ranks=1), 2), (D(ranks=4, ring=4), 8), (D(ranks=4, pipe=2), 8)],
    1024: LARGE + [(D(ranks=1, kept=8), 8), (D(ranks=1, kept=12), 8)], 4096: LARGE, 16384: LARGE,
}

def vans_for(batch, cut, vans):
    if batch == 1024 and cut.get("blocks", 1) * 1 > 1 and cut["ranks"] == 1: return min(vans, 4)
    return vans

def compile_one(plan, arch):
    b.compile_plan(plan, arch)

def main():
    torch.set_float32_matmul_precision("highest")
    t0 = time.time()
    random = random_weights(C)
    gpu = torch.device("cuda")
    weights, exact = random.to(device=gpu, dtype=torch.float32), random.to(device=gpu, dtype=torch.float64)
    kernel = StepKernel(C, random, gpu)
    plans = {StepPlan(C, **cut) for cuts in SWEEP.values() for cut, _ in cuts}
    with ProcessPoolExecutor(16, mp_context=get_context("spawn")) as pool:
        for job, plan in [(pool.submit(compile_one, plan, "sm_90"), plan) for plan in plans]:
            b.attempt(f"compiling {plan}", job.result)
    print("compiled", len(plans), f"{time.time() - t0:.0f} s", flush=True)
    good, rows = {}, []
    with torch.inference_mode():
        bandwidth = b.copy_bandwidth(); torch.cuda.empty_cache()
        print(f"{torch.cuda.get_device_name()} copy {bandwidth / 1e12:.3f} TB/s", flush=True)
        for batch in map(int, sys.argv[1].split(",")):
            floor = 2 * batch * C.state_bytes / bandwidth * 1e6
            peer = [0.0]
            def mamba():
                work = b.graphed(b.mamba_ssm_step(weights, batch))
                peer[0] = statistics.median(b.microseconds(work, max(3, min(50, 40000 // batch))) for _ in range(5))
            b.attempt("mamba", mamba)
            torch.cuda.empty_cache()
            print(f"--- {batch}: floor {floor:.1f} us, mamba-ssm {peer[0]:.1f} us", flush=True)
            step = b.Step(batch)
            for cut, vans in SWEEP[batch]:
                def one():
                    plan = StepPlan(C, **cut); v = vans_for(batch, cut, vans)
                    capacity = kernel.capacity(plan)
                    key = (plan, v)
                    if capacity == 0: print("no", cut); return
                    if key not in good: good[key] = b.check_step(exact, kernel, min(batch, 300), plan, v)
                    if not good[key]: print("WRONG", cut, v, flush=True)
                    work = b.graphed(partial(step.run, kernel, plan, v))
                    repeats = max(3, min(50, 40000 // batch))
                    us = statistics.median(b.microseconds(work, repeats) for _ in range(3))
                    rows.append(dict(batch=batch, cut=cut, vans=v, us=us, floor=floor, peer=peer[0], capacity=capacity))
                    print(f"{batch:6d} {str(cut):62s} vans {v:2d} ring {plan.ring_slots:2d} fits {capacity:3d}: {us:8.1f} us {floor / us:4.0%} x{peer[0] / us:.2f}", flush=True)
                b.attempt(str(cut), one)
                torch.cuda.synchronize()
            del step; torch.cuda.empty_cache()
    json.dump(rows, open(os.environ["OUT"] + "/sweep.json", "w"))
    print(f"{time.time() - t0:.0f} s")

main()
