"""Selective scan with elapsed time on CUDA, channel-last, with gradients. The maths is that of `kernels.reference`."""

import ctypes
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kernels.cuda import launch as launcher
from kernels.cuda.causal_conv1d import dense_last
from kernels.cuda.launch import Launch, Strides, pointer

CHANNELS = 16  # of one block
D_STATES = (16, 32, 64, 128)


@dataclass(frozen=True, slots=True)
class ScanTiling:
    """How the kernels are cut; changes speed and memory, not results beyond rounding."""

    tile: int = 32  # steps between stored states: the backward pass keeps 4 * d_inner * d_state / tile bytes per sample
    steps: int = 8  # steps whose states are in registers at once in the backward pass
    forward_keep: int = 2  # states per thread and channel, 2 or 4
    backward_keep: int = 4
    forward_blocks: int = 2  # per multiprocessor, at least: bounds the registers
    backward_blocks: int = 2


DEFAULT_TILING = ScanTiling()


class ScanInputs(ctypes.Structure):
    """`ScanInputs` of selective_scan.cu."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("u", "dt_raw", "z", "B", "C")),
        *((name, ctypes.c_void_p) for name in ("dt_bias", "ratio", "A", "D", "initial")),
        *((name, Strides) for name in ("u_at", "dt_raw_at", "z_at", "B_at", "C_at")),
        ("length", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("channels", "groups", "tiles")),
        ("max_hold", ctypes.c_float),
    )


class ForwardParams(ctypes.Structure):
    """`ForwardParams` of selective_scan.cu."""

    _fields_ = (("inputs", ScanInputs), *((name, ctypes.c_void_p) for name in ("out", "y", "checkpoints", "last")))


class BackwardParams(ctypes.Structure):
    """`BackwardParams` of selective_scan.cu."""

    _fields_ = (
        ("inputs", ScanInputs),
        *((name, ctypes.c_void_p) for name in ("d_out", "y", "checkpoints", "d_last", "d_u", "d_dt_raw", "d_z")),
        ("d_z_at", Strides),
        *((name, ctypes.c_void_p) for name in ("d_B", "d_C", "d_A", "d_D", "d_dt_bias", "d_initial")),
        ("group_stride", ctypes.c_int64),
    )


@dataclass(slots=True)
class Operands:
    """Checked operands of one scan; detached, small ones in fp32."""

    u: Tensor  # (batch, length, d_inner) fp32 or bf16; so are dt_raw and z
    dt_raw: Tensor
    z: Tensor | None
    B: Tensor  # (batch, length, d_state), like u; so is C
    C: Tensor
    dt_bias: Tensor  # (d_inner,) fp32
    ratio: Tensor  # (batch, length) fp32
    A: Tensor  # (d_inner, d_state) fp32
    D: Tensor  # (d_inner,) fp32
    initial: Tensor | None  # (batch, d_inner, d_state) fp32
    max_hold_ratio: float
    tiling: ScanTiling

    def __post_init__(self) -> None:
        """Bring strides and dtypes into the form that the kernels take.

        Raises:
            ValueError: shapes or dtypes do not fit, or d_state is none of 16, 32, 64, 128.
        """
        if self.u.dtype not in {torch.float32, torch.bfloat16} or self.u.ndim != 3 or self.u.numel() == 0:
            raise ValueError(
                f"u must be a filled (batch, length, d_inner) in fp32 or bf16, got {self.u.shape} {self.u.dtype}"
            )
        batch, length, d_inner = self.u.shape
        d_state = self.A.shape[-1]
        if d_state not in D_STATES:
            raise ValueError(f"d_state must be one of {D_STATES}, got {d_state}")
        shapes = {
            "dt_raw": (batch, length, d_inner), "z": (batch, length, d_inner), "B": (batch, length, d_state),
            "C": (batch, length, d_state), "dt_bias": (d_inner,), "ratio": (batch, length), "A": (d_inner, d_state),
            "D": (d_inner,), "initial": (batch, d_inner, d_state),
        }  # fmt: skip
        for name in ("u", *shapes):
            tensor = getattr(self, name)
            if tensor is None:
                continue
            if name != "u" and tensor.shape != shapes[name]:
                raise ValueError(f"{name} must be {shapes[name]}, got {tuple(tensor.shape)}")
            if name in {"u", "dt_raw", "z", "B", "C"}:
                if tensor.dtype != self.u.dtype:
                    raise ValueError(f"{name} is {tensor.dtype}, u is {self.u.dtype}")
                setattr(self, name, dense_last(tensor.detach()))
            else:
                setattr(self, name, tensor.detach().float().contiguous())

    @property
    def d_state(self) -> int:
        """States per channel."""
        return self.A.shape[-1]

    @property
    def groups(self) -> int:
        """Blocks per sequence."""
        return -(-self.u.shape[-1] // CHANNELS)

    @property
    def tiles(self) -> int:
        """Stored states per sequence."""
        return -(-self.u.shape[1] // self.tiling.tile)

    def aligned(self, *more: Tensor | None) -> bool:
        """Whether all rows of these operands and of `more` can be copied 16 bytes at a time."""
        rows = [t for t in (self.u, self.dt_raw, self.z, self.B, self.C, *more) if t is not None]
        bytes_apart = [(t.data_ptr(), t.stride(0) * t.element_size(), t.stride(1) * t.element_size()) for t in rows]
        return self.u.shape[-1] * self.u.element_size() % 16 == 0 and not any(
            distance % 16 for distances in bytes_apart for distance in distances
        )

    def params(self) -> ScanInputs:
        """As the kernels take them."""
        return ScanInputs(
            u=pointer(self.u), dt_raw=pointer(self.dt_raw), z=pointer(self.z), B=pointer(self.B), C=pointer(self.C),
            dt_bias=pointer(self.dt_bias), ratio=pointer(self.ratio), A=pointer(self.A), D=pointer(self.D),
            initial=pointer(self.initial), u_at=Strides.of(self.u), dt_raw_at=Strides.of(self.dt_raw),
            z_at=Strides.of(self.z), B_at=Strides.of(self.B), C_at=Strides.of(self.C), length=self.u.shape[1],
            channels=self.u.shape[2], groups=self.groups, tiles=self.tiles,
            max_hold=self.max_hold_ratio,
        )  # fmt: skip

    def launch(self, kernel: str, params: ctypes.Structure, keep: int, *, aligned: bool) -> None:
        """Start one of the two kernels."""
        tiling = self.tiling
        warps = self.d_state // (4 * keep)
        # A block of 16 channels with 128 states has 256 threads or more: two do not fit at 255 registers.
        crowd = 1 if self.d_state > 64 else tiling.backward_blocks
        element = self.u.element_size()
        defines = {
            "D_STATE": self.d_state, "KEEP": keep, "TILE": tiling.tile, "STEPS": tiling.steps,
            "ELEMENT_BF16": int(self.u.dtype == torch.bfloat16), "ALIGNED": int(aligned),
            "FORWARD_BLOCKS": tiling.forward_blocks, "BACKWARD_BLOCKS": crowd,
            "FORWARD_SHARED": forward_shared_bytes(tiling, self.d_state, keep, element),
            "BACKWARD_SHARED": backward_shared_bytes(tiling, self.d_state, keep, element),
            "FORWARD_PARAMS": ctypes.sizeof(ForwardParams), "BACKWARD_PARAMS": ctypes.sizeof(BackwardParams),
        }  # fmt: skip
        shared = defines["FORWARD_SHARED" if kernel == "scan_forward" else "BACKWARD_SHARED"]
        blocks = self.u.shape[0] * self.groups
        launcher.launch(Launch("selective_scan.cu", kernel, defines, blocks, 32 * warps, shared), params, self.u.device)


def raw_tile_bytes(tiling: ScanTiling, d_state: int, element: int, arrays: int) -> int:
    """`sizeof(RawTile<arrays>)`."""
    return tiling.tile * (element * (arrays * CHANNELS + 2 * d_state) + 4)


def forward_shared_bytes(tiling: ScanTiling, d_state: int, keep: int, element: int) -> int:
    """`sizeof(ForwardShared)`; the compiler checks it."""
    warps = d_state // (4 * keep)
    return raw_tile_bytes(tiling, d_state, element, 3) + tiling.tile * (8 * d_state + CHANNELS * (16 + 4 * warps))


def backward_shared_bytes(tiling: ScanTiling, d_state: int, keep: int, element: int) -> int:
    """`sizeof(BackwardShared)`; the compiler checks it."""
    warps = d_state // (4 * keep)
    per_step = 8 * d_state + CHANNELS * (40 + 8 * warps) + 4 * (2 * d_state + 16)
    states = max(tiling.tile // tiling.steps - 1, 1) * 8 * keep * 32 * warps
    return raw_tile_bytes(tiling, d_state, element, 5) + tiling.tile * per_step + states


@dataclass(frozen=True, slots=True)
class Forward:
    """What the forward pass leaves."""

    out: Tensor  # (batch, length, d_inner)
    y: Tensor | None  # the same before the gate, for the backward pass
    checkpoints: Tensor | None  # (batch, tiles, d_inner, d_state) fp32, for the backward pass
    last: Tensor  # (batch, d_inner, d_state) fp32


@dataclass(frozen=True, slots=True)
class Gradients:
    """What the backward pass leaves; all but d_u and d_dt_raw in fp32."""

    d_u: Tensor  # (batch, length, d_inner)
    d_dt_raw: Tensor  # (batch, length, d_inner)
    d_B: Tensor  # noqa: N815  (batch, length, d_state)
    d_C: Tensor  # noqa: N815  (batch, length, d_state)
    d_dt_bias: Tensor  # (d_inner,)
    d_A: Tensor  # noqa: N815  (d_inner, d_state)
    d_D: Tensor  # noqa: N815  (d_inner,)
    d_initial: Tensor  # (batch, d_inner, d_state)


def scan_forward(operands: Operands, *, for_backward: bool) -> Forward:
    """Run the forward kernel; `for_backward` keeps what `scan_backward` needs."""
    u = operands.u
    batch, _, d_inner = u.shape
    out = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    y = torch.empty_like(out) if for_backward and operands.z is not None else None
    checkpoints = None
    if for_backward:
        checkpoints = u.new_empty(batch, operands.tiles, d_inner, operands.d_state, dtype=torch.float32)
    last = u.new_empty(batch, d_inner, operands.d_state, dtype=torch.float32)
    params = ForwardParams(
        inputs=operands.params(), out=pointer(out), y=pointer(y), checkpoints=pointer(checkpoints), last=pointer(last)
    )
    operands.launch("scan_forward", params, operands.tiling.forward_keep, aligned=operands.aligned())
    return Forward(out, y, checkpoints, last)


def scan_backward(
    operands: Operands,
    y: Tensor | None,
    checkpoints: Tensor,
    d_out: Tensor,
    d_last: Tensor | None = None,
    d_z: Tensor | None = None,
    *,
    deterministic: bool | None = None,
) -> Gradients:
    """Run the backward kernel.

    Args:
        operands: those of the forward pass, with the same tile.
        y: its `y`; may be None without a gate.
        checkpoints: its `checkpoints`.
        d_out: (batch, length, d_inner).
        d_last: (batch, d_inner, d_state) or None for zero.
        d_z: where the gate's gradient goes, (batch, length, d_inner), last dimension dense; needed with a gate.
        deterministic: sum the gradients of B and C in a fixed order, for 8 * d_inner / 16 * d_state bytes per sample
            of workspace; None asks torch.
    """
    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    u = operands.u
    batch, length, d_inner = u.shape
    d_out = d_out.to(u.dtype).contiguous()
    d_u, d_dt_raw = torch.empty_like(d_out), torch.empty_like(d_out)
    if d_last is not None:
        d_last = d_last.float().contiguous()

    def fp32(*shape: int) -> Tensor:
        return u.new_empty(*shape, dtype=torch.float32)

    sums = (operands.groups, batch, length, operands.d_state) if deterministic else (batch, length, operands.d_state)
    d_B, d_C = (fp32(*sums) if deterministic else fp32(*sums).zero_() for _ in range(2))
    d_A, d_initial = fp32(batch, d_inner, operands.d_state), fp32(batch, d_inner, operands.d_state)
    d_D, d_dt_bias = fp32(batch, d_inner), fp32(batch, d_inner)
    params = BackwardParams(
        inputs=operands.params(), d_out=pointer(d_out), y=pointer(y), checkpoints=pointer(checkpoints),
        d_last=pointer(d_last), d_u=pointer(d_u), d_dt_raw=pointer(d_dt_raw), d_z=pointer(d_z), d_z_at=Strides.of(d_z),
        d_B=pointer(d_B), d_C=pointer(d_C), d_A=pointer(d_A), d_D=pointer(d_D), d_dt_bias=pointer(d_dt_bias),
        d_initial=pointer(d_initial), group_stride=d_B.stride(0) if deterministic else 0,
    )  # fmt: skip
    operands.launch("scan_backward", params, operands.tiling.backward_keep, aligned=operands.aligned(d_out, y))
    if deterministic:
        d_B, d_C = d_B.sum(dim=0), d_C.sum(dim=0)
    return Gradients(d_u, d_dt_raw, d_B, d_C, d_dt_bias.sum(dim=0), d_A.sum(dim=0), d_D.sum(dim=0), d_initial)


def selective_scan(
    u: Tensor,
    dt_raw: Tensor,
    dt_bias: Tensor,
    ratio: Tensor,
    max_hold_ratio: float,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    z: Tensor | None = None,
    ssm_state: Tensor | None = None,
    tiling: ScanTiling = DEFAULT_TILING,
) -> tuple[Tensor, Tensor]:
    """Step sizes, scan, skip and gate in one kernel; differentiates in every tensor but `ratio`.

    Args:
        u: (batch, length, d_inner) fp32 or bf16.
        dt_raw: like u; before bias and softplus.
        dt_bias: (d_inner,).
        ratio: (batch, length) elapsed time over the nominal interval.
        max_hold_ratio: the most nominal intervals that one sample stands for.
        A: (d_inner, d_state), negative; d_state is one of 16, 32, 64, 128.
        B: (batch, length, d_state) in the dtype of u.
        C: (batch, length, d_state) in the dtype of u.
        D: (d_inner,).
        z: like u, or None for no gate.
        ssm_state: (batch, d_inner, d_state) initial state, or None for zero; not modified.
        tiling: how the kernels are cut.

    u, dt_raw, B, C and z may be views with any strides of the outer dimensions.

    Returns:
        (y + D * u) * silu(z) (batch, length, d_inner) in the dtype of u, and the last state
        (batch, d_inner, d_state) fp32.

    Raises:
        ValueError: operands do not fit, or are not on a CUDA device, or a gradient of `ratio` is asked for.
    """
    out, last = _SelectiveScan.apply(  # type: ignore[no-untyped-call]
        u, dt_raw, dt_bias, ratio, max_hold_ratio, A, B, C, D, z, ssm_state, tiling
    )
    return out, last


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, u: Tensor, dt_raw: Tensor, dt_bias: Tensor, ratio: Tensor, max_hold_ratio: float, A: Tensor,
        B: Tensor, C: Tensor, D: Tensor, z: Tensor | None, ssm_state: Tensor | None, tiling: ScanTiling,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        if ctx.needs_input_grad[3]:
            raise ValueError("the scan has no gradient for the elapsed time")
        operands = Operands(u, dt_raw, z, B, C, dt_bias, ratio, A, D, ssm_state, max_hold_ratio, tiling)
        result = scan_forward(operands, for_backward=any(ctx.needs_input_grad))
        ctx.save_for_backward(u, dt_raw, dt_bias, ratio, A, B, C, D, z, ssm_state, result.y, result.checkpoints)
        ctx.max_hold_ratio, ctx.tiling = max_hold_ratio, tiling
        ctx.set_materialize_grads(False)
        return result.out, result.last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d_out: Tensor | None, d_last: Tensor | None) -> tuple[Tensor | None, ...]:
        u, dt_raw, dt_bias, ratio, A, B, C, D, z, ssm_state, y, checkpoints = ctx.saved_tensors
        operands = Operands(u, dt_raw, z, B, C, dt_bias, ratio, A, D, ssm_state, ctx.max_hold_ratio, ctx.tiling)
        d_out = torch.zeros_like(u) if d_out is None else d_out
        d_z = None if z is None else torch.empty(z.shape, dtype=z.dtype, device=z.device)
        g = scan_backward(operands, y, checkpoints, d_out, d_last, d_z)
        return (
            g.d_u, g.d_dt_raw, g.d_dt_bias.to(dt_bias.dtype), None, None, g.d_A.to(A.dtype), g.d_B.to(B.dtype),
            g.d_C.to(C.dtype), g.d_D.to(D.dtype), d_z, None if ssm_state is None else g.d_initial.to(ssm_state.dtype),
            None,
        )  # fmt: skip
