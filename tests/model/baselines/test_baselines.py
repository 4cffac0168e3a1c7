"""What holds for every baseline: it learns, it is causal, it takes absent channels, it can be saved, it repeats itself."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model.baselines import NAMES, Baseline, BaselineError, load, make
from model.baselines.boosting import BoostingConfig
from model.baselines.stateful_training import NeuralConfig
from model.channels import VAN_SCHEMA
from model.dataset import fit_prior
from model.evaluation.exact import weighted_auroc
from model.preprocess import Preprocessor
from model.training.config import TrainingConfig

from .toy_fleet import ToyFleet, cut_short, without

TRAIN, VALIDATION, TEST = ToyFleet(seed=1), ToyFleet(4, seed=2), ToyFleet(4, seed=3)
OPTIONAL = ("pack_current", "pack_temperature", "ambient_temperature")
NEURAL = NeuralConfig(
    TrainingConfig(
        length=250, batch=8, pretrain_steps=4, finetune_steps=150, learning_rate=1e-2, warmup_steps=5,
        validate_every=50, average_decay=0.9,
    )
)  # fmt: skip
SIZES = {"lstm": {"d_hidden": 16}, "transformer": {"d_model": 16, "n_layer": 2, "n_head": 2, "window": 64}}


def settings(name: str) -> dict[str, Any]:
    """A version of the baseline that fits in seconds."""
    if name in {"lightgbm", "oracle"}:
        return {"config": BoostingConfig(searches=2, most_trees=40, bag=2, threads=1)}
    if name in SIZES:
        preprocessor = Preprocessor(VAN_SCHEMA, fit_prior(TRAIN), 5.0)
        return {"config": NEURAL, "sizes": SIZES[name], "preprocessor": preprocessor, "device": torch.device("cpu")}
    return {}


def fitted(name: str) -> Baseline:
    """Fitted on the toy fleet."""
    baseline = make(name, **settings(name))
    baseline.fit(TRAIN, VALIDATION, seed=5)
    return baseline


@pytest.fixture(scope="module", params=NAMES)
def baseline(request: pytest.FixtureRequest) -> Baseline:
    """Each of them."""
    return fitted(request.param)


def auroc(scores: list[NDArray[np.float32]], fleet: ToyFleet) -> float:
    """Over the valid instants of a fleet."""
    traces = [fleet.trace(i) for i in range(len(fleet))]
    valid = np.concatenate([trace.valid for trace in traces])
    label = np.concatenate([trace.label for trace in traces])
    return weighted_auroc(np.concatenate(scores)[valid], label[valid])


def test_it_sees_an_easy_trouble(baseline: Baseline) -> None:
    """On vans it has not seen, a warming that grows for two hours is ranked above the rest."""
    scores = baseline.score([TEST.trace(i) for i in range(len(TEST))])
    # The Gaussian forgets: what lasts becomes normal to it.
    assert auroc(scores, TEST) > (0.75 if baseline.name == "gaussian" else 0.9)


def test_there_is_one_finite_score_per_sample(baseline: Baseline) -> None:
    """Whatever signals a van has, also none of the temperatures, every sample gets a number."""
    trace = TEST.trace(0)
    short = cut_short(trace, 7)
    for other in (trace, without(trace, *OPTIONAL), without(trace, *OPTIONAL, "motor_temperature"), short):
        (score,) = baseline.score([other])
        assert score.dtype == np.float32
        assert score.shape == other.ts_ms.shape
        assert np.isfinite(score).all()


@pytest.mark.parametrize("cut", [1, 13, 2_345, 4_096])
def test_the_future_does_not_change_the_past(baseline: Baseline, cut: int) -> None:
    """Scores of the first samples are the same whether or not more samples follow."""
    trace = TEST.trace(2)
    (whole,) = baseline.score([trace])
    (part,) = baseline.score([cut_short(trace, cut)])
    np.testing.assert_allclose(part, whole[:cut], rtol=1e-4, atol=1e-4)


def test_a_channel_that_appears_late_does_not_change_the_past(baseline: Baseline) -> None:
    """Whether a van has a channel is known only once it has been seen."""
    trace = TEST.trace(2)
    late = without(trace, *OPTIONAL)
    late.signals[4_000:] = trace.signals[4_000:]
    (before,) = baseline.score([without(trace, *OPTIONAL)])
    (after,) = baseline.score([late])
    np.testing.assert_allclose(after[:4_000], before[:4_000], rtol=1e-4, atol=1e-4)


def test_vans_are_scored_independently(baseline: Baseline) -> None:
    """A van's scores do not depend on which others are scored with it."""
    traces = [TEST.trace(0), cut_short(TEST.trace(1), 3_000), TEST.trace(3)]
    together = baseline.score(traces)
    alone = [baseline.score([trace])[0] for trace in reversed(traces)][::-1]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_it_scores_the_same_after_saving(baseline: Baseline, tmp_path: Path) -> None:
    """What is loaded is what was saved."""
    baseline.save(tmp_path)
    loaded = load(tmp_path)
    trace = TEST.trace(0)
    assert loaded.name == baseline.name
    np.testing.assert_allclose(loaded.score([trace])[0], baseline.score([trace])[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_fits_the_same(name: str) -> None:
    """Two fits with one seed score bit for bit alike."""
    trace = TEST.trace(0)
    first, second = (fitted(name).score([trace])[0] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    """The message lists what there is."""
    with pytest.raises(BaselineError, match="temperature_rule, gaussian, lightgbm, oracle, lstm, transformer"):
        make("crystal_ball")
    with pytest.raises(BaselineError, match="no readable baseline"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["gaussian", "lightgbm"])
def test_scoring_before_fitting_is_refused(name: str) -> None:
    """An unfitted baseline says so."""
    with pytest.raises(BaselineError, match="not fitted"):
        make(name).score([TEST.trace(0)])
