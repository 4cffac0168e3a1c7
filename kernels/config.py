"""The shape of the network. The only place that knows the shapes of the recurrent state."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True)
class MambaConfig:
    """Sizes of the network; everything else follows from them.

    Raises:
        ValueError: a size is not positive.
    """

    d_input: int  # width of one preprocessed sample; its first n_channels are the held z-scores
    n_channels: int  # channels that the forecast head predicts
    d_model: int = 128  # width of the residual stream
    n_layer: int = 4  # residual Mamba-1 blocks
    d_state: int = 64  # state size per inner channel
    d_conv: int = 4  # taps of the causal depthwise convolution
    expand: int = 2  # d_inner / d_model
    dt_rank: int = 8  # rank of the step-size projection
    nominal_interval_s: float = 5.0  # elapsed time at which a block is plain Mamba, seconds
    max_hold_ratio: float = 12.0  # a sample stands for at most this many nominal intervals (ADR 1)
    norm_eps: float = 1e-5  # RMSNorm

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) <= 0:
                raise ValueError(f"{field.name} must be positive, got {getattr(self, field.name)}")
        if self.d_input < self.n_channels:
            raise ValueError(f"d_input {self.d_input} cannot hold the z-scores of {self.n_channels} channels")

    @property
    def d_inner(self) -> int:
        """Inner width of a block."""
        return self.expand * self.d_model

    @property
    def conv_state_shape(self) -> tuple[int, int, int]:
        """Per vehicle, fp32: the last d_conv - 1 inputs of each block's convolution, oldest first."""
        return (self.n_layer, self.d_inner, self.d_conv - 1)

    @property
    def ssm_state_shape(self) -> tuple[int, int, int]:
        """Per vehicle, fp32: the selective state of each block."""
        return (self.n_layer, self.d_inner, self.d_state)

    @property
    def state_bytes(self) -> int:
        """Bytes of one vehicle's recurrent state in fp32."""
        return 4 * self.n_layer * self.d_inner * (self.d_conv - 1 + self.d_state)
