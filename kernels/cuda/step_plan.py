"""How the step kernel is cut: which blocks share what, and the sizes that step.cu is compiled for."""

from dataclasses import dataclass
from functools import cached_property

from kernels.config import MambaConfig

MOST_SHARED_BYTES = 227 * 1024  # that a block of a Hopper GPU can have
MOST_RING = 16
MOST_TABLE_BYTES = 16 * 1024
MOST_SPLIT_FLOATS = 6 * 1024
MOST_LANES = 32


class StepPlanError(ValueError):
    """The network does not fit the step kernel."""


def up(value: int, multiple: int) -> int:
    """The next multiple."""
    return -(-value // multiple) * multiple


def row_stride(width: int) -> int:
    """Floats between rows that the tensor cores read: 16 more than a multiple of 32."""
    return width if width % 32 else width + 16


def power_of_two(value: int) -> int:
    """The next power of two."""
    return 1 << (value - 1).bit_length()


@dataclass(frozen=True)
class StepPlan:
    """Sizes of one compilation of step.cu.

    Raises:
        StepPlanError: from `defines`, when the network does not fit.
    """

    config: MambaConfig
    ranks: int  # blocks of a cluster, each owning its share of the channels
    columns: int = 8  # vehicles of a tile at most, 8 or 16
    threads: int = 512  # that do everything but states, and with one tile in flight those as well
    advancers: int = 0  # threads for states alone, with two tiles in flight; 0: one team, one tile
    bf16: bool = False  # weights of the projections
    pipe: int = 4  # fragments of 16 x 16 of weights under way per warp
    kept: int = -1  # percent of the states that the second-level cache keeps, dropping the others first; -1: no advice
    ring: int | None = None  # slots of the ring of states; None: as many as fit
    bulk: bool = False  # states are fetched by the copy engine, where their sizes allow it

    @property
    def warps(self) -> int:
        """Of a block."""
        return self.threads // 32

    @property
    def tiles_in_flight(self) -> int:
        """Of a cluster."""
        return 2 if self.advancers else 1

    @property
    def block_threads(self) -> int:
        """Of both teams."""
        return self.threads + self.advancers

    @property
    def movers(self) -> int:
        """Threads that advance states."""
        return self.advancers or self.threads

    @property
    def model(self) -> int:
        """d_model, padded."""
        return up(self.config.d_model, 16)

    @property
    def own(self) -> int:
        """Channels of a rank, padded."""
        return up(-(-self.config.d_inner // self.ranks), 16)

    @property
    def input_steps(self) -> int:
        """d_input in sixteens."""
        return up(self.config.d_input, 16) // 16

    @property
    def heads(self) -> int:
        """Outputs of one vehicle."""
        return 2 * self.config.n_channels + 1

    @property
    def head_tiles(self) -> int:
        """The heads in sixteens."""
        return up(self.heads, 16) // 16

    @property
    def vector(self) -> int:
        """States that a thread moves at once."""
        return 4 if self.config.d_state % 4 == 0 else 1

    @property
    def lanes(self) -> int:
        """Threads of one channel."""
        return max(4, power_of_two(-(-self.config.d_state // self.vector)))

    @property
    def states(self) -> int:
        """d_state, padded."""
        return self.lanes * self.vector

    @property
    def rank_padded(self) -> int:
        """dt_rank, padded."""
        return up(self.config.dt_rank, 8)

    @property
    def projected_tiles(self) -> int:
        """x_proj's outputs in sixteens: dt_rank, B, C, each padded."""
        return up(self.rank_padded + 2 * self.states, 16) // 16

    @property
    def passes(self) -> int:
        """Times that the threads go over a rank's channels."""
        return max(1, -(-self.own // (self.movers // self.lanes)))

    @property
    def together(self) -> int:
        """Channels of a thread in one slot of the ring."""
        return min(4, power_of_two(self.passes))

    @property
    def parts(self) -> int:
        """Slots of the ring that one vehicle's layer takes."""
        return -(-self.passes // self.together)

    def split(self, tiles: int, steps: int) -> int:
        """Into how many parts a product of `tiles` x 16 outputs over `steps` x 16 inputs is cut along its inputs."""
        parts = [n for n in (1, 2, 4, 8) if steps % n == 0]
        fits = [n for n in parts if n == 1 or n * tiles * 16 * self.columns <= MOST_SPLIT_FLOATS]
        return min(fits, key=lambda n: (-(-tiles * n // self.warps) * (steps // n), n))

    @property
    def split_in(self) -> int:
        """Of in_proj."""
        return self.split(2 * self.own // 16, self.model // 16)

    @property
    def split_projected(self) -> int:
        """Of x_proj."""
        return self.split(self.projected_tiles, self.own // 16)

    @property
    def split_out(self) -> int:
        """Of out_proj."""
        return self.split(self.model // 16, self.own // 16)

    @property
    def split_heads(self) -> int:
        """Of the heads."""
        return self.split(self.head_tiles, self.model // 16)

    @property
    def table(self) -> int:
        """Floats of one rank and layer: taps, three vectors and dt_proj."""
        return self.own * (self.config.d_conv + 3 + self.config.dt_rank)

    @property
    def tables_shared(self) -> bool:
        """Whether all layers' tables lie in shared memory."""
        return 4 * self.config.n_layer * self.table <= MOST_TABLE_BYTES

    @property
    def scratch(self) -> int:
        """Floats of unfinished sums."""
        uses = [
            (1, self.model), (self.split_in, 2 * self.own), (self.split_projected, 16 * self.projected_tiles),
            (self.split_out, self.model), (self.split_heads, 16 * self.head_tiles),
        ]  # fmt: skip
        return max(split * self.columns * (rows + 4) for split, rows in uses)

    @property
    def inbox(self) -> int:
        """Floats that other ranks send at once."""
        items = self.columns * max(self.model, self.rank_padded + 2 * self.states) // 4
        if self.ranks == 1:
            return 4
        return 4 * items * self.ranks

    @property
    def slot_bytes(self) -> int:
        """Of the ring."""
        return self.together * self.movers * 4 * self.vector

    @cached_property
    def fixed_bytes(self) -> int:
        """Shared memory before the ring."""
        floats = self.scratch + 2 * self.inbox
        floats += self.config.n_layer * self.table if self.tables_shared else 4
        return up(self.tiles_in_flight * self.tile_bytes + 4 * floats, 8) + 16

    @property
    def tile_bytes(self) -> int:
        """Of a tile in flight."""
        projected = 16 * self.projected_tiles + 4
        rows = row_stride(self.model) + row_stride(16 * self.input_steps) + 2 * row_stride(self.own)
        floats = self.columns * (rows + projected + self.own + 4)
        return up(4 * floats, 16)

    @property
    def ring_slots(self) -> int:
        """Slots of the ring."""
        fit = (MOST_SHARED_BYTES - self.fixed_bytes - 16) // (self.slot_bytes + self.mail_bytes)
        return min(MOST_RING, fit) if self.ring is None else min(self.ring, fit)

    @property
    def in_bulk(self) -> bool:
        """Whether the copy engine fetches states: whole channels of one vehicle, in sixteens of bytes."""
        return self.bulk and self.vector == 4 and self.movers // self.lanes <= self.own

    @property
    def mail_bytes(self) -> int:
        """Of one slot's counts of what the copy engine has fetched."""
        return 8 * self.movers // 32 if self.in_bulk else 0

    @property
    def shared_bytes(self) -> int:
        """`sizeof(Shared)`; the compiler checks it."""
        mail = self.ring_slots * self.mail_bytes if self.in_bulk else 8
        return up(self.fixed_bytes + mail, 16) + self.ring_slots * self.slot_bytes

    @property
    def fits(self) -> bool:
        """Whether the kernel can hold the network so cut."""
        return self.lanes <= MOST_LANES and self.ring_slots >= 1

    @property
    def wasteful(self) -> bool:
        """Whether a rank would own no channel."""
        return self.own * (self.ranks - 1) >= self.config.d_inner

    def defines(self, params_bytes: int) -> dict[str, int]:
        """Preprocessor definitions of step.cu. Raises StepPlanError when the network does not fit."""
        config = self.config
        if not self.fits:
            raise StepPlanError(
                f"the CUDA step holds d_state up to 128 in multiples of 4 (up to 32 otherwise) and states of "
                f"{self.slot_bytes} B beside {self.fixed_bytes} B of activations in {MOST_SHARED_BYTES} B, not {config}"
            )
        return {
            "RANKS": self.ranks, "COLUMNS": self.columns, "PROJECTORS": self.threads, "ADVANCERS": self.movers,
            "TILES_IN_FLIGHT": self.tiles_in_flight, "BULK": int(self.in_bulk),
            "ELEMENT_BF16": int(self.bf16), "PIPE": self.pipe, "RING": self.ring_slots, "KEPT": self.kept,
            "INBOX": self.inbox, "MODEL": self.model, "OWN": self.own, "INPUT_STEPS": self.input_steps,
            "HEAD_TILES": self.head_tiles, "VECTOR": self.vector,
            "LANES": self.lanes, "RANK_PADDED": self.rank_padded, "PROJECTED_TILES": self.projected_tiles,
            "TOGETHER": self.together, "PARTS": self.parts, "SPLIT_IN": self.split_in,
            "SPLIT_PROJECTED": self.split_projected, "SPLIT_OUT": self.split_out, "SPLIT_HEADS": self.split_heads,
            "SCRATCH": self.scratch, "TABLES_SHARED": int(self.tables_shared), "SHARED_BYTES": self.shared_bytes,
            "PARAMS_BYTES": params_bytes, "D_MODEL": config.d_model, "D_INNER": config.d_inner,
            "D_STATE": config.d_state, "D_CONV": config.d_conv, "DT_RANK": config.dt_rank,
            "D_INPUT": config.d_input, "N_CHANNELS": config.n_channels, "N_LAYER": config.n_layer,
        }  # fmt: skip
