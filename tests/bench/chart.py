"""The chart of the evaluation: recall by category, a bar for each k, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tests.bench.scoring import Row

COLOURS = ("#9ecae1", "#4292c6", "#08519c", "#08306b")
GROUP_WIDTH = 0.8


def draw(rows: Sequence[Row], ks: Sequence[int], title: str, path: Path) -> None:
    """Write the chart; raises `OSError` where the file cannot be written."""
    from matplotlib.figure import Figure  # slow to import, and only a chart needs it

    figure = Figure(figsize=(9.0, 4.8), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    width = GROUP_WIDTH / len(ks)
    for place, k in enumerate(ks):
        offset = (place - (len(ks) - 1) / 2) * width
        heights = [row.recall[k] for row in rows]
        bars = axes.bar(
            [group + offset for group in range(len(rows))],
            heights,
            width * 0.92,
            label=f"recall@{k}",
            color=COLOURS[place % len(COLOURS)],
        )
        axes.bar_label(bars, [f"{100 * height:.0f}" for height in heights], fontsize=8, padding=1)
    axes.set_xticks(range(len(rows)), [f"{row.name}\n{row.questions} questions" for row in rows])
    axes.set_ylim(0.0, 1.08)
    axes.set_yticks([0.0, 0.25, 0.5, 0.75, 1.0])
    axes.set_ylabel("share of the evidence turns found")
    axes.set_title(title, fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower center", ncols=len(ks), frameon=False)
    with path.open("wb") as file:
        figure.savefig(file, format="png")
