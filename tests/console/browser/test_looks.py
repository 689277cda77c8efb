"""How the console's pages come out in a real browser: for everybody, on every screen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

import pytest

from tests.console import gallery
from tests.console.browser import chromium
from tests.console.browser.chromium import GALLERY, Visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from sidecar.config.settings import Settings

DESKTOP, PHONE, SMALLEST = (1280, 800), (360, 740), (320, 568)
"""WCAG 2.2 1.4.10 asks for no scrolling sideways down to 320 pixels."""


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Give the gallery's configuration."""
    return gallery.settings(tmp_path_factory.mktemp("gallery"))


@pytest.fixture(scope="module")
def written(settings: Settings) -> dict[str, str]:
    """Give every page of the gallery."""
    return dict(gallery.written(settings))


@pytest.fixture(scope="module")
def window(browser: Browser, written: dict[str, str]) -> Iterator[Page]:
    """Open a window in which the pages are."""
    visit = Visit(browser, GALLERY)
    chromium.hang(written, visit.page)
    yield visit.page
    visit.close()


def show(window: Page, name: str, size: tuple[int, int] = DESKTOP, *, dark: bool = False) -> None:
    """Load a page."""
    # A colour that is on its way to another has any contrast.
    scheme: Literal["dark", "light"] = "dark" if dark else "light"
    window.emulate_media(color_scheme=scheme, reduced_motion="reduce")
    window.set_viewport_size({"width": size[0], "height": size[1]})
    window.goto(f"{GALLERY}/{name}")


@pytest.mark.usefixtures("axe")
def test_every_page_is_accessible(window: Page, written: dict[str, str]) -> None:
    """Axe finds nothing: in light and in dark, on a desk and on a phone, where no page scrolls sideways."""
    found: list[str] = []
    for name in written:
        show(window, name)
        found += [f"{name}: {one}" for one in chromium.violations(window)]
        window.emulate_media(color_scheme="dark")
        found += [f"{name}, dark: {one}" for one in chromium.violations(window, "color-contrast")]
        for size in (PHONE, SMALLEST):
            window.set_viewport_size({"width": size[0], "height": size[1]})
            if chromium.is_too_wide(window):
                found.append(f"{name} scrolls sideways at {size[0]} pixels")
        found += [f"{name}, phone: {one}" for one in chromium.violations(window)]
    assert not found, "\n".join(found)


def test_a_narrow_table_is_a_table_still(window: Page) -> None:
    """Where rows are drawn as cards, a screen reader finds rows, cells and their headings all the same."""
    show(window, "overview", PHONE)
    table = window.get_by_role("table", name="Every token")
    assert table.get_by_role("row").count() == 13
    assert table.get_by_role("columnheader", include_hidden=True).count() == 5
    row = table.get_by_role("row").filter(has=window.get_by_role("rowheader", name="gmail-westside"))
    assert row.get_by_role("cell").count() == 4
    assert "invalid_grant" in row.get_by_role("cell").nth(0).inner_text()
    chart = row.get_by_role("img")
    assert (chart.get_attribute("aria-label") or "").startswith("The last 33 turns: 32 success, 1 dead.")


def test_every_stop_of_the_keyboard_is_seen(window: Page) -> None:
    """From the skip link on, whatever has the focus is on the screen and has a ring around it."""
    show(window, "overview")
    stops: list[str] = []
    for _ in range(200):
        window.keyboard.press("Tab")
        stop = window.evaluate(
            """() => {
              const one = document.activeElement, box = one.getBoundingClientRect(), style = getComputedStyle(one);
              const seen = box.width > 0 && box.top >= 0 && box.bottom <= innerHeight && style.outlineStyle !== 'none';
              return one === document.body ? null : [one.textContent || one.name || '', seen];
            }"""
        )
        if stop is None:
            break
        assert stop[1], f"{stop[0]!r} has the focus, and nobody sees it"
        stops.append(stop[0])
    assert stops[0] == "Skip to content"
    assert {"Tokens", "Sign out", "Reload", "Search", "gmail-westside", "Authorize crm"} <= set(stops)
    assert len(stops) > 20


def test_the_system_has_the_last_word_on_colour_and_motion(window: Page) -> None:
    """With forced colours the bars stay apart from their ground; who wants less motion gets none."""
    show(window, "overview")
    window.emulate_media(forced_colors="active", reduced_motion="reduce")
    colours = window.evaluate(
        """() => ['.chart .ok', '.chart .bad', '.meter .left', '.meter .track', 'body']
          .map(one => getComputedStyle(document.querySelector(one)))
          .map(style => [style.fill, style.backgroundColor])"""
    )
    (success, _), (failure, _), (left, _), (track, _), (_, ground) = colours
    assert success != failure
    assert track == ground != left
    button = window.get_by_role("button", name="Search")
    assert button.evaluate("one => getComputedStyle(one).transitionDuration") in {"0s", "1e-05s"}
    window.emulate_media(forced_colors="none", reduced_motion="no-preference")
    assert button.evaluate("one => getComputedStyle(one).transitionDuration") != "0s"
