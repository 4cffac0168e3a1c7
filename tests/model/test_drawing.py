"""Plots as files: small, the same for the same figures, and nothing lost."""

import re
from pathlib import Path
from xml.etree import ElementTree as ET

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from model.drawing import save

SVG = "{http://www.w3.org/2000/svg}"


def a_figure() -> Figure:
    """Lines with markers, a logarithmic axis and words that XML must escape."""
    figure, axes = plt.subplots()
    axes.loglog(np.arange(1, 50), np.arange(1, 50) ** 2.0, marker="o", label="a < b & c")
    axes.set_xlabel("samples ahead")
    axes.legend()
    return figure


def test_words_and_marks_are_kept_and_the_file_is_small(tmp_path: Path) -> None:
    """Well-formed, every point marked, words as words, without what only matplotlib reads."""
    text = save(a_figure(), tmp_path / "a.svg").read_text()
    root = ET.fromstring(text)  # noqa: S314  (our own file)
    words = ["".join(found.itertext()) for found in root.iter(f"{SVG}text")]
    assert "samples ahead" in words
    assert "a < b & c" in words
    placed = [found.get("{http://www.w3.org/1999/xlink}href") for found in root.iter(f"{SVG}use")]
    assert max(placed.count(name) for name in placed) >= 49
    defined = {found.get("id") for found in root.iter() if found.get("id")}
    assert {str(name)[1:] for name in placed} <= defined
    assert "<metadata" not in text
    assert "Bitstream" not in text
    assert len(text) < 15_000


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    """So that a plot changes in the repository only when its figures do."""
    first, second = (save(a_figure(), tmp_path / name).read_bytes() for name in ("a.svg", "b.svg"))
    assert first == second


def test_lines_go_through_the_same_points(tmp_path: Path) -> None:
    """A line is written as steps of tenths of a point, which do not add up to a drift."""
    figure, axes = plt.subplots(figsize=(8, 3))
    y = np.random.default_rng(0).normal(size=300)
    (line,) = axes.plot(y, color="#123456")
    figure.canvas.draw()
    expected = line.get_transform().transform(line.get_xydata())
    root = ET.fromstring(save(figure, tmp_path / "a.svg").read_text())  # noqa: S314  (our own file)
    (path,) = (found.get("d") for found in root.iter(f"{SVG}path") if "#123456" in (found.get("style") or ""))
    assert path is not None
    start, steps = path.removeprefix("M").split("l")
    numbers = [float(number) for number in re.findall(r"-?[\d.]+", f"{start} {steps}")]
    points = np.cumsum(np.reshape(numbers, (-1, 2)), axis=0)
    # The first and the last point are never simplified away; the picture is cut to what is on it and turned upside down.
    moved = (expected[-1] - expected[0]) * 72 / figure.dpi
    np.testing.assert_allclose(points[-1] - points[0], moved * [1, -1], atol=0.2)
    assert len(points) > 100
