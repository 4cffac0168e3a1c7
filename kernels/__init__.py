"""The recurrence itself: one step per sample, and the scan over a sequence, from any initial state.

Source of the maths: Mamba, Gu & Dao 2023 (arXiv:2312.00752), section 3, and Mamba-2, Dao & Gu 2024 (arXiv:2405.21060);
the names are those of `mamba_ssm.Mamba` and `mamba_ssm.Mamba2`.
"""

from kernels.backend import BACKENDS, Backend, BackendUnavailableError, choose_backend
from kernels.config import BLOCKS, BlockKind, MambaConfig
from kernels.layers import rms_norm
from kernels.pool import StatePool
from kernels.reference import NetworkOutput, RecurrentState, network_scan, network_step, residual_scan
from kernels.scan_forms import CHUNKED, SEQUENTIAL, ScanForms
from kernels.training import TrainingForward, scan_forms_cpu, training_forward
from kernels.weights import BlockWeights, Mamba2Weights, NetworkWeights

__all__ = [
    "BACKENDS",
    "BLOCKS",
    "CHUNKED",
    "SEQUENTIAL",
    "Backend",
    "BackendUnavailableError",
    "BlockKind",
    "BlockWeights",
    "Mamba2Weights",
    "MambaConfig",
    "NetworkOutput",
    "NetworkWeights",
    "RecurrentState",
    "ScanForms",
    "StatePool",
    "TrainingForward",
    "choose_backend",
    "network_scan",
    "network_step",
    "residual_scan",
    "rms_norm",
    "scan_forms_cpu",
    "training_forward",
]
