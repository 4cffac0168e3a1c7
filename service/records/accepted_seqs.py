"""The seqs that a session has accepted, as a bounded list of runs: a retry of any age is known at constant cost.

Compiled parts of the verdict. `runs` is (N_INTERVALS, 2) int64, first and last of each run, rising; the first `n` count.
"""

from typing import Any

from model.jit import compiled

N_INTERVALS = 32  # runs that are told apart; beyond, the two oldest are joined (ADR 3)


@compiled
def contains(runs: Any, n: int, seq: int) -> bool:
    """Whether `seq` was accepted in this session."""
    for i in range(n - 1, -1, -1):  # most questions are about the latest
        if seq > runs[i, 1]:
            return False
        if seq >= runs[i, 0]:
            return True
    return False


@compiled
def append(runs: Any, n: int, seq: int) -> int:
    """Add a seq above all others, in place; the new number of runs.

    When there are N_INTERVALS runs, the two oldest are joined: everything accepted stays known for ever, at the price
    that a seq skipped that long ago reads as accepted too.
    """
    if n > 0 and runs[n - 1, 1] == seq - 1:
        runs[n - 1, 1] = seq
        return n
    if n == N_INTERVALS:
        runs[0, 1] = runs[1, 1]
        for i in range(1, N_INTERVALS - 1):
            runs[i, 0], runs[i, 1] = runs[i + 1, 0], runs[i + 1, 1]
        n -= 1
    runs[n, 0] = runs[n, 1] = seq
    return n + 1
