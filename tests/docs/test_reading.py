"""The site in a real browser, from a file as well as served."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.console.browser import chromium
from tests.console.browser.conftest import MakeVisit, axe, browser, visit
from tests.docs.conftest import SITE_PATIENCE

if TYPE_CHECKING:
    from playwright.sync_api import Page

__all__ = ["axe", "browser", "visit"]

pytestmark = pytest.mark.timeout(SITE_PATIENCE + 60)

WIDE = ("README", "docs/howto/doctor")
"""Pages with tables, long lines and pictures."""


TOO_WIDE = "[...document.querySelectorAll('html, .content')].some(one => one.scrollWidth > one.clientWidth)"


class Quiet(SimpleHTTPRequestHandler):
    """Serves files, and says nothing."""

    def log_message(self, *_: Any) -> None:
        """Keep quiet."""


@pytest.fixture
def served(site: Path) -> Iterator[str]:
    """Serve it on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def search(page: Page, words: str) -> str:
    """Search for words from the page that is open; return what is shown when all is found."""
    page.get_by_role("textbox", name="Search").first.fill(words)
    page.keyboard.press("Enter")
    page.locator("#search-results .search-summary").wait_for()
    return page.locator("#search-results").inner_text()


def test_it_can_be_read_and_searched_from_a_file(site: Path, visit: MakeVisit) -> None:
    """Without a server or a network its front page opens, and its search finds what a word is about."""
    page = visit("file://").page
    page.goto((site / "index.html").as_uri())
    page.wait_for_url("**/docs/index.html")

    assert "Rotation" in search(page, "escrow")


def test_a_search_shows_where_the_word_stands(served: str, visit: MakeVisit) -> None:
    """Served, it also shows what is around the word that was found."""
    page = visit(served).page
    page.goto(f"{served}/docs/index.html")
    found = search(page, "escrow")
    page.locator("#search-results .context").first.wait_for()

    assert "Rotation" in found


def test_it_fits_a_phone(site: Path, visit: MakeVisit) -> None:
    """No page has to be scrolled sideways on a phone: wide tables and long lines scroll by themselves."""
    page = visit("file://", viewport={"width": 390, "height": 844}).page
    wide = []
    # The first page of all leads on at once.
    for file in sorted(set(site.rglob("*.html")) - {site / "index.html"}):
        page.goto(file.as_uri(), wait_until="domcontentloaded")
        page.wait_for_load_state()
        if page.evaluate(TOO_WIDE):
            wide.append(file.name)

    assert not wide


@pytest.mark.usefixtures("axe")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everybody_can_read_it(scheme: str, site: Path, visit: MakeVisit) -> None:
    """Contrast, names and order of what is on a page pass axe's rules, in the light and in the dark."""
    page = visit("file://", color_scheme=scheme).page
    found = {}
    for name in WIDE:
        page.goto((site / f"{name}.html").as_uri())
        # The corner of a table may stay empty.
        found[name] = [one for one in chromium.violations(page) if not one.startswith("empty-table-header:")]

    assert not any(found.values()), found
