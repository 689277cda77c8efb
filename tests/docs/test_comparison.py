"""The comparison with neighbours: what it says of us has a test, of others a source, and the README says the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "explanation" / "comparison.md"
US = "token-sidecar"
TOOLS = [US, "Vault Agent", "tbot", "spiffe-helper", "ESO", "Nango", "oidc-agent", "credmon"]
KINDS = ("source:", "run:", "issue:", "docs:", "follows:")
JUDGED = {"yes", "partly", "no", "\N{EN DASH}", "?"}
MEASURED = {"Providers", "Language and memory", "Maturity"}
"""Questions that are answered by a fact, not by a verdict."""


class Cell(NamedTuple):
    """What is said of one tool."""

    tool: str
    verdict: str
    does: str
    source: str


def questions() -> dict[str, list[Cell]]:
    """Read the page's tables, by their headings."""
    found = {}
    for section in re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        rows = re.findall(r"^\| (\S[^|]*) \| ([^|]+) \|([^|]*)\|([^|]*)\|$", section, re.MULTILINE)
        cells = [Cell(*(part.strip() for part in row)) for row in rows]
        if cells:
            found[section.splitlines()[0]] = cells
    return found


QUESTIONS = questions()


def test_every_neighbour_is_asked_every_question() -> None:
    """No question leaves out whom it would praise or embarrass."""
    assert len(QUESTIONS) >= 17
    assert {tuple(cell.tool for cell in cells) for cells in QUESTIONS.values()} == {tuple(TOOLS)}
    for question in QUESTIONS.keys() - MEASURED:
        assert {cell.verdict for cell in QUESTIONS[question]} <= JUDGED, question


@pytest.mark.parametrize("question", QUESTIONS)
def test_what_is_said_of_others_has_a_source(question: str) -> None:
    """Where we read, ran or concluded it; and nothing is said where we didn't look."""
    for cell in QUESTIONS[question][1:]:
        if cell.verdict == "?":
            assert cell.does == cell.source == ""
        else:
            assert cell.source.startswith(KINDS), cell


@pytest.mark.parametrize("question", QUESTIONS)
def test_what_is_said_of_us_has_a_test(question: str) -> None:
    """Each of our own cells names what shows it, and what it names has a test in it."""
    named = re.findall(r"`([\w/.-]+)`", QUESTIONS[question][0].source)
    assert named
    for place in (ROOT / name for name in named):
        files = [*place.rglob("test_*.py")] if place.is_dir() else [place]
        assert files
        assert place == ROOT / "CHANGELOG.md" or any("def test_" in file.read_text("utf-8") for file in files)


def test_the_readme_says_the_same() -> None:
    """Its table is this page's, row for row and word for word, and each row leads to its reasons."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| \[([^\]]+)\]\((docs/explanation/comparison\.md#[^)]+)\) \| (.*) \|$", text, re.MULTILINE
    )

    assert f"| | {' | '.join(TOOLS)} |" in text
    assert {question: said.split(" | ") for question, _, said in rows} == {
        question: [cell.verdict for cell in cells] for question, cells in QUESTIONS.items()
    }
    slugs = {question: re.sub(r"[^\w\- ]", "", question.lower()).replace(" ", "-") for question in QUESTIONS}
    assert {question: link.partition("#")[2] for question, link, _ in rows} == slugs
