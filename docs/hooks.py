"""mkdocs hook: files of the repository that are no pages are named by their path; the site does not hold them."""

import re
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\[[^\]]*\]\((\.\./[^)#\s]+)(?:#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Replace links that leave `docs/` by paths; a path that does not exist stops the build."""
    folder = ROOT / "docs" / PurePosixPath(page.file.src_uri).parent

    def named(link: re.Match[str]) -> str:
        target = (folder / link[1]).resolve()
        if target.is_relative_to(ROOT / "docs"):
            return link[0]
        if not target.exists():
            raise FileNotFoundError(f"{page.file.src_uri} links to {link[1]}, which does not exist")
        return f"`{target.relative_to(ROOT).as_posix()}`"

    return _LINK.sub(named, markdown)
