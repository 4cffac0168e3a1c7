"""The card's generated parts say what model.json and report.json say, and refuse a report of other weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from model.checkpoint import SHIPPED, load_checkpoint
from model.evaluation.card_table import END, MARKS, NOT_YET, main, render
from model.evaluation.document import write_json
from model.evaluation.markdown import MAIN, MORE
from model.evaluation.report import ReportError

CARD = "\n".join(
    ["# A card", *(f"{MARKS[part]}\n\nof last year\n\n{END.format(part)}" for part in MARKS), "The end.", ""]
)


def row(name: str, channels: int, value: float | None, **more: Any) -> dict[str, Any]:
    """One row of a made-up report; the intervals are 0.01 to either side."""
    params = {"model": "mamba", "channels": channels, "split": "test", "condition": "nominal", "seed": 3000} | more
    low, high = (None, None) if value is None else (round(value - 0.01, 5), round(value + 0.01, 5))
    return {"name": name, "params": params, "value": value, "unit": "1", "lo": low, "hi": high}


def made_report(fingerprint: str) -> dict[str, Any]:
    """Figures that tell one cell from another, beside rows of other models, splits and conditions."""
    rows = []
    for channels in (9, 6):
        for i, name in enumerate(MAIN | MORE):
            value = (
                None if name == "lead_time_median" and channels == 6 else round(0.5 + 0.01 * i + 0.001 * channels, 5)
            )
            rows.append(row(name, channels, value))
            rows += [row(name, channels, 0.1, **{key: "other"}) for key in ("model", "split", "condition", "fault")]
        rows += [row(name, channels, number) for name, number in (("events", 54.0), ("vehicle_days", 3360.0))]
        rows.append(row("positive_share", channels, 0.00217))
    return {
        "commit": "abc",
        "date": "2026-11-22",
        "fleets": {"test": {"n_vehicles": 240, "days": 14.0, "seed": 3000}},
        "fingerprints": {"mamba": fingerprint},
        "rows": rows,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The shipped weights with a card and a made-up report."""
    for name in ("model.json", "model.safetensors"):
        shutil.copy(SHIPPED / name, tmp_path)
    (tmp_path / "MODEL_CARD.md").write_text(CARD)
    write_json(made_report(load_checkpoint().risk_fingerprint()), tmp_path / "report.json")
    return tmp_path


def test_the_command_writes_the_parts_and_nothing_else(folder: Path) -> None:
    """--check tells old from new; a second call changes nothing."""
    card = folder / "MODEL_CARD.md"
    assert main(["--folder", str(folder), "--check"]) == 1
    assert card.read_text() == CARD
    assert main(["--folder", str(folder)]) == 0
    text = card.read_text()
    assert main(["--folder", str(folder), "--check"]) == 0
    assert text.startswith("# A card\n")
    assert text.endswith("The end.\n")
    assert "of last year" not in text
    assert load_checkpoint().fingerprint() in text
    assert "54 events in 3,360 vehicle-days, 0.217 % of instants positive" in text


def test_cells_are_the_reports(folder: Path) -> None:
    """Nine before six channels, the product's rows of the test split under nominal conditions, with verdicts."""
    nine, six = render(CARD, folder).split("### Nine channels")[1].split("### Six channels")
    assert "| AUROC | 0.509 | 0.499 to 0.519 | >= 0.95: missed by 0.441 |" in nine
    assert "| AUROC | 0.506 | 0.496 to 0.516 | >= 0.91: missed by 0.404 |" in six
    assert "| median lead, min | - | - |  |" in six
    assert nine.count("\n| ") == six.count("\n| ") == len(MAIN | MORE) + 2
    assert "| 0.1 |" not in nine + six


def test_without_a_report_the_card_says_so(folder: Path) -> None:
    """Weights alone are described."""
    (folder / "report.json").unlink()
    text = render(CARD, folder)
    assert NOT_YET in text
    assert load_checkpoint().fingerprint() in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprints": {"mamba": "0" * 32}}, "the report is of weights 0000"),
        ({"fleets": {"quick": {}}}, "not of the test split"),
        ({"rows": []}, "lacks"),
        ({"fingerprints": None}, "no readable report"),
    ],
)
def test_a_report_that_does_not_fit_is_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    """No figure of other weights gets into the card."""
    file = folder / "report.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(ReportError, match=message):
        render(CARD, folder)
    assert main(["--folder", str(folder)]) == 2
    assert (folder / "MODEL_CARD.md").read_text() == CARD


def test_a_card_without_marks_is_refused(folder: Path) -> None:
    """Nothing is written anywhere else."""
    with pytest.raises(ReportError, match="once each"):
        render("# A card\n", folder)
