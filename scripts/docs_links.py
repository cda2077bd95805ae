"""A hook of mkdocs: links of a page that lead out of docs/ are right on GitHub, and name the file on the site."""

from __future__ import annotations

import re
from typing import Any

_OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)#]+)(?:#[^)]*)?\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """What mkdocs calls with the text of each page.

    >>> on_page_markdown("see [the table](../benchmarks/README.md#step)")
    'see the table (`benchmarks/README.md`)'
    """
    return _OUTSIDE.sub(r"\1 (`\2`)", markdown)
