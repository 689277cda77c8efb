"""What the demo's reader finds in files."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from sidecar.cli.demo.reader import Reader
from sidecar.testing import Simulator

HEADER = "Authorization: Bearer sim-at-" + "a" * 32


def read(path: Path, *contents: str | float | None) -> Reader:
    """Let a reader that is promised ten seconds read a file once for each of its contents.

    A number is a token that is valid for so many seconds more; None: there is no file.
    """
    reader = Reader({path.name: path}, min_validity=10, provider="http://127.0.0.1:1")
    for content in contents:
        path.unlink(missing_ok=True)
        if content is not None:
            path.write_text(content if isinstance(content, str) else token(content))
        reader._round()
    return reader


def token(left: float) -> str:
    """Write a token that is valid for so many seconds more."""
    return json.dumps({"access_token": "sim-at-" + "a" * 32, "expires_at": time.time() + left})


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("gmail.json", None, "missing"),
        ("gmail.json", "", "empty"),
        ("gmail.json", '{"access_token": "sim-at-aaaa', "torn"),
        ("gmail.json", "{}", "torn"),
        ("gmail.json", -1.0, "expired"),
        ("gmail.json", 5.0, "short"),
        ("gmail.header", HEADER[:-1], "torn"),
    ],
)
def test_it_sees_what_no_reader_should(
    tmp_path: Path, name: str, content: str | float | None, kind: str
) -> None:
    """Each kind of breach is counted as what it is."""
    good = 60.0 if name.endswith(".json") else HEADER
    findings = read(tmp_path / name, good, content).findings
    assert [(breach.kind, breach.count) for breach in findings.breaches.values()] == [(kind, 1)]


def test_a_file_that_isn_t_there_yet_is_not_missing(tmp_path: Path) -> None:
    """Before the first token nothing was promised."""
    findings = read(tmp_path / "gmail.json", None, 60.0).findings
    assert findings.breaches == {}
    assert findings.reads == 2


def test_the_lowest_validity_is_kept(tmp_path: Path) -> None:
    """However often better ones come after it."""
    findings = read(tmp_path / "gmail.json", 60.0, 30.0, 60.0).findings
    assert findings.lowest == pytest.approx(30, abs=1)


def test_a_refused_token_is_found_by_showing_it(tmp_path: Path) -> None:
    """A token that reads well may have been revoked: only the provider knows."""
    simulator = Simulator()
    with simulator.serve() as url:
        (tmp_path / "gmail.json").write_text(token(60))
        reader = Reader({"gmail.json": tmp_path / "gmail.json"}, min_validity=10, provider=url)
        reader._round()
        reader._show()
    assert reader.findings.count("refused") == 1
    assert reader.findings.shown == 1
