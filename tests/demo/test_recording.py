"""The README's film of the demo: what is kept of it, and how it is put together."""

from __future__ import annotations

import math
import os
import re
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from sidecar.cli.demo.screen import GOOD, PLAIN, Event, OutputRow, Row, Scene
from sidecar.cli.demo.verdict import Verdict
from tests.demo import recording

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"


def is_plain(film: str) -> bool:
    """Tell whether a film shows itself, and asks for nothing: no program, font, picture or address elsewhere."""
    asked = re.findall(r"(?:https?:)?//[^\s<&,\"]+", film)
    strangers = [
        each for each in asked if not re.match(r"http://(127\.0\.0\.1:\d+$|www\.w3\.org/2000/svg$)", each)
    ]
    return not strangers and not re.search(
        r"<script|<image|<foreignObject|@import|@font-face|url\(|href", film
    )


def test_the_film_that_is_shown_is_one() -> None:
    """It is well-formed and light, asks nobody for anything, shows a kill and ends well; the README shows it."""
    film = recording.PICTURE.read_text(encoding="utf-8")

    root = ET.fromstring(film)  # noqa: S314 - our own file
    text = " ".join(" ".join(root.itertext()).split())
    frames = root.findall(f"{SVG}g")
    assert len(film.encode()) <= recording.LARGEST
    assert is_plain(film)
    assert len(frames) > 8
    assert "the daemon was ended by SIGKILL; it is started again" in text
    assert "none used twice" in text
    assert "".join(frames[-1].itertext()).replace("\xa0", " ").endswith("Every promise was kept.")
    assert "](docs/images/demo.svg)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_a_film_is_made_of_what_the_demo_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A frame each second and a half once there are tokens, one kill, and the verdict; each colour is named once."""
    killed: list[int] = []
    monkeypatch.setattr(os, "kill", lambda pid, _: killed.append(pid))
    (tmp_path / "daemon.pid").write_text("4711", encoding="utf-8")
    camera = recording.Camera(tmp_path)

    for tenth in range(int(recording.LENGTH) * 10):
        left = None if tenth < 20 else 15.0 - tenth / 20
        row = Row("gmail", "refresh token", "", left, 2.5, 1, 1.0, (OutputRow("tokens/a.json", "ok", GOOD),))
        camera.show(Scene(tenth / 10, 15.0, (row,), (("daemon", "pid 4711 <&>", PLAIN),)))
    camera.tell(Event(time.time(), "never shown", PLAIN))
    camera.conclude(Verdict(rows=[("refreshes done", "2")]), recording.LENGTH)
    film = camera.reel.film("a film")

    frames = ET.fromstring(film).findall(f"{SVG}g")  # noqa: S314 - our own
    assert killed == [4711]
    assert len(frames) == math.ceil((recording.LENGTH - 2) / recording.EACH) + 1
    assert "<&>" in "".join(frames[0].itertext())
    assert "".join(frames[-1].itertext()).replace("\xa0", " ").endswith("Every promise was kept.")
    assert "never shown" not in film.replace("&#160;", " ")
    named = re.findall(r"^\.s\d+ (.*)$", film, re.MULTILINE)
    assert len(named) == len(set(named)) > 3
    assert is_plain(film)
    assert camera.is_well


@pytest.mark.parametrize(
    "stranger", ['<image href="a.png"/>', "@import 'a.css';", "//elsewhere.example/a.woff"]
)
def test_what_asks_elsewhere_is_noticed(stranger: str) -> None:
    """What the tests above rely on."""
    assert not is_plain(f"<svg>{stranger}</svg>")
