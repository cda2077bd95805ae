"""What data files hold, as a table for a terminal and as JSON."""

from __future__ import annotations

import io
import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from pointing.curation.stats import QUANTILES, DataStatistics, Frequency, Spread

SHOWN = 10  # rows of a list


def data_json(found: DataStatistics) -> str:
    """One object with every number; of samples only their spread."""
    fields = asdict(found)
    for spread in ("target_area", "hand_area", "ray_length"):
        if fields[spread] is not None:
            del fields[spread]["sample"]
    return json.dumps(fields, ensure_ascii=False)


def data_table(found: DataStatistics, width: int = 100) -> str:
    """The same for people: counts, spreads, and the most frequent of each list."""
    text = io.StringIO()
    console = Console(file=text, width=width)
    images = f"{found.images} images of {len(found.sizes)} sizes"
    refused = f", {found.refused} refused (pointvg data check says why)" if found.refused else ""
    print(f"rows         {found.rows}: {found.positives} positive, {found.negatives} negative{refused}", file=text)
    print(f"images       {images}", file=text)
    print(f"known        {', '.join(f'{part.value} {part.count}' for part in found.parts)}", file=text)
    spreads = Table("share of the image", "count", "mean", "least", *(f"{q:.0%}" for q in QUANTILES), "most", box=None)
    for name, spread in (
        ("target, of the area", found.target_area),
        ("hand, of the area", found.hand_area),
        ("ray, of the diagonal", found.ray_length),
    ):
        if spread is not None:
            spreads.add_row(name, *_cells(spread))
    if spreads.row_count:
        console.print(spreads)
        sectors = ", ".join(f"{f.value} {f.count}" for f in found.ray_sectors if f.count)
        if sectors:
            print(f"rays point   {sectors}", file=text)
    names = Table("name of the target", "count", "mean share of the area", box=None)
    for each in found.names[:SHOWN]:
        names.add_row(_plain(each.name), str(each.count), f"{each.mean_area_share:.4f}")
    if names.row_count:
        console.print(names)
        _more(text, len(found.names), "names")
    for title, counts in (("image size", found.sizes), ("question", found.questions)):
        _list(console, title, counts)
        _more(text, len(counts), f"{title}s")
    return text.getvalue()


def _cells(spread: Spread) -> list[str]:
    numbers = (spread.mean, spread.least, *spread.quantiles, spread.most)
    return [str(spread.count), *(f"{number:.4f}" for number in numbers)]


def _list(console: Console, title: str, counts: tuple[Frequency, ...]) -> None:
    table = Table(title, "count", box=None)
    for each in counts[:SHOWN]:
        table.add_row(_plain(each.value), str(each.count))
    if table.row_count:
        console.print(table)


def _plain(text: str) -> str:
    """Text of a file as one short line without the console's markup."""
    line = " ".join(text.split()).replace("[", r"\[")
    return (line if len(line) <= 60 else f"{line[:57]}...") or "(others)"


def _more(text: io.StringIO, count: int, what: str) -> None:
    if count > SHOWN:
        print(f" and {count - SHOWN} more {what}", file=text)
