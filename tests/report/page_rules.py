"""What every page keeps to: it is whole, needs nothing else, and what may be wide scrolls in a frame of its own."""

import re
from html.parser import HTMLParser

VOID = frozenset(("meta", "img", "br", "link", "hr"))


class _Reader(HTMLParser):
    """Fails where a tag is closed that is not the last one opened, or a table lies in no frame."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.tables = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables += 1
            assert self.open[-1] == ("div", "scroll"), self.getpos()
        # A caption would scroll with its table.
        assert tag != "caption", self.getpos()
        if tag not in VOID:
            self.open.append((tag, dict(attrs).get("class") or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag, self.getpos()


def assert_whole(text: str) -> None:
    """The page is well formed and shows nothing that it does not hold."""
    reader = _Reader()
    reader.feed(text)
    assert reader.open == []
    assert reader.tables
    assert 'name="viewport"' in text
    assert ".scroll { overflow-x: auto" in text
    assert not re.search(r'(?:src|href)="(?!data:|#)', text)
    assert "<script" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
