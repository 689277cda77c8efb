from __future__ import annotations

from pathlib import Path

import pytest

from sidecar.events import Event, OutputView, TokenForgotten, TokenView, TurnEnded
from sidecar.observers.termination import LIMIT, TerminationLog
from sidecar.tokens import GrantState


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Make the file, as kubelet does for each start of a container."""
    path = tmp_path / "termination-log"
    path.write_bytes(b"")
    return path


def turn(token: str = "gmail", state: GrantState = GrantState.OK, /, **more: object) -> Event:
    """End a turn with a token in this state."""
    reason = {} if state is GrantState.OK else {"reason": "invalid_grant"}
    remedy = {"remedy": "run: seed"} if state is GrantState.DEAD else {}
    known = {"provider": "google", "required": True, "on_dead": "restart", "dead_grace": None}
    view = TokenView(**{"token": token, "grant_state": state, **known, **reason, **remedy, **more})  # type: ignore[arg-type]
    return TurnEnded(view, "", noteworthy=False)


def told(path: Path, *events: Event) -> str:
    """Return what is in the file after these."""
    log = TerminationLog(path)
    for event in events:
        log.notice(event)
    return path.read_text(encoding="utf-8")


DEAD = "gmail: the grant is dead (invalid_grant); run: seed\n"
UNWRITABLE = OutputView("file:/run/t.json", required=True, problem="may not be written")
OPTIONAL = OutputView("file:/run/u.json", required=False, problem="may not be written")


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([turn("gmail", GrantState.DEAD)], DEAD),
        ([turn("gmail", GrantState.DEAD), turn("gmail")], ""),
        ([turn("gmail", GrantState.DEAD), TokenForgotten("gmail")], ""),
        ([turn("gmail", GrantState.DEAD), turn("other")], DEAD),
        (
            [turn("other", GrantState.RETRYING), turn("gmail", GrantState.DEAD)],
            f"other: the grant is retrying (invalid_grant)\n{DEAD}",
        ),
        ([turn("gmail", GrantState.DEAD, required=False)], ""),
        (
            [turn(outputs=(UNWRITABLE, OPTIONAL))],
            "gmail: file:/run/t.json: may not be written\n",
        ),
    ],
    ids=["dead", "revived", "forgotten", "beside a sibling", "two", "not required", "an output"],
)
def test_the_file_tells_how_things_stand(path: Path, events: list[Event], expected: str) -> None:
    """One line for each required token that isn't well, with reason and remedy; none once it is well again."""
    assert told(path, *events) == expected


def test_the_beginning_is_kept_of_what_is_too_long(path: Path) -> None:
    """Kubelet shows the last bytes of the file: it never gets more than those."""
    text = told(path, *(turn(f"t{number}", GrantState.DEAD) for number in range(200)))
    assert len(text.encode()) == LIMIT
    assert text.startswith("t0: the grant is dead")


def test_no_file_is_made_and_a_refusal_is_borne(tmp_path: Path) -> None:
    """Outside Kubernetes there is none; and what can't be written is no reason to stop."""
    told_nowhere = tmp_path / "nowhere"
    TerminationLog(told_nowhere).notice(turn("gmail", GrantState.DEAD))
    assert not told_nowhere.exists()
    TerminationLog(tmp_path).notice(turn("gmail", GrantState.DEAD))
