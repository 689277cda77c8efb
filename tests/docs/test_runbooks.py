from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from tests.docs import pages, prometheus

RUNBOOKS = pages.DOCS / "runbooks"
INDEX = RUNBOOKS / "index.md"
MONITORING = pages.DOCS / "howto" / "monitoring.md"
BY_ALERT = {alert: RUNBOOKS / f"{alert.lower()}.md" for alert in prometheus.rules()}
HEADINGS = ["Meaning", "Impact", "Diagnosis", "Remedy"]
PLACEHOLDERS = {"NAMESPACE", "POD", "TOKEN", "APP", "RELEASE", "FILE", "SET/ACCOUNT"}
SAID = re.compile(r"(?<![*\w])\*([^*\n]+)\*(?![*\w])")
"""What the daemon says stands in italics, with an ellipsis for names and numbers; others' words stand in quotes."""

runbooks = pytest.mark.parametrize("alert", BY_ALERT)


@runbooks
def test_each_alert_has_a_runbook_of_the_same_parts(alert: str) -> None:
    """It is called like the alert, and has meaning, impact, diagnosis and remedy, in this order."""
    page = pages.prose(BY_ALERT[alert])

    assert re.findall(r"^# (.+)$", page, re.MULTILINE) == [alert]
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == HEADINGS


def test_each_runbook_is_of_an_alert() -> None:
    """No page is left over from an alert that is called otherwise now."""
    assert {*RUNBOOKS.glob("*.md")} == {INDEX, *BY_ALERT.values()}


@runbooks
def test_a_runbook_begins_with_what_to_type(alert: str) -> None:
    """Who was woken up finds the first command within five lines, and a remedy that can be typed."""
    first = pages.blocks(BY_ALERT[alert])[0]

    assert first.language == "console"
    assert first.line < 5
    assert first.text.startswith("$ ")


@runbooks
def test_placeholders_are_called_the_same_everywhere(alert: str) -> None:
    """Words in capitals are those that the index explains, and every kubectl says in which namespace."""
    for block in pages.of("console", pages=[BY_ALERT[alert]]):
        for line in block.text.splitlines():
            assert set(re.findall(r"(?<![\w-])[A-Z]{3,}(?:/[A-Z]+)?(?![\w-])", line)) <= PLACEHOLDERS
            assert "kubectl" not in line or line.startswith("$ kubectl -n NAMESPACE ")
    explained = pages.read(INDEX)
    assert all(f"`{word}`" in explained for word in PLACEHOLDERS)


@runbooks
def test_what_a_runbook_quotes_the_daemon_says(alert: str) -> None:
    """A message by which somebody decides what to do is one that the program has."""
    said = [words for row in _rows(BY_ALERT[alert]) for words in SAID.findall(row)]
    parts = [part.strip().lower() for words in said for part in words.split("…")]

    assert not [part for part in parts if part not in _sources()]


def _rows(page: Path) -> list[str]:
    return [line for line in pages.prose(page).splitlines() if line.startswith("| ")]


@cache
def _sources() -> str:
    """Return all of the program as one line, strings that are continued joined."""
    files = sorted((pages.ROOT / "sidecar").rglob("*.py"))
    text = " ".join(file.read_text(encoding="utf-8") for file in files)
    return re.sub(r"\s+", " ", re.sub(r'"\s+f?"', "", text)).lower()


def test_index_and_how_to_have_every_alert_at_its_severity() -> None:
    """The index lists them by severity, and the how-to's table says the same."""
    severities = {name: rule["labels"]["severity"] for name, rule in prometheus.rules().items()}
    sections = re.split(r"^## ", pages.read(INDEX), flags=re.MULTILINE)
    listed = {
        alert: section.partition("\n")[0].lower()
        for section in sections
        for alert in re.findall(r"^- \[(\w+)\]", section, re.MULTILINE)
    }
    tabled = dict(re.findall(r"^\| `(TokenSidecar\w+)` \| (\w+) \|", pages.read(MONITORING), re.MULTILINE))

    assert listed == severities
    assert tabled == severities


def test_every_alert_that_is_named_exists() -> None:
    """No page speaks of an alert that there isn't."""
    exist = {*prometheus.rules(), "TokenSidecar"}
    named = {
        (pages.named(page), name)
        for page in pages.PAGES
        for name in re.findall(r"TokenSidecar\w*", pages.read(page))
    }

    assert not {(page, name) for page, name in named if name not in exist}
