"""A real browser, Debian's Chromium, that takes note of everything that must not happen in it."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from playwright.sync_api import sync_playwright

from sidecar.console import pages
from sidecar.console.guard import HEADERS

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, Route

PROGRAM = os.environ.get("TOKEN_SIDECAR_CHROMIUM") or shutil.which("chromium")
GALLERY = "https://console.test"
"""Where the pages are that nobody serves."""
AXE = Path(sys.prefix) / "axe.min.js"
PATIENCE = 30_000.0
"""Milliseconds until something that should be on a page counts as missing; the machine may be busy."""


@contextmanager
def launched() -> Iterator[Browser]:
    """Run Chromium; nothing is downloaded."""
    # Its sandbox needs user namespaces, which root in a container has not. All that it shows here is our own.
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=options)
        try:
            yield browser
        finally:
            browser.close()


class Visit:
    """One person's browser window, with cookies and a history of its own."""

    def __init__(self, browser: Browser, *origins: str, **options: Any) -> None:
        """`origins` are all that may be asked for anything; `options` are Playwright's, for a context."""
        self.context: BrowserContext = browser.new_context(**options)
        self.context.set_default_timeout(PATIENCE)
        self.page: Page = self.context.new_page()
        self.origins = set(origins)
        self.problems: list[str] = []
        """What went wrong in the browser itself: refused by the policy, failed to load, or asked of a stranger."""
        self.addresses: list[str] = []
        """Every address that anything was asked of."""
        self.context.on("console", self._said)
        self.context.on("weberror", lambda error: self.problems.append(str(error.error)))
        self.context.on("request", self._asked)
        self.context.on("requestfailed", self._failed)

    def _failed(self, request: Request) -> None:
        # What a page had begun to load when somebody left it is given up.
        if request.failure != "net::ERR_ABORTED":
            self.problems.append(f"{request.url}: {request.failure}")

    def _said(self, message: ConsoleMessage) -> None:
        # An answer of ours that says no is told there, too.
        refusal = message.text.startswith("Failed to load resource: the server responded with a status of 4")
        if message.type in {"error", "warning"} and not refusal:
            self.problems.append(f"{self.page.url}: {message.text}")

    def _asked(self, request: Request) -> None:
        self.addresses.append(request.url)
        parts = urlsplit(request.url)
        if f"{parts.scheme}://{parts.netloc}" not in self.origins:
            self.problems.append(f"{request.url} was asked for")

    def close(self) -> None:
        """End it. Fails where something went wrong."""
        self.context.close()
        assert not self.problems, self.problems


def hang(written: dict[str, str], page: Page) -> None:
    """Let a browser's page find these pages below `GALLERY`, with the console's own headers."""

    def answer(route: Route) -> None:
        name = route.request.url.removeprefix(f"{GALLERY}/")
        static = name.removeprefix("static/")
        if static in pages.STATIC:
            kind = {"content-type": pages.STATIC[static]}
            route.fulfill(body=pages.static(static), headers={**HEADERS, **kind})
        else:
            # Where the page that leads on would lead to is nowhere.
            html = written[name].replace('http-equiv="refresh"', 'name="led-on"')
            route.fulfill(body=html, headers={**HEADERS, "content-type": "text/html; charset=utf-8"})

    page.route(f"{GALLERY}/**", answer)


def violations(page: Page, *rules: str) -> list[str]:
    """Let axe look at a page: what it finds, with the elements; `rules`: these alone."""
    if not page.evaluate("typeof axe !== 'undefined'"):
        page.evaluate(AXE.read_text(encoding="utf-8"))
    only = f"runOnly: {{type: 'rule', values: {list(rules)}}}," if rules else ""
    found = page.evaluate(f"axe.run(document, {{{only} resultTypes: ['violations'], preload: false}})")
    return [
        f"{one['id']}: {one['help']}: {[node['html'] for node in one['nodes']]}"
        for one in found["violations"]
    ]


def is_too_wide(page: Page) -> bool:
    """Tell whether a page has to be scrolled sideways."""
    wide: bool = page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    return wide
