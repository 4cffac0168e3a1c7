"""What a user would pick instead of the product's network, on the same data and splits."""

from model.baselines.protocol import Baseline, BaselineError
from model.baselines.registry import NAMES, load, make

__all__ = ["NAMES", "Baseline", "BaselineError", "load", "make"]
