"""The pool's memory."""

import gc

import torch

from kernels.config import MambaConfig
from kernels.pool import StatePool
from kernels.reference import RecurrentState


def test_states_begin_at_zero_on_whole_cache_lines_and_stay_when_garbage_is_collected() -> None:
    """The memory is mapped by hand for huge pages: it belongs to the tensors, however many collections pass."""
    config = MambaConfig(d_input=22, n_channels=9)
    pool = StatePool(config, 9, torch.device("cpu"))
    for tensor in (pool.conv, pool.ssm):
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()
        assert tensor.data_ptr() % 64 == 0
        assert not tensor.any()
    slots = torch.tensor([8, 3])
    state = RecurrentState(torch.randn(2, *config.conv_state_shape), torch.randn(2, *config.ssm_state_shape))
    pool.write(slots, state)
    gc.collect()
    read = pool.read(slots)
    assert torch.equal(read.conv, state.conv)
    assert torch.equal(read.ssm, state.ssm)
    pool.zero(slots[:1])
    assert not pool.read(slots[:1]).ssm.any()
    assert torch.equal(pool.read(slots[1:]).ssm, state.ssm[1:])
