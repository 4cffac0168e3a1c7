"""The baselines by name: made anew, or read from a folder."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from model.baselines.protocol import Baseline, BaselineError

# Each module is imported when its baseline is asked for: LightGBM is an extra.
NAMES = ("temperature_rule", "gaussian", "lightgbm", "oracle", "lstm", "transformer")


def make(name: str, **settings: Any) -> Baseline:
    """A baseline that is not fitted yet; `settings` go to its class (`config`, and for networks `preprocessor`, ...).

    Raises:
        BaselineError: no baseline of this name, or LightGBM is not installed.
    """
    baseline: Baseline = classes(name)[0](**settings)
    return baseline


def load(folder: Path) -> Baseline:
    """A fitted baseline as `save` wrote it.

    Raises:
        BaselineError: the folder holds none, or one that this version does not know.
    """
    try:
        name = json.loads((folder / "baseline.json").read_text())["name"]
        baseline: Baseline = classes(name)[1](folder)
    except BaselineError:
        raise
    except (OSError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise BaselineError(f"no readable baseline in {folder}: {error}") from error
    return baseline


def classes(name: str) -> tuple[Callable[..., Any], Callable[[Path], Any]]:
    """How the baseline is made and how it is loaded."""
    if name == "temperature_rule":
        from model.baselines.temperature_rule import TemperatureRule  # noqa: PLC0415

        return TemperatureRule, TemperatureRule.load
    if name == "gaussian":
        from model.baselines.gaussian import Gaussian  # noqa: PLC0415

        return Gaussian, Gaussian.load
    if name in {"lightgbm", "oracle"}:
        try:
            from model.baselines.boosting import Boosting  # noqa: PLC0415
        except ImportError as error:
            raise BaselineError(f"{name} needs LightGBM: pip install 'emberwatch[train]'") from error
        return partial(Boosting, oracle=name == "oracle"), Boosting.load
    if name in {"lstm", "transformer"}:
        from model.baselines.neural import NeuralBaseline  # noqa: PLC0415

        return partial(NeuralBaseline, name), NeuralBaseline.load
    raise BaselineError(f"baselines are {', '.join(NAMES)}, got {name!r}")
