"""The recurrence itself: one step per sample, and the scan over a sequence, from any initial state.

Source of the maths: Mamba, Gu & Dao 2023 (arXiv:2312.00752), section 3; the names are those of `mamba_ssm.Mamba`.
"""

from kernels.backend import BACKENDS, Backend, BackendUnavailableError, choose_backend
from kernels.config import MambaConfig
from kernels.pool import StatePool
from kernels.reference import NetworkOutput, RecurrentState, network_scan, network_step, residual_scan, rms_norm
from kernels.scan import SelectiveScan, selective_scan_chunked, selective_scan_ref
from kernels.training import TrainingForward, training_forward
from kernels.weights import BlockWeights, NetworkWeights

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendUnavailableError",
    "BlockWeights",
    "MambaConfig",
    "NetworkOutput",
    "NetworkWeights",
    "RecurrentState",
    "SelectiveScan",
    "StatePool",
    "TrainingForward",
    "choose_backend",
    "network_scan",
    "network_step",
    "residual_scan",
    "rms_norm",
    "selective_scan_chunked",
    "selective_scan_ref",
    "training_forward",
]
