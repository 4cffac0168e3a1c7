"""Scorers are found by name, and one fit of a baseline is told from another."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model.baselines import make
from model.baselines.temperature_rule import RuleConfig
from model.evaluation.registry import NAMES, ScorerUnavailableError, make_scorer
from model.fleet import FleetConfig, simulate_vehicle


def test_a_saved_baseline_scores_as_it_did(tmp_path: Path) -> None:
    """Under its own name, with the digest of its files as fingerprint."""
    rule = make("temperature_rule")
    rule.save(tmp_path / "temperature_rule")
    scorer = make_scorer("temperature_rule", tmp_path, tmp_path)
    traces = [simulate_vehicle(FleetConfig(n_vehicles=1, days=0.2), 0)]
    assert scorer.name == "temperature_rule"
    np.testing.assert_array_equal(scorer.score(traces)[0], rule.score(traces)[0])


def test_another_fit_has_another_fingerprint(tmp_path: Path) -> None:
    """So that parts and reports of the one are not taken for the other's."""
    prints = []
    for limit in (40.0, 41.0, 40.0):
        make("temperature_rule", config=replace(RuleConfig(), pack_limit_c=limit)).save(tmp_path / "temperature_rule")
        prints.append(make_scorer("temperature_rule", tmp_path, tmp_path).fingerprint)  # type: ignore[attr-defined]
    assert prints[0] == prints[2] != prints[1]


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    """No such scorer, no such folder, a folder with nothing usable."""
    with pytest.raises(ValueError, match="scorers are mamba"):
        make_scorer("oracel", tmp_path, tmp_path)
    for name in NAMES[1:]:
        with pytest.raises(ScorerUnavailableError, match=f"{name}: no fitted baseline"):
            make_scorer(name, tmp_path, tmp_path)
    (tmp_path / "gaussian").mkdir()
    with pytest.raises(ScorerUnavailableError, match="no readable baseline"):
        make_scorer("gaussian", tmp_path, tmp_path)
