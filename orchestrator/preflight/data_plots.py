"""Pictures of what data files hold."""

from __future__ import annotations

import html
import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from pointing.curation.stats import DataStatistics, Frequency, Spread

BLUE, GREY = "#2f6fb3", "#777777"
SHOWN = 12  # bars of names or sizes
SUFFIXES = (".png", ".html")

_PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>body{{font:16px sans-serif;margin:1rem auto;max-width:72rem;padding:0 1rem}}svg{{width:100%;height:auto}}
pre{{overflow-x:auto}}</style>
<h1>{title}</h1>
<pre>{table}</pre>
{picture}
</html>
"""


def data_plots(found: DataStatistics, file: Path, title: str, table: str) -> bytes:
    """A picture of six panels as the bytes of a PNG file, or a page with it and the table, by the suffix of `file`."""
    figure = Figure(figsize=(12, 7), dpi=110, layout="constrained", facecolor="white")
    panels: list[Axes] = [figure.add_subplot(2, 3, number) for number in range(1, 7)]
    _histogram(panels[0], "target, share of the image's area", found.target_area)
    _histogram(panels[1], "hand, share of the image's area", found.hand_area)
    _histogram(panels[2], "ray, share of the image's diagonal", found.ray_length)
    _bars(panels[3], "direction of the ray", found.ray_sectors)
    _bars(panels[4], "names, most frequent first", [Frequency(n.name, n.count) for n in found.names])
    _bars(panels[5], "image sizes, most frequent first", found.sizes)
    if file.suffix == ".png":
        image = io.BytesIO()
        FigureCanvasAgg(figure).print_png(image)
        return image.getvalue()
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return _PAGE.format(title=html.escape(title), table=html.escape(table), picture=svg[svg.index("<svg") :]).encode()


def _histogram(axes: Axes, title: str, spread: Spread | None) -> None:
    _dress(axes, title)
    if spread is None:
        axes.text(0.5, 0.5, "none", ha="center", color=GREY, transform=axes.transAxes)
    else:
        axes.hist(spread.sample, bins=40, color=BLUE)


def _bars(axes: Axes, title: str, counts: Sequence[Frequency]) -> None:
    _dress(axes, title)
    shown = [each for each in counts if each.count][:SHOWN]
    if not shown:
        axes.text(0.5, 0.5, "none", ha="center", color=GREY, transform=axes.transAxes)
        return
    # Names come from files: a dollar sign would be read as mathematics.
    labels = [(each.value[:24] or "(others)").replace("$", r"\$") for each in shown]
    axes.barh(range(len(shown)), [each.count for each in shown], color=BLUE)
    axes.set_yticks(range(len(shown)), labels)
    axes.invert_yaxis()


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=10, loc="left")
    axes.tick_params(labelsize=8, colors=GREY, length=2)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
