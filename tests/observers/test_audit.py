"""The record of who did what."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import structlog

from sidecar import events
from sidecar.audit import auditing
from sidecar.clock import SystemClock
from sidecar.config import schema
from sidecar.config.settings import AuditSettings
from sidecar.errors import TemporarilyUnavailable
from sidecar.events import (
    Adopted,
    Audited,
    ConfigLoaded,
    Discarded,
    Event,
    GrantDied,
    Rotated,
    Seeded,
    SeedRefused,
    TokenForgotten,
)
from sidecar.observers import audit, log
from sidecar.observers.audit import ITSELF, LONGEST, AuditLine, AuditObserver
from sidecar.server.wire import SeedReply

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "audit.md"
NEW, OLD = "0123456789ab", "ba9876543210"
INSTANCE = "9f8e7d6c5b4a49c8b7a6f5e4d3c2b1a0"
ROTATED = Rotated("gmail", "google", INSTANCE, 13, NEW, OLD, NEW[::-1], OLD[::-1])
UNASKED: list[tuple[str, str, Event]] = [
    ("rotation", "done", ROTATED),
    ("seed", "done", Seeded("gmail", "file:/seed.json", NEW, "l1")),
    ("seed", "refused", SeedRefused("gmail", "file:/seed.json", "there is nothing in it")),
    ("adoption", "done", Adopted("gmail", "file:/run/gmail.json", NEW)),
    ("death", "done", GrantDied("gmail", OLD, "invalid_grant", "consent again")),
    ("discard", "done", Discarded("gmail", "the secret app/gmail", OLD, "invalid_grant")),
    ("configuration", "done", ConfigLoaded(accepted=True, changed=("crm", "gmail"))),
]
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


def samples() -> list[AuditLine]:
    """Read the lines that the page shows; members that there are not are errors."""
    [block] = re.findall(r"^```json\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [msgspec.json.decode(line, type=AuditLine) for line in block.splitlines()]


@pytest.mark.parametrize(("what", "outcome", "event"), UNASKED)
def test_what_nobody_asked_for_is_written_down(what: str, outcome: str, event: Event, tmp_path: Path) -> None:
    """Each has a line by the program itself, with its instance, and with the members that the page shows."""
    file = tmp_path / "audit.jsonl"
    AuditObserver(SystemClock(), file, INSTANCE, rotations=True).notice(event)
    [line] = [json.loads(line) for line in file.read_text().splitlines()]
    assert (line["who"], line["what"], line["outcome"]) == (ITSELF, what, outcome)
    assert line["instance"] == INSTANCE
    [shown] = [one for one in samples() if (one.what, one.outcome, one.who) == (what, outcome, ITSELF)]
    assert [*msgspec.to_builtins(shown)] == [*line]


def test_the_page_shows_every_deed_and_every_member() -> None:
    """A line of each kind is on the page, its table names each, and the members are those of the code."""
    page = PAGE.read_text("utf-8")
    described = re.findall(
        r"^\| (`.*?`) \| [^|]* \| [^|]*(?:who asked|`token-sidecar`)[^|]* \|$", page, re.MULTILINE
    )
    named = {name for cell in described for name in re.findall(r"`([\w-]+)`", cell)}
    shown = {line.what for line in samples()}
    asked = schema.docstrings(events)["Audited", "what"].strip(".").split(" | ")
    assert named == shown | {"request"} == {*asked} | {what for what, _, _ in UNASKED}
    words = schema.docstrings(audit)
    for member in AuditLine.__struct_fields__:
        assert f"| `{member}` | {' '.join(words['AuditLine', member].split())} |\n" in page
        assert any(getattr(line, member) for line in samples()), member


def test_a_rotation_names_what_was_and_what_is(tmp_path: Path) -> None:
    """Old and new fingerprints of both tokens, provider, lineage and generation are in one line of under 400 bytes."""
    file = tmp_path / "audit.jsonl"
    AuditObserver(SystemClock(), file, INSTANCE, rotations=True).notice(ROTATED)
    line = json.loads(file.read_text())
    assert {name: line[name] for name in ROTATED.__struct_fields__} == msgspec.structs.asdict(ROTATED)
    assert 300 < file.stat().st_size < 400


def test_what_was_asked_for_is_written_once(tmp_path: Path) -> None:
    """A seed that somebody gave has the line that says who; a configuration that did not change has none."""
    file = tmp_path / "audit.jsonl"
    observer = AuditObserver(SystemClock(), file, INSTANCE)
    observer.notice(Seeded("gmail", "command", NEW, "l1", asked=True))
    observer.notice(ConfigLoaded(accepted=True))
    observer.notice(ROTATED)
    assert not file.exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (AuditSettings(), False),
        (AuditSettings(file=Path("/a")), True),
        (AuditSettings(rotations=True), True),
        (AuditSettings(file=Path("/a"), rotations=False), False),
    ],
)
def test_rotations_are_told_where_a_file_is_or_as_configured(settings: AuditSettings, told: bool) -> None:  # noqa: FBT001
    """The log has a line for each turn anyway."""
    assert settings.tells_rotations is told


def test_a_refused_configuration_is_written_down(tmp_path: Path) -> None:
    """With its problems."""
    file = tmp_path / "audit.jsonl"
    AuditObserver(SystemClock(), file).notice(
        ConfigLoaded(accepted=False, problems=("line 3: no", "line 4: no"))
    )
    line = json.loads(file.read_text())
    assert (line["outcome"], line["reason"]) == ("refused", "line 3: no, line 4: no")


def test_a_pipe_that_nobody_reads_keeps_nobody_waiting(tmp_path: Path, lines: io.StringIO) -> None:
    """The deed goes to the log, at once."""
    file = tmp_path / "audit.fifo"
    os.mkfifo(file)
    AuditObserver(SystemClock(), file).notice(DEED)
    [line] = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert (line["level"], line["who"]) == ("error", "alice@example.com")


def test_a_line_that_a_full_disk_cut_off_is_ended(
    tmp_path: Path, lines: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deed goes to the log, and the next line is whole, on a line of its own."""
    file = tmp_path / "audit.jsonl"
    observer = AuditObserver(SystemClock(), file)
    write = os.write
    with monkeypatch.context() as full:
        full.setattr(os, "write", lambda opened, line: write(opened, line[:10]))
        observer.notice(DEED)
    observer.notice(DEED)
    observer.notice(DEED)
    torn, *whole = file.read_text().splitlines()
    assert len(torn) == 10
    assert [json.loads(line)["who"] for line in whole] == ["alice@example.com"] * 2
    [line] = [json.loads(line) for line in lines.getvalue().splitlines()]
    assert "No space left on device" in line["event"]


def test_many_processes_share_a_file(tmp_path: Path) -> None:
    """Lines of several writers are never mixed."""
    file = tmp_path / "audit.jsonl"
    children = []
    for number in range(4):
        if not (child := os.fork()):
            observer = AuditObserver(SystemClock(), file, str(number) * 32, rotations=True)
            for _ in range(200):
                observer.notice(ROTATED)
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    found = [json.loads(line)["instance"] for line in file.read_text().splitlines()]
    assert sorted(found) == sorted(str(number) * 32 for number in range(4) for _ in range(200))
