"""Many sequences of different lengths, one behind the other."""

from collections.abc import Callable

import torch
from torch import Tensor

from kernels.config import MambaConfig
from kernels.pool import StatePool
from kernels.reference import NetworkOutput, RecurrentState

Scan = Callable[[Tensor, Tensor, RecurrentState | None], tuple[NetworkOutput, RecurrentState]]


def join_outputs(output: NetworkOutput) -> Tensor:
    """Means, log scales and risk in one row: (..., 2 * n_channels + 1)."""
    parts = (output.forecast_mean, output.forecast_log_scale, output.risk_logit.unsqueeze(-1))
    return torch.cat(parts, dim=-1)


def split_outputs(config: MambaConfig, out: Tensor) -> NetworkOutput:
    """Views of what `join_outputs` joins."""
    n = config.n_channels
    # narrow and select cost a third of slicing, and one vehicle's step is only microseconds.
    return NetworkOutput(
        risk_logit=out.select(-1, 2 * n), forecast_mean=out.narrow(-1, 0, n), forecast_log_scale=out.narrow(-1, n, n)
    )


def last_outputs(config: MambaConfig, output: NetworkOutput, lengths: Tensor) -> NetworkOutput:
    """Of packed outputs, those after the last sample of each vehicle (vehicles,); NaN where there was none."""
    rows = join_outputs(output)
    ends = lengths.cumsum(0).to(rows.device) - 1
    last = torch.full((len(lengths), rows.shape[-1]), torch.nan, dtype=rows.dtype, device=rows.device)
    some = (lengths > 0).to(rows.device)
    last[some] = rows[ends[some]]
    return split_outputs(config, last)


def scan_each(
    config: MambaConfig, scan: Scan, pool: StatePool, slots: Tensor, lengths: Tensor, features: Tensor, ratio: Tensor
) -> NetworkOutput:
    """`Backend.scan_packed` by a scan of one vehicle after another, in place in the pool."""
    rows = torch.empty(len(ratio), 2 * config.n_channels + 1, device=pool.ssm.device)
    first = 0
    for slot, length in zip(slots.to(pool.ssm.device).split(1), lengths.tolist(), strict=True):
        own = slice(first, first + length)
        if length > 0:
            output, state = scan(features[None, own], ratio[None, own], pool.read(slot))
            rows[own] = join_outputs(output)[0]
            pool.write(slot, state)
        first += length
    return split_outputs(config, rows)
