"""A report's plots, as small SVG files: latencies and the cost by stage."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from model.drawing import save
from service.benchmark.report_tables import STAGE, STAGES, Report, of

SHADES = ("#ffd8a8", "#ff922b", "#d9480f")
COLOURS = ("#1971c2", "#1098ad", "#2f9e44", "#d9480f", "#7048e8", "#868e96", "#212529")


def draw(report: Report, folder: Path, name: str) -> list[Path]:
    """Write every plot that the report has rows for; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    latencies = [row for row in report["rows"] if row["unit"] == "ms" and "_p" in row["name"] and "late" in row["name"]]
    stages = [row for row in report["rows"] if row["name"] == STAGE]
    paths = []
    if latencies := [row for row in latencies if not row["name"].startswith("generator")]:
        paths.append(draw_latencies(latencies, folder / f"{name}-latency.svg"))
    if any(row["params"]["stage"].removeprefix("stage ") in STAGES for row in stages):
        paths.append(draw_stages(stages, folder / f"{name}-stages.svg"))
    return paths


def draw_latencies(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Quantiles of each run as points on a line, on a log scale."""
    runs: dict[str, dict[str, float]] = {}
    for row in rows:
        shown = {key: value for key, value in row["params"].items() if key in {"scenario", "driver", "mode", "role"}}
        runs.setdefault(" ".join(map(str, shown.values())), {})[row["name"]] = row["value"]
    names = sorted({name for values in runs.values() for name in values})
    figure, axes = plt.subplots(figsize=(7.0, 0.8 + 0.32 * len(runs)))
    for y, values in enumerate(runs.values()):
        axes.plot([min(values.values()), max(values.values())], [y, y], color="#ced4da", lw=2, zorder=1)
    for name, colour in zip(names, SHADES, strict=False):
        at = [(values[name], y) for y, values in enumerate(runs.values()) if name in values]
        label = name.rpartition("latency_")[2].replace("_", ".")
        axes.scatter([x for x, _ in at], [y for _, y in at], color=colour, zorder=2, label=label)
    axes.set_yticks(range(len(runs)), list(runs))
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("milliseconds from when a sample was due to its acknowledgement")
    axes.legend(frameon=False, fontsize=8)
    return save(figure, path)


def draw_stages(rows: Sequence[dict[str, Any]], path: Path) -> Path:
    """Microseconds of each stage per sample, stacked."""
    runs: dict[str, dict[str, float]] = {}
    for row in rows:
        shown = {key: value for key, value in row["params"].items() if key in {"scenario", "driver", "mode"}}
        runs.setdefault(of(shown), {})[row["params"]["stage"].removeprefix("stage ")] = row["value"]
    figure, axes = plt.subplots(figsize=(7.0, 0.8 + 0.32 * len(runs)))
    left = [0.0] * len(runs)
    for stage, colour in zip(STAGES, COLOURS, strict=True):
        widths = [values.get(stage, 0.0) for values in runs.values()]
        axes.barh(range(len(runs)), widths, left=left, color=colour, label=stage)
        left = [a + b for a, b in zip(left, widths, strict=True)]
    axes.set_yticks(range(len(runs)), list(runs))
    axes.invert_yaxis()
    axes.set_xlabel("microseconds of a stage per sample (wall clock: what waits for the store counts)")
    axes.legend(frameon=False, fontsize=8, ncols=len(STAGES), loc="upper center", bbox_to_anchor=(0.45, 1.25))
    return save(figure, path)
