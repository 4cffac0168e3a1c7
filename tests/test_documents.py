"""The documents say what is so: figures, links and commands."""

import json
import re

import pytest

from model.checkpoint import load_checkpoint
from model.evaluation.card_table import render
from tests.conftest import REPOSITORY

CARD = REPOSITORY / "model" / "weights" / "MODEL_CARD.md"
REPORT = CARD.parent / "report.json"
DOCUMENTS = [path for path in REPOSITORY.glob("**/*.md") if not {".venv", ".emberwatch"} & set(path.parts)]

FIGURES = {
    "AUROC": "auroc",
    "average precision": "auprc",
    "F2": "f2",
    "events caught": "event_recall",
    "false alarms per vehicle-day": "false_alarms_per_vehicle_day",
    "median lead, min": "lead_time_median",
    "calibration error": "ece",
    "precision": "precision",
    "recall": "recall",
    "Brier": "brier",
    "calibration error, equal mass": "ece_equal_mass",
    "events caught by an alert of the last 2 h": "event_recall_within_horizon",
}


def card_figures() -> dict[tuple[str, int], tuple[str, str]]:
    """Value and interval of each figure row of the card, by the figure's words and the number of channels."""
    text = CARD.read_text().split("### Nine channels")[1]
    nine, six = text.split("\n## ")[0].split("### Six channels")
    return {
        (words, channels): (value, interval)
        for channels, part in ((9, nine), (6, six))
        for words, value, interval in re.findall(
            r"^\| ([^|]+?) \| (-|\d\S*) \| ([^|]+?) \| [^|]*\|$", part, re.MULTILINE
        )
    }


def test_the_model_card_is_up_to_date_and_of_the_weights_beside_it() -> None:
    """Its generated parts are what `python -m model.evaluation.card_table` writes."""
    text = CARD.read_text()
    checkpoint = load_checkpoint()
    assert text == render(text, CARD.parent), "run python -m model.evaluation.card_table"
    assert checkpoint.fingerprint() in text
    assert f"{sum(p.numel() for p in checkpoint.network.parameters()):,} parameters" in text
    assert str(checkpoint.calibration.alert_threshold) in text


@pytest.mark.skipif(not REPORT.exists(), reason="no model/weights/report.json yet, and the card says so")
def test_every_figure_of_the_model_card_is_the_reports() -> None:
    """Read here by other code than what wrote it: nine and six channels, test split, nominal, the product's."""
    quoted = card_figures()
    assert {words for words, _ in quoted} == set(FIGURES)
    assert len(quoted) == 2 * len(FIGURES)
    for (words, channels), (value, interval) in quoted.items():
        wanted = {"model": "mamba", "channels": channels, "condition": "nominal", "split": "test"}
        (row,) = [
            row
            for row in json.loads(REPORT.read_text())["rows"]
            if row["name"] == FIGURES[words]
            and wanted.items() <= row["params"].items()
            and not {"fault", "against"} & set(row["params"])
        ]
        assert (None if value == "-" else float(value)) == row["value"], (words, channels)
        low, high = (None, None) if interval == "-" else map(float, interval.split(" to "))
        assert (low, high) == (row["lo"], row["hi"]), (words, channels)


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
