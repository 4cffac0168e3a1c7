"""The step on CUDA: one launch carries any subset of slots one sample on, in place in the pool.

It allocates nothing and waits for nothing, so it can be captured in a CUDA graph once it has run at that batch size.
"""

import ctypes
import functools
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kernels.config import MambaConfig
from kernels.cuda import launch as launcher
from kernels.cuda.launch import CudaLaunchError, Launch, pointer
from kernels.cuda.step_pack import pack_step_weights
from kernels.cuda.step_plan import StepPlan
from kernels.pool import StatePool
from kernels.weights import NetworkWeights

logger = logging.getLogger(__name__)

# Fields of StepPlan and vehicles of a tile at most. The first that takes a batch in one round is used, else the last that
# fits: with few vehicles the weights are the time, and they are read once per cluster; with many, the states are.
# From sweeps on an H100 and an H200, docs/kernels.md.
CUTS: tuple[tuple[Mapping[str, Any], int], ...] = (
    ({"ranks": 16, "threads": 256}, 1),
    ({"ranks": 8}, 2),
    ({"ranks": 4}, 8),
    ({"ranks": 2, "bulk": True}, 8),
    ({"ranks": 2, "threads": 256, "advancers": 256, "bulk": True}, 8),
    ({"ranks": 1, "columns": 16, "pipe": 2, "bulk": True}, 16),
    ({"ranks": 1, "columns": 16, "threads": 256, "advancers": 256, "bulk": True}, 16),
)
# Four ranks and more states than an H100's second-level cache (50 MB) holds: a quarter is kept there, the others pass.
KEPT_RANKS, KEPT_FROM_BYTES, KEPT = 4, 48 << 20, 25


class StepParams(ctypes.Structure):
    """`StepParams` of step.cu."""

    _fields_ = (
        *(
            (name, ctypes.c_void_p)
            for name in ("weights", "tables", "slots", "features", "ratio", "conv", "ssm", "out")
        ),
        ("rows", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("vans", "tiles", "clusters")),
        *((name, ctypes.c_float) for name in ("max_hold", "norm_eps")),
    )


class StepKernel:
    """The network's weights on the device, packed for each way of cutting the step that has been used."""

    def __init__(
        self, config: MambaConfig, weights: NetworkWeights, device: torch.device, *, bf16: bool = False
    ) -> None:
        """`bf16` rounds the projections' weights; states and arithmetic stay fp32.

        Raises:
            StepPlanError: the network does not fit the kernel.
        """
        self._config = config
        self._weights = weights
        self._device = device
        self._bf16 = bf16
        self._packed: dict[StepPlan, tuple[Tensor, Tensor]] = {}
        self._capacity: dict[StepPlan, int] = {}
        self._plans: dict[int, tuple[StepPlan, int]] = {}  # by batch: making one costs more than a launch
        StepPlan(config, 1).defines(0)

    def plan(self, batch: int) -> tuple[StepPlan, int]:
        """How a batch is cut, and vehicles per tile; beyond one round, rounds are made even.

        Raises:
            CudaLaunchError: the device holds no block of the kernel.
        """
        chosen: tuple[StepPlan, int] | None = None
        for fields, most in CUTS:
            plan = StepPlan(self._config, **fields, bf16=self._bf16)
            clusters = self.capacity(plan)
            if clusters == 0:
                continue
            at_once = clusters * plan.tiles_in_flight
            rounds = -(-batch // (at_once * most))
            chosen = plan, max(1, -(-batch // (at_once * rounds)))
            if rounds == 1:
                break
        if chosen is None:
            raise CudaLaunchError(f"{self._device} holds no block of the step kernel")
        plan, vans = chosen
        if plan.ranks == KEPT_RANKS and batch * self._config.state_bytes > KEPT_FROM_BYTES:
            plan = replace(plan, kept=KEPT)
        return plan, vans

    def capacity(self, plan: StepPlan) -> int:
        """Clusters of a plan that the device holds at once; 0 where it makes no sense for the network."""
        if plan not in self._capacity:
            self._capacity[plan] = self._ask_capacity(plan) if plan.fits and not plan.wasteful else 0
        return self._capacity[plan]

    def _ask_capacity(self, plan: StepPlan) -> int:
        if self._device.type != "cuda":  # the emulation
            return 8 // plan.ranks
        try:
            found = launcher.most_clusters(_launch(plan, plan.ranks), self._device)
        except CudaLaunchError as error:  # the device may hold no cluster so large
            logger.warning("the step does without clusters of %d blocks: %s", plan.ranks, error)
            return 0
        logger.info("the device holds %d clusters of %d blocks of the step", found, plan.ranks)
        return found

    def run(
        self,
        pool: StatePool,
        slots: Tensor,
        features: Tensor,
        ratio: Tensor,
        out: Tensor,
        plan: StepPlan | None = None,
        vans: int | None = None,
    ) -> None:
        """Advance `slots` by one sample each; returns before it has happened.

        Args:
            pool: states, on this device.
            slots: (batch,) int64, contiguous, on this device; distinct, except that slot 0 may repeat. Not checked.
            features: (batch, d_input) fp32, contiguous, on this device.
            ratio: (batch,) fp32, contiguous, on this device.
            out: (batch, 2 * n_channels + 1) fp32, contiguous: means, log scales, risk.
            plan: how to cut it; by default `self.plan`'s.
            vans: vehicles per tile, at most `plan.columns`.

        Raises:
            ValueError: a tensor has another shape, dtype or place than the kernel takes.
        """
        batch = len(slots)
        self._check(pool, slots, features, ratio, out)
        if batch == 0:
            return
        if plan is None:
            if batch not in self._plans:
                self._plans[batch] = self.plan(batch)
            plan, vans = self._plans[batch]
        vans = min(vans or plan.columns, plan.columns)
        tiles = -(-batch // vans)
        clusters = min(tiles, max(1, self.capacity(plan)))
        fragments, tables = self.packed(plan)
        params = StepParams(
            weights=pointer(fragments), tables=pointer(tables), slots=pointer(slots), features=pointer(features),
            ratio=pointer(ratio), conv=pointer(pool.conv), ssm=pointer(pool.ssm), out=pointer(out), rows=batch,
            vans=vans, tiles=tiles, clusters=clusters, max_hold=self._config.max_hold_ratio,
            norm_eps=self._config.norm_eps,
        )  # fmt: skip
        launcher.launch(_launch(plan, clusters * plan.ranks), params, self._device)

    def packed(self, plan: StepPlan) -> tuple[Tensor, Tensor]:
        """Fragments and tables of a plan on the device."""
        if plan not in self._packed:
            fragments, tables = pack_step_weights(plan, self._weights)
            self._packed[plan] = (fragments.to(self._device), tables.to(self._device))
        return self._packed[plan]

    def _check(self, pool: StatePool, slots: Tensor, features: Tensor, ratio: Tensor, out: Tensor) -> None:
        """The kernel gets addresses only: whatever would make it read or write elsewhere is refused here."""
        batch, config = len(slots), self._config
        if (pool.config is not config and pool.config != config) or pool.ssm.device.type != self._device.type:
            raise ValueError(f"the pool holds states of {pool.config} on {pool.ssm.device}, not {config} here")
        shapes = {
            "slots": (slots, (batch,), torch.int64),
            "features": (features, (batch, config.d_input), torch.float32),
            "ratio": (ratio, (batch,), torch.float32),
            "out": (out, (batch, 2 * config.n_channels + 1), torch.float32),
        }
        for name, (tensor, shape, dtype) in shapes.items():
            if tensor.shape != shape or tensor.dtype != dtype or not tensor.is_contiguous():
                raise ValueError(
                    f"{name} must be a contiguous {shape} of {dtype}, got {tuple(tensor.shape)} {tensor.dtype}"
                )
            if tensor.device.type != self._device.type:
                raise ValueError(f"{name} must be on {self._device}, got {tensor.device}")


@functools.cache
def _launch(plan: StepPlan, blocks: int) -> Launch:
    defines = plan.defines(ctypes.sizeof(StepParams))
    return Launch("step.cu", "network_step", defines, blocks, plan.block_threads, plan.shared_bytes, plan.ranks)
