"""The runs of accepted seqs against a plain set."""

import numpy as np
import pytest

from service.records.accepted_seqs import N_INTERVALS, append, contains


@pytest.mark.parametrize("seed", range(5))
def test_accepted_seqs_are_known_for_ever(seed: int) -> None:
    """Whatever was accepted is known; with few gaps, what was skipped is not."""
    rng = np.random.default_rng(seed)
    runs, n = np.zeros((N_INTERVALS, 2), np.int64), 0
    seqs = np.unique(rng.integers(0, 10_000, 2_000)).tolist() if seed else [s for s in range(500) if s % 20]
    for seq in seqs:
        n = append(runs, n, seq)
    assert all(contains(runs, n, seq) for seq in seqs)
    assert not contains(runs, n, max(seqs) + 1)
    assert n <= N_INTERVALS
    used = runs[:n]
    assert (used[:, 0] <= used[:, 1]).all()
    assert (used[1:, 0] > used[:-1, 1] + 1).all()
    if seed == 0:
        assert not any(contains(runs, n, seq) for seq in range(0, 500, 20))
