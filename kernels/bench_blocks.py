"""Mamba-1 and Mamba-2 blocks side by side: `python -m kernels.bench_blocks [--device cuda]`.

Networks of the product's sizes that differ in the kind of block alone. The step on the torch backend; on CUDA also on the
backend `cuda`, as it is called and under a CUDA graph, and the training step. Each step is checked against float64 first.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import torch

from kernels.backend import choose_backend
from kernels.bench_step import CONFIG, Contender, Inputs, Row, describe_device, on_pool, report, this_commit
from kernels.config import MambaConfig
from kernels.reference import RecurrentState, network_step
from kernels.weights import random_weights


def described(config: MambaConfig) -> str:
    """The kind of block and what a vehicle's state takes."""
    return f"{config.block}, d_state {config.d_state}, {config.state_bytes} bytes"


def contender(config: MambaConfig, batch: int) -> Contender:
    """A network of fresh weights on the torch backend, checked; raises RuntimeError when its first step is wrong."""
    weights, inputs = random_weights(config), Inputs.draw(batch, config)
    exact = RecurrentState(inputs.state.conv.double(), inputs.state.ssm.double())
    truth, _ = network_step(config, weights, inputs.features.double(), inputs.ratio.double(), exact)
    found = Contender(described(config), on_pool(choose_backend("reference", config, weights), inputs, config))
    found.check(truth.forecast_mean)
    return found


def rows_for(configs: Sequence[MambaConfig], batch: int, rounds: int) -> Iterator[Row]:
    """Both kinds in turn, round after round; the peer is Mamba-1."""
    field = [contender(config, batch) for config in configs]
    for _ in range(rounds):
        for one in field:
            one.measure(max(4, 64 // batch))
    for one in field[1:]:
        yield from report(one, field[:1], "step_time", {"batch": batch, "length": 1}, 0.0)
    yield from report(field[0], field[:1], "step_time", {"batch": batch, "length": 1}, 0.0)


def main() -> None:
    """Prints one JSON report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 64, 240])
    parser.add_argument(
        "--d-state", type=int, nargs="+", default=[64, 128], help="of Mamba-2; Mamba-1's is the product's"
    )
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument(
        "--train", metavar="BATCHxLENGTH", nargs="*", default=["64x2048", "16x34560"], help="on CUDA: training steps"
    )
    given = parser.parse_args()
    configs = (CONFIG, *(replace(CONFIG, block="mamba2", d_state=d_state) for d_state in given.d_state))
    if given.device == "cuda":
        from kernels.cuda.bench_blocks import step_rows, train_rows  # noqa: PLC0415  (needs a device)

        device = torch.cuda.get_device_name()
        sizes = [(int(size.split("x")[0]), int(size.split("x")[1])) for size in given.train]
        rows = [row for batch in given.batch for row in step_rows(configs, batch, given.rounds)]
        rows += [row for batch, length in sizes for row in train_rows(configs, batch, length, given.rounds)]
    else:
        device = describe_device(torch.get_num_threads())
        with torch.inference_mode():
            rows = [row for batch in given.batch for row in rows_for(configs, batch, given.rounds)]
    about = {"commit": this_commit(), "date": datetime.now(UTC).isoformat(timespec="seconds"), "device": device}
    sys.stdout.write(json.dumps({**about, "command": " ".join(sys.argv), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
