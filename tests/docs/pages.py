"""The pages of the documentation, and the blocks in them, as a parser of Markdown finds them."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(DOCS.rglob("*.md")),
    *sorted((ROOT / "helm").glob("*/README.md")),
]

_MARKDOWN = MarkdownIt("commonmark")


class Block(NamedTuple):
    """A block of code."""

    page: Path
    line: int
    language: str
    """Empty where none is named, and for blocks that are merely indented."""
    text: str

    def __repr__(self) -> str:
        return f"{named(self.page)}:{self.line}"


def named(page: Path) -> str:
    """Name a page as people do."""
    return str(page.relative_to(ROOT))


@cache
def read(page: Path) -> str:
    """Return a page's text."""
    return page.read_text(encoding="utf-8")


@cache
def blocks(page: Path) -> list[Block]:
    """Find a page's blocks, those in lists and quotations too."""
    return [
        Block(page, token.map[0] + 1, token.info.strip(), token.content)
        for token in _MARKDOWN.parse(read(page))
        if token.type in {"fence", "code_block"} and token.map
    ]


def prose(page: Path) -> str:
    """Return a page without its blocks."""
    lines = read(page).splitlines()
    for token in _MARKDOWN.parse(read(page)):
        if token.type in {"fence", "code_block"} and token.map:
            begin, end = token.map
            lines[begin:end] = [""] * (end - begin)
    return "\n".join(lines)


def of(*languages: str, pages: list[Path] | None = None) -> list[Block]:
    """Find the blocks of some languages."""
    return [
        block
        for page in (PAGES if pages is None else pages)
        for block in blocks(page)
        if block.language in languages
    ]


def spans(page: Path, pattern: str) -> list[str]:
    """Find what a pattern matches in the prose."""
    return re.findall(pattern, prose(page))
