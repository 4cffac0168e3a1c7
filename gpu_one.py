"""One cut at one batch, for ncu and for the trace: python gpu_one.py batch vans cut [trace]"""
import ctypes, sys
import torch
from kernels.cuda import bench_step as b
from kernels.cuda import launch as launcher
from kernels.cuda import step as m
from kernels.cuda.step import StepKernel
from kernels.cuda.step_plan import StepPlan
from kernels.weights import random_weights
batch, vans, plan = int(sys.argv[1]), int(sys.argv[2]), StepPlan(b.CONFIG, **eval(sys.argv[3]))
traced = len(sys.argv) > 4
used = {}
if traced:
    plain = m._launch
    def launch(plan, blocks):
        what = plain(plan, blocks)
        what = launcher.Launch(what.source, what.kernel, {**what.defines, "TRACE": 1}, what.blocks, what.threads, what.shared_bytes, what.cluster)
        used["defines"] = tuple(sorted(what.defines.items()))
        return what
    m._launch = launch
kernel = StepKernel(b.CONFIG, random_weights(b.CONFIG), torch.device("cuda"))
with torch.inference_mode():
    step = b.Step(batch)
    for _ in range(5): step.run(kernel, plan, vans)
    torch.cuda.synchronize()
    if traced:
        work = b.graphed(lambda: step.run(kernel, plan, vans))
        for _ in range(20): work()
        torch.cuda.synchronize()
        driver = launcher.import_driver()
        module = launcher.load_module(0, "step.cu", used["defines"])
        (at, size) = launcher.check(driver, driver.cuModuleGetGlobal(module, b"trace"), "trace")
        data = (ctypes.c_longlong * 256)()
        launcher.check(driver, driver.cuMemcpyDtoH(ctypes.addressof(data), at, 2048), "copy")
        v = list(data); n = 2 + 1 + 10 * 4 + 1
        d = [v[i + 1] - v[i] for i in range(n - 1)]
        print(sys.argv[1:4], "total", v[n - 1] - v[0])
        print(" start", d[0], "embed", d[1], "heads", d[-1])
        print("  in_proj|wait|conv|x_proj|add_up|sizes|advance|wait|out_proj|add_up")
        for layer in range(4): print("   ", d[2 + 10 * layer : 12 + 10 * layer])
