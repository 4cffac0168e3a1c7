"""One figure of several contenders as a plot: points with their intervals, and what others published."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from model.drawing import colour, legend
from model.evaluation.figure_row import row
from model.studies.contest import Contest


def interval_plot(contest: Contest, words: str, published: Mapping[str, float] | None = None) -> Figure:
    """Contenders from top to bottom, the best first; `published` are figures of other data, by contender."""
    order = list(reversed(contest.order))
    figure, axes = plt.subplots(figsize=(6.4, 0.8 + 0.32 * max(len(order), 1)))
    for place, name in enumerate(order):
        one = row(contest.figure, {}, contest.values[name], contest.unit)
        shade = colour(name.split(",")[0])
        if one["lo"] is not None:
            axes.plot([one["lo"], one["hi"]], [place, place], color=shade, lw=1.5)
        axes.plot([one["value"]], [place], "o", color=shade, ms=5)
    known = [(value, place) for place, name in enumerate(order) if (value := (published or {}).get(name)) is not None]
    if known:
        values, places = zip(*known, strict=True)
        axes.plot(values, places, "x", color="#212529", ms=6, label="published, other data")
    axes.set_yticks(range(len(order)), order)
    axes.set_ylim(-0.6, len(order) - 0.4)
    axes.set_xlabel(words)
    legend(axes)
    return figure
