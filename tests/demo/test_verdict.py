"""Which sights break a promise, and which are somebody's own doing."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.cli.demo.processes import Fall
from sidecar.cli.demo.reader import Findings, Seen
from sidecar.cli.demo.trouble import Troubles
from sidecar.cli.demo.verdict import Facts, judge

NOW = 1_800_000_000.0
FILES = ("tokens/gmail.json", "tokens/gmail.header", "tokens/reports-api.json")


def used(uses: int, *, answered: int, replays: int, family: str = "grant-1") -> dict[str, Any]:
    """Tell of one refresh token as the provider does."""
    return {
        "fingerprint": "aaaaaaaaaaaa",
        "family": family,
        "uses": uses,
        "answered": answered,
        "replays": replays,
    }


def facts(**changes: Any) -> Facts:
    """Make what is seen of a demo in which all went well, with changes."""
    well: dict[str, Any] = {
        "seconds": 20.0,
        "interrupted": False,
        "findings": Findings(reads=1000, seen={file: Seen("token", NOW + 9) for file in FILES}),
        "troubles": Troubles(),
        "min_validity": 2.5,
        "lease": 3.0,
        "issued": {"refresh_token": 2, "client_credentials": 2},
        "report": {
            "tokens": [used(1, answered=1, replays=0)],
            "families": [{"id": "grant-1", "killed": None}],
        },
        "status": {"tokens": {"gmail": {"grant_state": "ok", "reason": ""}}},
        "tampered": False,
        "daemon_falls": [],
        "provider_falls": [],
        "exit_code": 0,
        "now": NOW,
    }
    return Facts(**well | changes)


def killed(*, downtime: float = 2.0) -> Troubles:
    """Make the trouble of a daemon that was killed ten seconds ago and came back."""
    troubles = Troubles()
    troubles.note(NOW - 10, "the daemon was ended by SIGKILL", fall=True)
    troubles.all[0].downtime, troubles.all[0].ended = downtime, NOW - 10 + downtime
    return troubles


def broken(cause: str = "the provider, by faults") -> Troubles:
    """Make a trouble that lasts since ten seconds ago."""
    troubles = Troubles()
    troubles.note(NOW - 10, cause)
    troubles.note(NOW, cause)
    return troubles


def seen(kind: str, left: float = 0.0, *, at: float = NOW - 9) -> Findings:
    """Make the findings of a reader that saw one thing that it should not."""
    findings = facts().findings
    findings.note(kind, "tokens/gmail.json", at, left)
    return findings


def test_all_went_well() -> None:
    """Nothing is held against a demo in which nothing happened."""
    verdict = judge(facts())
    assert verdict.well
    assert verdict.told == []


DEAD = {"tokens": {"gmail": {"grant_state": "dead", "reason": "HTTP 400 invalid_grant"}}}
TWICE = {"tokens": [used(2, answered=2, replays=1)], "families": []}
LINGERING = Troubles()
LINGERING.note(NOW - 61, "the provider, by faults")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"findings": seen("torn")}, "torn in 1"),
        ({"findings": seen("expired", -2.0)}, "ended 2.0 s ago"),
        ({"findings": seen("short", 1.5)}, "less than 2.5 s left in 1 of the reads; at worst 1.5 s"),
        ({"findings": seen("refused")}, "the provider refused"),
        ({"findings": seen("torn"), "troubles": broken()}, "torn in 1"),
        ({"findings": seen("expired", -2.0, at=NOW - 30), "troubles": broken()}, "ended 2.0 s ago"),
        ({"findings": seen("expired", -2.0), "troubles": killed(downtime=2)}, "ended 2.0 s ago"),
        ({"findings": Findings()}, "gmail.json never appeared"),
        ({"issued": {}}, "nothing was refreshed"),
        ({"report": TWICE}, "was used 2 times"),
        (
            {"daemon_falls": [Fall(NOW, "ended with exit code 1", by_hand=False)]},
            "daemon ended with exit code 1",
        ),
        ({"exit_code": -9}, "did not stop"),
        ({"status": DEAD}, "gmail is dead"),
        ({"troubles": LINGERING}, "a minute later"),
    ],
)
def test_a_broken_promise_is_named(changes: dict[str, Any], words: str) -> None:
    """Each is told in words, and makes the demo fail."""
    verdict = judge(facts(**changes))
    assert [promise for promise in verdict.broken if words in promise]
    assert not verdict.well


FALL = Fall(NOW - 10, "was ended by SIGKILL", by_hand=True, back_at=NOW - 8)


@pytest.mark.parametrize(
    "changes",
    [
        {"findings": seen("expired", -2.0), "troubles": broken()},
        {"findings": seen("refused", at=NOW - 12), "troubles": broken("the grant")},
        {"findings": seen("short", 1.0), "troubles": killed(downtime=2)},
        {"findings": seen("expired", -2.0), "troubles": killed(downtime=9)},
        {"report": {"tokens": [used(2, answered=1, replays=1)]}, "daemon_falls": [FALL]},
        {"report": {"tokens": [used(2, answered=1, replays=1)]}, "tampered": True},
        {
            "report": {
                "tokens": [used(2, answered=2, replays=0)],
                "families": [{"id": "grant-1", "killed": "killed"}],
            }
        },
        {"findings": Findings(), "issued": {}, "interrupted": True, "seconds": 1.0},
        {"exit_code": -9, "troubles": broken()},
    ],
)
def test_what_somebody_broke_is_no_broken_promise(changes: dict[str, Any]) -> None:
    """A reader's losses in that time, and a refresh token whose answer got lost with a process, are excused."""
    assert judge(facts(**changes)).well


def test_a_grant_that_somebody_ended_is_dead_but_no_broken_promise() -> None:
    """It makes the demo fail, and is told apart."""
    report = {"tokens": [], "families": [{"id": "grant-1", "killed": "killed"}]}
    verdict = judge(facts(status=DEAD, report=report))
    assert verdict.broken == []
    assert verdict.dead == ["gmail is dead: HTTP 400 invalid_grant"]
    assert not verdict.well
