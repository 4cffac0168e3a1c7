"""How the project's plots look: without a display, small SVG files that are the same for the same figures."""

import io
import re
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

mpl.rcParams.update(
    {
        "svg.hashsalt": "emberwatch",
        "svg.fonttype": "none",  # words as words: as outlines they were half of a file
        "path.simplify_threshold": 0.6,  # points, half of a thin line
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)
COORDINATES = re.compile(r'\b(?:d|x|y)="[^"]*"')  # of paths and of what is placed
LINE = re.compile(r'\bd="(M -?[\d.]+ -?[\d.]+\s+(?:L -?[\d.]+ -?[\d.]+\s*)+)(z?)\s*"')  # one stroke of straight pieces
LONG = re.compile(r"(\d+\.\d)\d+(?=[ ,)\"\n])")
GROUP = re.compile(r"<g>\n?((?:(?!</?g\b).)*?)\n?</g>", re.DOTALL)  # without attributes and without a group in it
FAMILY = re.compile(
    r" font-family: 'DejaVu Sans',[^;\"]*;?"
)  # matplotlib repeats all fonts that it knows with every word
# As wide as DejaVu Sans where that is missing.
ROOT_STYLE = "*{stroke-linejoin: round; stroke-linecap: butt} text{font-family: 'DejaVu Sans', Verdana, sans-serif}"
COLOURS = {
    "mamba": "#d9480f",
    "temperature_rule": "#868e96",
    "gaussian": "#1098ad",
    "lightgbm": "#2f9e44",
    "lstm": "#1971c2",
    "transformer": "#7048e8",
    "oracle": "#212529",
}


def colour(model: str) -> str:
    """The same of a model in every plot."""
    return COLOURS.get(model, "#e8590c")


def legend(axes: Axes) -> None:
    """A plain legend, where there is anything to tell apart."""
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=8)


def save(figure: Figure, path: Path) -> Path:
    """Write as SVG and forget the figure."""
    text = io.StringIO()
    # Without a date, so that the same figures give the same file.
    figure.savefig(text, format="svg", metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    path.write_text(shortened(text.getvalue()))
    return path


def shortened(svg: str) -> str:
    """The same picture in a third of the bytes.

    Coordinates to a tenth of a point (1/720 inch); no metadata, names of groups, doctype or indentation.
    """
    svg = re.sub(r"<!DOCTYPE.*?>\s*|<metadata>.*?</metadata>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = COORDINATES.sub(lambda found: LONG.sub(r"\1", found[0]), svg)
    svg = LINE.sub(lambda found: f'd="{by_steps(found[1])}{found[2]}"', svg)
    svg = FAMILY.sub("", svg).replace("*{stroke-linejoin: round; stroke-linecap: butt}", ROOT_STYLE, 1)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    for name, style in re.findall(r'<path id="(\w+)" d="[^"]*" (style="[^"]*")/>', svg):
        svg = re.sub(rf'(<use xlink:href="#{name}" [^>]*?) {re.escape(style)}/>', r"\1/>", svg)  # it has it already
    svg = re.sub(r' transform="rotate\(-?0(?:\.0)? [^"]*\)"', "", svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    while (plain := GROUP.sub(r"\1", svg)) != svg:
        svg = plain
    return svg


def by_steps(path: str) -> str:
    """`M x y L x y ...` in tenths of a point as a start and steps from point to point; the points are the same."""
    tenths = [round(10 * float(number)) for number in re.findall(r"-?[\d.]+", path)]
    points = list(zip(tenths[::2], tenths[1::2], strict=True))
    steps = [(x - u, y - v) for (u, v), (x, y) in pairwise(points)]
    told = [_tenth(x) + ("" if y < 0 else " ") + _tenth(y) for x, y in (points[0], *steps)]
    return f"M{told[0]}l" + "".join(
        one if one.startswith("-") or i == 0 else f" {one}" for i, one in enumerate(told[1:])
    )


def _tenth(number: int) -> str:
    return f"{number / 10:g}"
