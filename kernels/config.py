"""The shape of the network. The only place that knows the shapes of the recurrent state."""

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

BlockKind = Literal["mamba1", "mamba2"]
BLOCKS: tuple[BlockKind, ...] = get_args(BlockKind)
# Sizes that only one kind of block has; a checkpoint names them with that kind alone.
OWN_SIZES: dict[BlockKind, tuple[str, ...]] = {"mamba1": ("dt_rank",), "mamba2": ("block", "head_dim", "n_groups")}


@dataclass(frozen=True, slots=True)
class MambaConfig:
    """Sizes of the network; everything else follows from them.

    Raises:
        ValueError: a size is not positive, or sizes do not fit each other.
    """

    d_input: int  # width of one preprocessed sample; its first n_channels are the held z-scores
    n_channels: int  # channels that the forecast head predicts
    d_model: int = 128  # width of the residual stream
    n_layer: int = 4  # residual blocks
    d_state: int = 64  # state size per inner channel
    d_conv: int = 4  # taps of the causal depthwise convolution
    expand: int = 2  # d_inner / d_model
    dt_rank: int = 8  # mamba1: rank of the step-size projection
    nominal_interval_s: float = 5.0  # elapsed time at which a block is plain Mamba, seconds
    max_hold_ratio: float = 12.0  # a sample stands for at most this many nominal intervals (ADR 1)
    norm_eps: float = 1e-5  # RMSNorm
    block: BlockKind = "mamba1"  # selective scan (Gu & Dao 2023) or SSD (Dao & Gu 2024)
    head_dim: int = 64  # mamba2: inner channels that share one decay
    n_groups: int = 1  # mamba2: groups of heads that share B and C

    def __post_init__(self) -> None:
        if self.block not in BLOCKS:
            raise ValueError(f"block must be one of {', '.join(BLOCKS)}, got {self.block!r}")
        for field in fields(self):
            if field.name != "block" and getattr(self, field.name) <= 0:
                raise ValueError(f"{field.name} must be positive, got {getattr(self, field.name)}")
        if self.d_input < self.n_channels:
            raise ValueError(f"d_input {self.d_input} cannot hold the z-scores of {self.n_channels} channels")
        if self.block == "mamba2" and self.d_inner % self.head_dim:
            raise ValueError(f"head_dim {self.head_dim} does not divide the inner width {self.d_inner}")
        if self.block == "mamba2" and self.n_heads % self.n_groups:
            raise ValueError(f"n_groups {self.n_groups} does not divide the {self.n_heads} heads")

    @property
    def d_inner(self) -> int:
        """Inner width of a block."""
        return self.expand * self.d_model

    @property
    def n_heads(self) -> int:
        """Heads of a Mamba-2 block."""
        return self.d_inner // self.head_dim

    @property
    def conv_width(self) -> int:
        """Channels of a block's convolution: u in Mamba-1; u, B and C in Mamba-2."""
        return self.d_inner + (2 * self.n_groups * self.d_state if self.block == "mamba2" else 0)

    @property
    def conv_state_shape(self) -> tuple[int, int, int]:
        """Per vehicle, fp32: the last d_conv - 1 inputs of each block's convolution, oldest first."""
        return (self.n_layer, self.conv_width, self.d_conv - 1)

    @property
    def ssm_state_shape(self) -> tuple[int, int, int]:
        """Per vehicle, fp32: the selective state of each block; with Mamba-2 head after head."""
        return (self.n_layer, self.d_inner, self.d_state)

    @property
    def state_bytes(self) -> int:
        """Bytes of one vehicle's recurrent state in fp32."""
        return 4 * self.n_layer * (self.conv_width * (self.d_conv - 1) + self.d_inner * self.d_state)

    def described(self) -> dict[str, Any]:
        """The sizes that this kind of block has, as checkpoints and fingerprints hold them.

        A Mamba-1 network is described as it was before there was another kind, so that its fingerprint stays.
        """
        foreign = {name for kind, names in OWN_SIZES.items() if kind != self.block for name in names}
        return {name: value for name, value in asdict(self).items() if name not in foreign}
