"""The generated parts of a model card: what the weights are, from model.json, and how good, from report.json.

python -m model.evaluation.card_table               # rewrite model/weights/MODEL_CARD.md
python -m model.evaluation.card_table --check       # exit code 1 if it is not up to date
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.checkpoint import SHIPPED, Checkpoint, CheckpointError, load_checkpoint
from model.evaluation.markdown import MAIN, MORE, TARGETS, Table, verdict
from model.evaluation.registry import PRODUCT
from model.evaluation.report import ReportError
from model.evaluation.tables import table

CARD = "MODEL_CARD.md"
MARKS = {
    "weights": "<!-- weights: written by python -m model.evaluation.card_table -->",
    "figures": "<!-- figures: written by python -m model.evaluation.card_table -->",
}
END = "<!-- end of {} -->"
NOT_YET = "Not written yet: there is no report.json beside these weights."


def weights_part(checkpoint: Checkpoint) -> str:
    """What the weights are, how they were trained, and when they alert, as a table."""
    config, point, told = checkpoint.config, checkpoint.calibration, checkpoint.provenance
    parameters = sum(p.numel() for p in checkpoint.network.parameters())
    core = sum(channel.core for channel in checkpoint.schema.channels)
    body = [
        ["fingerprint", f"`{checkpoint.fingerprint()}`"],
        ["fingerprint of the risk", f"`{checkpoint.risk_fingerprint()}`"],
        [
            "network",
            f"{config.n_layer} Mamba-1 blocks, d_model {config.d_model}, d_state {config.d_state}, {parameters:,} parameters",
        ],
        ["input", f"{config.n_channels} channels, {core} of them core; hour of day by the sun"],
        [
            "output",
            f"calibrated risk of a thermal event within {checkpoint.horizon_s / 3_600:g} h; forecast of the next sample",
        ],
        ["data", str(told.get("data", "unknown"))],
        *([f"training {i}", _stage(stage)] for i, stage in enumerate(told.get("stages", []), start=1)),
        ["operating point", str(told.get("operating_point", "unknown"))],
        ["alert", f"risk {point.alert_threshold} or more for a minute, after {checkpoint.warmup_samples} samples"],
        ["resolves", f"below {point.resolve_threshold} for five minutes"],
        ["F2 threshold", f"{point.f2_threshold}, used in reports only"],
    ]
    return table(("", ""), body)


def _stage(stage: dict[str, Any]) -> str:
    fleet, training = stage["fleet"], stage["training"]
    start = f"from {stage['start']}; " if "start" in stage else ""
    return (
        f"{start}{fleet['n_vehicles']:,} vans x {fleet['days']:g} days, seed {fleet['seed']}, faulty share "
        f"{fleet['faulty_share']:g}; {training['pretrain_steps']} steps of forecasting, {training['finetune_steps']} of "
        f"risk, best at {stage['best_step']}; {stage['processes']} x {stage['device']}, {stage['date']}"
    )


def figures_part(report: dict[str, Any], fingerprint: str) -> str:
    """Every figure of the product on the test split, with its interval and target, for nine and for six channels.

    Raises:
        ReportError: the report is of other weights, or not of the test split.
    """
    if report["fingerprints"].get(PRODUCT) != fingerprint:
        raise ReportError(f"the report is of weights {report['fingerprints'].get(PRODUCT)}, these are {fingerprint}")
    fleet = report["fleets"].get("test")
    if fleet is None:
        raise ReportError("the report is not of the test split")
    rows = Table(report["rows"])
    counts = {
        name: rows.find(name, model=PRODUCT, channels=9, split="test")
        for name in ("events", "vehicle_days", "positive_share")
    }
    counted = {name: row["value"] for name, row in counts.items() if row is not None}
    if len(counted) < len(counts):
        raise ReportError(f"the report lacks {sorted(set(counts) - set(counted))} of {PRODUCT} on the test split")
    head = (
        f"Test split: {fleet['n_vehicles']} vans x {fleet['days']:g} days of simulated fleet, seed {fleet['seed']}; "
        f"{counted['events']:,.0f} events in {counted['vehicle_days']:,.0f} vehicle-days, "
        f"{100 * counted['positive_share']:.3f} % of instants positive. Commit {report['commit']}, {report['date']}."
    )
    return "\n\n".join([head, _figures(rows, 9, "Nine channels"), _figures(rows, 6, "Six channels")])


def _figures(rows: Table, channels: int, title: str) -> str:
    body = []
    for name, words in (MAIN | MORE).items():
        row = rows.find(name, model=PRODUCT, channels=channels, split="test")
        if row is None:
            raise ReportError(f"the report lacks {name} of {PRODUCT} with {channels} channels")
        interval = "-" if row["lo"] is None else f"{row['lo']} to {row['hi']}"
        aims = [target for target in TARGETS if (target.name, target.channels) == (name, channels)]
        aim = "; ".join(f"{'>=' if t.at_least else '<='} {t.bound:g}: {verdict(t, row)}" for t in aims)
        body.append([words, "-" if row["value"] is None else str(row["value"]), interval, aim])
    return f"### {title}\n\n" + table(("figure", "value", "95 % interval", "target"), body)


def render(card: str, folder: Path) -> str:
    """The card's text with its generated parts as they should be for the weights and the report in `folder`.

    Raises:
        CheckpointError, ReportError: weights or report cannot be used, or the card lacks its marks.
    """
    checkpoint = load_checkpoint(folder)
    file = folder / "report.json"
    try:
        report = json.loads(file.read_text()) if file.exists() else None
        figures = NOT_YET if report is None else figures_part(report, checkpoint.risk_fingerprint())
    except (OSError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ReportError(f"no readable report at {file}: {error}") from error
    card = _put(card, "weights", weights_part(checkpoint))
    return _put(card, "figures", figures)


def _put(card: str, part: str, text: str) -> str:
    begin, end = MARKS[part], END.format(part)
    if card.count(begin) != 1 or card.count(end) != 1:
        raise ReportError(f"the card needs the lines {begin} and {end}, once each")
    before, after = card.partition(begin)[0], card.partition(end)[2]
    return f"{before}{begin}\n\n{text}\n\n{end}{after}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m model.evaluation.card_table", description=__doc__)
    parser.add_argument("--folder", type=Path, default=SHIPPED, help="of model.json, report.json and MODEL_CARD.md")
    parser.add_argument("--check", action="store_true", help="write nothing; exit code 1 if the card is not up to date")
    options = parser.parse_args(arguments)
    card = options.folder / CARD
    try:
        old = card.read_text()
        new = render(old, options.folder)
    except (OSError, CheckpointError, ReportError) as error:
        sys.stderr.write(f"card_table: {error}\n")
        return 2
    if options.check:
        return int(old != new)
    card.write_text(new)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
