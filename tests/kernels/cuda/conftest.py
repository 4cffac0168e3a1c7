"""The CUDA kernels on a device where there is one, and in the host emulation everywhere."""

import pytest
import torch

import kernels.cuda.launch
from tests.kernels.cuda.emulator import emulate


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    """Where the kernels run."""
    if request.param == "emulated":
        monkeypatch.setattr(kernels.cuda.launch, "launch", emulate)
        return torch.device("cpu")
    return torch.device("cuda")
