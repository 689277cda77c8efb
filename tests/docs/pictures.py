"""The pictures of docs/explanation/architecture.md, as SVG: the layers as `.importlinter` has them, and a turn."""

from __future__ import annotations

import configparser
from collections.abc import Iterator
from html import escape
from typing import NamedTuple

from tests.docs.pages import ROOT

WIDTH = 860
ROW = 34
LETTER = 7.9
"""Of the font for names; the one for words is narrower."""
LEFT = 24
RIGHT = 500
"""Where the words begin."""
GAP = 8
TITLE = 22

STYLE = """
  .paper { fill: #ffffff; stroke: #d0d7de; }
  .group { fill: #f3f5f8; }
  .box { fill: #ffffff; stroke: #5b6b7f; }
  .main { fill: #dbe9ff; stroke: #1f5fbf; }
  .rest { fill: #fdf3d8; stroke: #96690a; }
  .arrow { stroke: #5b6b7f; stroke-width: 1.5; fill: none; marker-end: url(#head); }
  .head { fill: #5b6b7f; }
  .name { font: 13px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #1b2430; }
  .words { font: 13px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #48566a; }
  .small { font: 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #48566a; }
  .title { font: bold 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: #48566a; }
  .middle { text-anchor: middle; }
  @media (prefers-color-scheme: dark) {
    .paper { fill: #15181c; stroke: #3a424d; }
    .group { fill: #1d2228; }
    .box { fill: #262c34; stroke: #8b9bb0; }
    .main { fill: #17345f; stroke: #7fb0ff; }
    .rest { fill: #3a2f14; stroke: #e0b350; }
    .arrow { stroke: #8b9bb0; }
    .head { fill: #8b9bb0; }
    .name { fill: #e8edf3; }
    .words, .small, .title { fill: #aab6c5; }
  }
"""

WORDS = {
    "__main__": "argv → exit code",
    "cli": "one file for each command",
    "testing": "a simulated provider, for tests and the demo",
    "console": "the web page: who asks, consents under way",
    "deputy": "what is done while no daemon runs",
    "app": "wiring, signals, the order of the end",
    "engine": "a configuration's renewers",
    "server": "probes; consents; log and metrics; turns",
    "renewer": "THE way of one token: begin to read here",
    "intake": "seeds, adoptions; who is in a set; what is due",
    "courier": "outputs behind a network; hooks",
    "ledger": "the durable side; the outputs; what files hold",
    "setup": "what a renewer works with",
    "escrow": "an answer's refuge; changed files; lock",
    "grants": "adapters, one file each",
    "clients": "client libraries; token ↔ bytes",
    "config": "the file, and all that can be wrong with it",
    "rotation": "what becomes of a record, how it stands; pure",
    "schedule": "when; what it means; what is known; sealing",
    "answers": "where an answer holds what; pure",
    "ports": "every contract; the common tick; deeds",
    "events": "what happened; the shape of a profile",
    "tokens": "the record; clocks; small files; systemd",
    "errors": "one root",
}
"""A module of a layer → what the layer is for."""

GROUPS = {
    "__main__": "what you start",
    "server": "the engine",
    "grants": "adapters",
    "config": "decisions",
    "ports": "words",
}
"""A module of a group's uppermost layer → its name."""


def layers() -> Iterator[list[str]]:
    """Read the layers, uppermost first: the modules of each, which don't know each other."""
    law = configparser.ConfigParser()
    law.read(ROOT / ".importlinter", encoding="utf-8")
    for line in law["importlinter:contract:layers"]["layers"].split("\n"):
        if line.strip():
            yield [name.strip(" ()") for name in line.split("|")]


def floors() -> str:
    """Draw the layers, one floor each."""
    parts: list[str] = []
    top, group = 52.0, 0.0
    for modules in layers():
        named = _of(GROUPS, modules)
        if named:
            group = top = top + GAP
            top += TITLE
            parts.append(_text(LEFT + 12, top - 5, named, "title"))
        parts += _floor(modules, top + 4)
        top += ROW
        parts.insert(0, _box(LEFT, group, WIDTH - 2 * LEFT, top - group, "group"))
    told = "A module imports only from the floors below its own; those side by side don't know each other"
    head = _text(LEFT, 36, f"{told}.", "words")
    return _picture(top + LEFT, "The layers of the sidecar package", told, [head, *parts])


def _floor(modules: list[str], top: float) -> Iterator[str]:
    left = LEFT + 12.0
    for name in modules:
        width = LETTER * len(name) + 20
        yield _box(left, top, width, ROW - 8, "main" if name == "renewer" else "box")
        yield _text(left + width / 2, top + 17.5, name, "name middle")
        left += width + 8
    yield _text(max(RIGHT, left + 8), top + 17.5, _of(WORDS, modules), "words")


def _of(words: dict[str, str], modules: list[str]) -> str:
    return next((words[name] for name in modules if name in words), "")


class Step(NamedTuple):
    """One step of a turn, and where what comes of it rests."""

    name: str
    words: str
    place: str = ""


STEPS = (
    Step("load", "read it", "store"),
    Step("decide", "is it due?"),
    Step("lease", "announce it", "store"),
    Step("grant", "one request", "provider"),
    Step("escrow", "raw answer", "state_dir"),
    Step("commit", "new pair", "store"),
    Step("publish", "one rename", "outputs"),
    Step("emit", "tell of it", "observers"),
)


def turn() -> str:
    """Draw the way of a turn: its steps from left to right, and below each where it leads."""
    space = (WIDTH - 2 * LEFT) / len(STEPS)
    width = space - 16
    told = "The steps of a turn, and where each of them leads: what it leaves there is there before the next begins"
    parts = [_text(LEFT, 32, f"{told}.", "words")]
    for number, step in enumerate(STEPS):
        left = LEFT + number * space
        middle = left + width / 2
        parts.append(_box(left, 52, width, 40, "main" if step.name == "grant" else "box"))
        parts.append(_text(middle, 77, step.name, "name middle"))
        parts.append(_text(middle, 112, step.words, "small middle"))
        if number + 1 < len(STEPS):
            parts.append(_arrow(left + width, 72, left + space - 3, 72))
        if step.place:
            parts.append(_arrow(middle, 122, middle, 148))
            parts.append(_box(left + 6, 151, width - 12, 30, "rest"))
            parts.append(_text(middle, 171, step.place, "name middle"))
    return _picture(198, "One turn of one token", told, parts)


def _box(left: float, top: float, width: float, height: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{left:.0f}" y="{top:.0f}" width="{width:.0f}" height="{height:.0f}" rx="4"/>'


def _text(left: float, base: float, words: str, kind: str) -> str:
    return f'<text class="{kind}" x="{left:.0f}" y="{base:.0f}">{escape(words)}</text>'


def _arrow(left: float, top: float, right: float, bottom: float) -> str:
    return f'<path class="arrow" d="M{left:.0f} {top:.0f} L{right:.0f} {bottom:.0f}"/>'


def _picture(height: float, title: str, told: str, parts: list[str]) -> str:
    """Frame it: on paper of its own, so that it can be read on a page of any colour."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-labelledby="t d">',
        f'<title id="t">{title}</title>',
        f'<desc id="d">{told}</desc>',
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">',
        '<path class="head" d="M0 0 L8 4 L0 8 z"/></marker></defs>',
        f'<rect class="paper" x="1" y="1" width="{WIDTH - 2}" height="{height - 2:.0f}" rx="8"/>',
        *parts,
        "</svg>",
    ]
    return "\n".join(lines) + "\n"
