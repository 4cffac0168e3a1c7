# The compiled module. Integers named after tensors are addresses of contiguous ones, which the caller keeps alive.

def instruction_sets() -> list[str]: ...
def lanes(isa: str) -> int: ...
def scan_forward(sizes: tuple[int, ...], places: list[int], isa: str, threads: int, /) -> None: ...
def scan_backward(sizes: tuple[int, ...], places: list[int], isa: str, threads: int, /) -> None: ...

class Sizes:
    def __init__(
        self,
        *,
        d_input: int,
        n_channels: int,
        d_model: int,
        n_layer: int,
        d_state: int,
        d_conv: int,
        d_inner: int,
        dt_rank: int,
        max_hold_ratio: float,
        norm_eps: float,
    ) -> None: ...

class Stepper:
    def __init__(self, sizes: Sizes, packed: int, n_floats: int, isa: str, threads: int, /) -> None: ...
    @property
    def threads(self) -> int: ...
    def advance(
        self,
        conv_state: int,
        ssm_state: int,
        n_slots: int,
        slots: int,
        lengths: int,
        vehicles: int,
        features: int,
        ratio: int,
        out: int,
        last_only: bool,
        /,
    ) -> None: ...
