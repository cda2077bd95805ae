"""A page of HTML, read by the standard library's parser and checked for what every page must hold."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "link", "input", "br", "img", "hr"}


class CheckedPage(HTMLParser):
    """Fails where tags do not close in turn; keeps what tests look at."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []  # to ids of the page
        self.outside: list[str] = []  # to anything else
        self.unnamed: list[str] = []  # images and regions without a name for screen readers
        self.words: list[str] = []
        self.scripts = 0
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag not in VOID:
            self.open.append(tag)
        self.scripts += tag == "script"
        if "id" in given:
            self.ids.append(given["id"])
        for name in ("href", "src", "xlink:href", "action"):
            value = given.get(name, "data:")
            if value.startswith("#"):
                self.references.append(value[1:])
            elif not value.startswith("data:"):
                self.outside.append(value)
        self.references += [given[name] for name in ("aria-labelledby", "for") if name in given]
        if given.get("role") in ("img", "region") and not given.get("aria-label"):
            self.unnamed.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        """All words, one space between them."""
        return " ".join(" ".join(self.words).split())
