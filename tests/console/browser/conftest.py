"""The real browser, where there is one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.console.browser import chromium
from tests.console.browser.chromium import Visit

if TYPE_CHECKING:
    from playwright.sync_api import Browser

MakeVisit = Callable[..., Visit]


def missing(reason: str) -> None:
    """Skip, or fail where everything has to be there."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


# Playwright's synchronous calls leave an event loop running in this thread, in which no other test could start one:
# therefore there is one browser for each module, and not for the whole session.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Run Chromium for the tests of a module."""
    if chromium.PROGRAM is None:
        missing("there is no chromium: apt-get install chromium, or name it in TOKEN_SIDECAR_CHROMIUM")
    with chromium.launched() as started:
        yield started


@pytest.fixture
def visit(browser: Browser) -> Iterator[MakeVisit]:
    """Open windows of their own; what went wrong in one of them fails the test."""
    opened: list[Visit] = []

    def make(*origins: str, **options: Any) -> Visit:
        opened.append(Visit(browser, *origins, **options))
        return opened[-1]

    yield make
    for one in opened:
        one.close()


@pytest.fixture(scope="session")
def axe() -> None:
    """Have axe at hand."""
    if not chromium.AXE.exists():
        missing(f"there is no axe at {chromium.AXE}: `make .venv/.axe` fetches it, and needs npm")
