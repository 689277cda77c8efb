"""The record of who did what."""

from __future__ import annotations

import io
import json
import logging
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from sidecar.audit import auditing
from sidecar.clock import SystemClock
from sidecar.errors import TemporarilyUnavailable
from sidecar.events import Audited, TokenForgotten
from sidecar.observers import log
from sidecar.observers.audit import LONGEST, AuditObserver
from sidecar.server.wire import SeedReply

DEED = Audited("alice@example.com", "consent", "done", "gmail", "0123456789ab", origin="10.0.0.7")


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """Catch the log."""
    caught, root = io.StringIO(), logging.getLogger()
    handlers, level = root.handlers, root.level
    log.configure("info", "json", caught)
    yield caught
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.handlers, root.level = handlers, level


def test_a_deed_is_a_line_in_the_file(tmp_path: Path, lines: io.StringIO) -> None:
    """Who, what, when, from where and with what outcome are one JSON line, for its owner's eyes alone."""
    file = tmp_path / "audit.jsonl"
    observer = AuditObserver(SystemClock(), file)
    observer.notice(DEED)
    observer.notice(TokenForgotten("gmail"))
    observer.notice(DEED)

    first, _ = [json.loads(line) for line in file.read_text().splitlines()]

    assert first.pop("at").endswith("Z")
    assert first == {
        "who": "alice@example.com",
        "what": "consent",
        "outcome": "done",
        "token": "gmail",
        "fingerprint": "0123456789ab",
        "origin": "10.0.0.7",
    }
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert not lines.getvalue()


def test_a_file_that_was_moved_away_is_begun_anew(tmp_path: Path) -> None:
    """Whoever rotates the file needs to tell nobody."""
    file = tmp_path / "audit.jsonl"
    observer = AuditObserver(SystemClock(), file)
    observer.notice(DEED)
    file.rename(tmp_path / "old.jsonl")
    observer.notice(DEED)
    assert len(file.read_text().splitlines()) == 1


def test_without_a_file_deeds_go_to_the_log(lines: io.StringIO) -> None:
    """A deed is never lost for want of a file of its own."""
    AuditObserver(SystemClock()).notice(DEED)
    [line] = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert (line["event"], line["who"], line["token"]) == ("consent: done", "alice@example.com", "gmail")


def test_a_file_that_cannot_be_written_is_told_with_the_deed(tmp_path: Path, lines: io.StringIO) -> None:
    """Where the file can't be written the log has the deed, as an error."""
    AuditObserver(SystemClock(), tmp_path / "nowhere" / "audit.jsonl").notice(DEED)
    [line] = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert (line["level"], line["who"]) == ("error", "alice@example.com")
    assert "can't be written" in line["event"]


def test_words_of_people_are_kept_short_and_in_their_line(tmp_path: Path) -> None:
    """What somebody writes neither fills the disk nor makes a line of its own."""
    file = tmp_path / "audit.jsonl"
    AuditObserver(SystemClock(), file).notice(
        Audited('a"\n{"who": "b"}', "request", "refused", reason="x" * 10_000)
    )
    [line] = file.read_text().splitlines()
    assert len(json.loads(line)["reason"]) == LONGEST


@pytest.mark.parametrize(("aside", "outcome"), [(False, "done"), (True, "aside")])
async def test_what_came_of_it_is_written_down(aside: bool, outcome: str) -> None:  # noqa: FBT001
    """A deed has the fingerprint of what came of it, and says if another's is in force."""
    told: list[Audited] = []

    async def work() -> SeedReply:
        return SeedReply("", "0123456789ab", "l1", aside)

    await auditing(work(), told.append, who="uid 0", what="seed", token="gmail")  # type: ignore[arg-type]
    assert told == [Audited("uid 0", "seed", outcome, "gmail", "0123456789ab")]


async def test_what_failed_is_written_down() -> None:
    """A deed that failed is written down with its reason, and fails all the same."""
    told: list[Audited] = []

    async def work() -> None:
        raise TemporarilyUnavailable("later")

    with pytest.raises(TemporarilyUnavailable):
        await auditing(work(), told.append, who="uid 0", what="revoke", token="gmail")  # type: ignore[arg-type]
    assert told == [Audited("uid 0", "revoke", "failed", "gmail", reason="later")]
