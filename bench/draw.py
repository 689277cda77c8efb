"""Pictures of how cost grows, as SVG files that are the same for the same figures."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

from bench.figures import Picture

mpl.use("svg")
mpl.rcParams |= {"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 11}

from matplotlib import pyplot as plt  # noqa: E402 - after it was said what it draws with

SHAPES = ("o-", "s--", "^:", "D-.")


def growth(file: Path, picture: Picture) -> None:
    """Draw one line for each of the picture's; on white, so that it is readable on a dark page too."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for (name, points), shape in zip(picture.lines.items(), SHAPES, strict=False):
        axes.plot([x for x, _ in points], [y for _, y in points], shape, label=name)
    axes.set(xlabel=picture.across, ylabel=picture.unit, title=picture.title, xscale="log")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, metadata={"Date": None, "Creator": None}, facecolor="white")
    plt.close(figure)
