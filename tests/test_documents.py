"""The documents say what is so: figures, links and commands."""

import json
import re

import pytest

from model.checkpoint import load_checkpoint
from tests.conftest import REPOSITORY

CARD = REPOSITORY / "model" / "weights" / "MODEL_CARD.md"
DOCUMENTS = [path for path in REPOSITORY.glob("**/*.md") if not {".venv", ".emberwatch"} & set(path.parts)]

ROWS = {
    "vans": "vans",
    "events": "events",
    "positive share of instants": "positive_share",
    "AUROC": "auroc",
    "average precision": "auprc",
    "event recall at the alert threshold": "event_recall",
    "false alarms per vehicle-day": "false_alarms_per_vehicle_day",
    "median lead time of the events caught, min": "lead_time_median_min",
    "expected calibration error": "ece",
}


def test_the_model_card_quotes_the_checkpoint() -> None:
    """Every figure of the card is the one in model.json, and the card is of the weights beside it."""
    text = CARD.read_text()
    checkpoint = load_checkpoint()
    figures = json.loads((CARD.parent / "model.json").read_text())["provenance"]["figures"]
    assert checkpoint.fingerprint() in text
    assert f"{sum(p.numel() for p in checkpoint.network.parameters()):,} parameters" in text
    assert str(checkpoint.calibration.alert_threshold) in text
    assert str(checkpoint.calibration.f2_threshold) in text
    for name, key in ROWS.items():
        quoted = re.search(rf"^\| {re.escape(name)} \| (\S+) \| (\S+) \|$", text, re.MULTILINE)
        assert quoted, name
        for split, value in zip(("validation", "test"), quoted.groups(), strict=True):
            truth = figures[split][key]
            assert (None if value == "-" else float(value)) == truth, (name, split)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_between_files_lead_somewhere(document: "object") -> None:
    """A relative link in a document is a file of the repository."""
    from pathlib import Path  # noqa: PLC0415

    assert isinstance(document, Path)
    for target in re.findall(r"\]\((?!https?://)([^)#]+)\)", document.read_text()):
        assert (document.parent / target).exists(), target


def test_the_readme_names_targets_that_exist() -> None:
    """Every `make x` in the README is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`?make ([a-z-]+)", (REPOSITORY / "README.md").read_text()))
    assert {"demo", "test"} <= named <= targets


def test_every_error_kind_is_documented() -> None:
    """docs/errors.md has a row for each kind of problem that the service can answer."""
    from service import errors  # noqa: PLC0415
    from service.routes import vehicles  # noqa: PLC0415

    kinds = {
        c.kind for m in (errors, vehicles) for c in vars(m).values() if hasattr(c, "kind") and c.kind != "internal"
    }
    documented = set(re.findall(r"^\| `([a-z-]+)` \|", (REPOSITORY / "docs" / "errors.md").read_text(), re.MULTILINE))
    assert kinds <= documented
