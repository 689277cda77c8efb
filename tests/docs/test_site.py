from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

from tests.docs.conftest import SITE_PATIENCE
from tests.docs.pages import PAGES, ROOT

pytestmark = pytest.mark.timeout(SITE_PATIENCE + 60)

LOADING = {"src", "srcset", "poster", "data"}
"""What an element fetches by itself; a link's href is followed by a reader."""
CSS = re.compile(r"(?:url\(|@import)\s*[\"']?(?P<address>(?:https?:)?//[^\"')\s]+)")


class Element(NamedTuple):
    """An element of a built page."""

    page: str
    tag: str
    attributes: dict[str, str]


class Reader(HTMLParser):
    """Takes down all elements of a page."""

    def __init__(self, page: Path, site: Path) -> None:
        """Read a page at once."""
        super().__init__()
        self.page = page.relative_to(site).as_posix()
        self.elements: list[Element] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(self.page, tag, {name: value or "" for name, value in attrs}))


@pytest.fixture(scope="module")
def elements(site: Path) -> list[Element]:
    """Read every page that was built."""
    return [element for page in sorted(site.rglob("*.html")) for element in Reader(page, site).elements]


def test_every_page_is_on_the_site(site: Path) -> None:
    """What reads on a forge reads on the site as well, at the same place."""
    assert not [page for page in PAGES if not (site / page.relative_to(ROOT)).with_suffix(".html").exists()]
    assert "docs/index.html" in (site / "index.html").read_text(encoding="utf-8")


def test_nothing_is_loaded_from_elsewhere(site: Path, elements: list[Element]) -> None:
    """The site works without a network: no page fetches a font, a script, a style or a picture from another host."""
    fetched = [
        (one.page, value)
        for one in elements
        for name, value in one.attributes.items()
        if name in LOADING or (name == "href" and one.tag == "link")
    ]
    styles = [(sheet.name, sheet.read_text(encoding="utf-8")) for sheet in site.rglob("*.css")]
    styles += [(one.page, one.attributes["style"]) for one in elements if "style" in one.attributes]
    strange = [(name, found["address"]) for name, text in styles for found in CSS.finditer(text)]

    assert fetched
    assert styles
    assert not strange + [(page, value) for page, value in fetched if urlsplit(value).netloc]


def test_whatever_is_linked_was_built(site: Path, elements: list[Element]) -> None:
    """Each address within the site names a file that is there."""
    missing = set()
    for one in elements:
        for name in ("href", "src"):
            address = urlsplit(one.attributes.get(name, ""))
            if address.path and not address.scheme and not address.netloc:
                target = (site / one.page).parent / unquote(address.path)
                missing |= set() if target.exists() else {(one.page, one.attributes[name])}

    assert not missing


def test_every_picture_is_told_in_words(elements: list[Element]) -> None:
    """A picture has an alternative text, for those who don't see it."""
    pictures = [one for one in elements if one.tag == "img"]

    assert pictures
    assert not [one for one in pictures if not one.attributes.get("alt")]
