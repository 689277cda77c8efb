"""Takes the documentation's pictures of the console: `make screenshots`. They show the tests' gallery.

The letters are Inter's, from Debian's `fonts-inter`: without it they are what the machine has.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from tests.console import gallery
from tests.console.browser import chromium
from tests.e2e.conftest import PROJECT

FOLDER = PROJECT / "docs" / "images"
LARGEST = 150_000
"""Bytes of one picture."""

FONTS = """<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><include>/etc/fonts/fonts.conf</include>
<match target="pattern"><test qual="any" name="family"><string>sans-serif</string></test>
<edit name="family" mode="prepend" binding="strong"><string>Inter</string></edit></match></fontconfig>
"""
"""Has the browser take Inter for what is simply sans-serif; see fonts-conf(5)."""


class Shot(NamedTuple):
    """One picture."""

    name: str
    page: str
    width: int
    height: int
    scheme: str


SHOTS = (
    Shot("console-light", "overview", 1160, 820, "light"),
    Shot("console-dark", "overview", 1160, 820, "dark"),
    Shot("console-token", "token", 1160, 820, "light"),
    Shot("console-phone", "token", 390, 844, "dark"),
    Shot("console-accounts", "accounts", 760, 640, "light"),
)


def main() -> int:
    """Take all of them."""
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        fonts = Path(folder) / "fonts.conf"
        fonts.write_text(FONTS, encoding="utf-8")
        os.environ["FONTCONFIG_FILE"] = str(fonts)
        return take(dict(gallery.written(gallery.settings(Path(folder)))))


def take(written: dict[str, str]) -> int:
    """Take pictures of these pages; returns an exit code."""
    with chromium.launched() as browser:
        for shot in SHOTS:
            window = browser.new_page(
                viewport={"width": shot.width, "height": shot.height},
                color_scheme="dark" if shot.scheme == "dark" else "light",
            )
            chromium.hang(written, window)
            window.goto(f"{chromium.GALLERY}/{shot.page}")
            picture = window.screenshot(path=FOLDER / f"{shot.name}.png")
            window.close()
            print(f"{shot.name}.png: {len(picture):,} bytes")  # noqa: T201
            if len(picture) > LARGEST:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
