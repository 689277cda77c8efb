from __future__ import annotations

import asyncio
import io
import json
import logging
import sys
import warnings
from collections.abc import Iterator
from typing import Any, Never

import pytest
import structlog

from sidecar.errors import ConfigError, StoreError
from sidecar.events import (
    Adopted,
    CallFinished,
    ClockSkewSeen,
    CommitFinished,
    ConfigLoaded,
    Discarded,
    Event,
    GrantDied,
    OutputWritten,
    ScopesShrank,
    Seeded,
    SeedRefused,
    SetListed,
    TokenForgotten,
    TokenView,
    TurnEnded,
    Warned,
)
from sidecar.observers import fan_out, log
from sidecar.observers.log import REPEAT_AFTER, LogObserver, configure, format_exception, log_uncaught
from sidecar.tokens import GrantState, OutcomeClass

NOW = 1_800_000_000.0
SECRET = "sim-rt-0123456789abcdef0123"


class StillClock:
    """All three clocks, moved by hand."""

    at = NOW

    def wall(self) -> float:
        return self.at

    def boot(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return self.at


class Log:
    """What was logged, a dictionary for each line."""

    def __init__(self, level: str = "debug") -> None:
        self.stream = io.StringIO()
        configure(level, "json", self.stream)
        self.clock = StillClock()
        self.observer = LogObserver(self.clock)

    def after(self, *events: Event) -> list[dict[str, Any]]:
        """Notice these events; return the lines they made, above debug."""
        self.stream.seek(0)
        self.stream.truncate()
        for event in events:
            self.observer.notice(event)
        return [line for line in self.lines() if line["level"] != "debug"]

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.fixture(autouse=True)
def _put_back() -> Iterator[None]:
    """Leave logging as it was for other tests."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.handlers, root.level = handlers, level


def a_turn(state: GrantState = GrantState.OK, *, noteworthy: bool = True, **changes: Any) -> TurnEnded:
    """Make the end of a turn."""
    view = TokenView(
        token="gmail",
        provider="google",
        required=True,
        on_dead="restart",
        dead_grace=None,
        grant_state=state,
        generation=3,
        fingerprint="aaaaaaaaaaaa",
        **({"expires_at": NOW + 1800, "expiry_known": True, "next_wake": NOW + 1200} | changes),
    )
    return TurnEnded(view=view, sentence="refreshed; next at 12:00", noteworthy=noteworthy)


def test_a_turn_is_one_sentence_with_its_facts_beside_it() -> None:
    """Whoever reads it needs no second line."""
    (line,) = Log().after(a_turn())

    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "refreshed; next at 12:00",
        "level": "info",
        "token": "gmail",
        "grant": "ok",
        "access": "fresh",
        "generation": 3,
        "fingerprint": "aaaaaaaaaaaa",
        "expires_at": "2027-01-15T08:30:00Z",
        "next_wake": "2027-01-15T08:20:00Z",
    }


def test_a_look_that_found_nothing_is_at_debug() -> None:
    """Idle turns fill no log."""
    out = Log()

    assert out.after(a_turn(noteworthy=False), a_turn(GrantState.RETRYING, noteworthy=False)) == []
    assert len(out.lines()) == 2


def test_trouble_that_lasts_is_said_though_nothing_is_done() -> None:
    """A token that waits for its seed has idle turns alone, and somebody has to hear of it."""
    out = Log()
    idle = a_turn(GrantState.UNSEEDED, noteworthy=False, remedy="run: token-sidecar seed gmail")

    assert out.after(idle) == []
    (line,) = out.after(idle, idle, idle)
    assert (line["level"], line["remedy"]) == ("warning", "run: token-sidecar seed gmail")
    assert out.after(a_turn(noteworthy=False), idle) == []


@pytest.mark.parametrize(
    ("event", "level"),
    [
        (a_turn(), "info"),
        (a_turn(expires_at=NOW - 1), "error"),
        (a_turn(GrantState.RETRYING), "warning"),
        (a_turn(GrantState.RETRYING, expires_at=NOW - 1), "error"),
        (a_turn(GrantState.UNSEEDED), "warning"),
        (a_turn(GrantState.IN_DOUBT), "error"),
        (a_turn(GrantState.UNPERSISTED), "error"),
        (a_turn(GrantState.MISCONFIGURED), "error"),
        (a_turn(GrantState.DEAD), "error"),
        (TokenForgotten(token="gmail"), "info"),
        (CallFinished("gmail", "google", OutcomeClass.SUCCESS, "", 0.2), None),
        (Seeded("gmail", "file /etc/seed", "a" * 12, "l1"), "info"),
        (SeedRefused("gmail", "file /etc/seed", "spent"), "warning"),
        (Adopted("gmail", "/run/tokens/gmail.json", "a" * 12), "info"),
        (GrantDied("gmail", "a" * 12, "invalid_grant", "login"), "error"),
        (Discarded("gmail", "the secret gmail", "a" * 12, "invalid_grant"), "warning"),
        (CommitFinished("gmail", "sqlite", "committed"), None),
        (CommitFinished("gmail", "sqlite", "failed", "disk full"), "warning"),
        (OutputWritten("gmail", "o", "written"), None),
        (OutputWritten("gmail", "o", "failed", "read-only"), "warning"),
        (ScopesShrank("gmail", ("files",)), "warning"),
        (ClockSkewSeen("google", 2.0), None),
        (ClockSkewSeen("google", -90.0), "warning"),
        (ConfigLoaded(accepted=True), None),
        (ConfigLoaded(accepted=True, changed=("gmail",)), "info"),
        (ConfigLoaded(accepted=False, problems=("line 1",)), "error"),
        (Warned("seed", "its mode is too open"), "warning"),
        (Event(), None),
    ],
)
def test_each_event_has_its_level(event: Event, level: str | None) -> None:
    """Info is success, warning is trouble, error is somebody's to act on."""
    assert [line["level"] for line in Log().after(event)] == ([level] if level else [])


def test_trouble_that_stays_the_same_is_repeated_every_ten_minutes() -> None:
    """A provider that is away for an hour makes seven lines and not seven hundred."""
    out = Log()
    retry = a_turn(GrantState.RETRYING, reason="no answer after 3.1 s")
    again = a_turn(GrantState.RETRYING, reason="no answer after 2.9 s")

    assert len(out.after(retry)) == 1
    assert out.after(again, again, again) == []
    out.clock.at += REPEAT_AFTER
    (line,) = out.after(again)
    assert line["left_out"] == 3
    assert line["reason"] == "no answer after 2.9 s"


def test_trouble_that_changes_or_comes_back_is_said_at_once() -> None:
    """Another reason, a worse state, or the same after it was over: each is news."""
    out = Log()
    retry = a_turn(GrantState.RETRYING, reason="503")

    lines = out.after(
        retry,
        a_turn(GrantState.RETRYING, reason="reset"),
        a_turn(GrantState.RETRYING, reason="reset", expires_at=NOW - 1),
        a_turn(GrantState.DEAD, reason="invalid_grant", remedy="run: token-sidecar seed gmail"),
        a_turn(),
        retry,
    )

    assert [line["level"] for line in lines] == ["warning", "warning", "error", "error", "info", "warning"]
    assert lines[3]["remedy"] == "run: token-sidecar seed gmail"


def test_the_end_of_trouble_with_store_and_outputs_is_said_once() -> None:
    """What merely goes on well is the turn's to tell."""
    out = Log()
    bad = OutputWritten("gmail", "o", "failed", "read-only")
    good = OutputWritten("gmail", "o", "written")

    assert [line["event"] for line in out.after(bad, bad, good, good)] == [
        "an output could not be written",
        "the output can be written again",
    ]
    refused = CommitFinished("gmail", "sqlite", "failed", "locked")
    assert len(out.after(refused, refused, CommitFinished("gmail", "sqlite", "committed"), refused)) == 3


def test_a_forgotten_token_starts_anew() -> None:
    """Its trouble is forgotten with it, so that the memory stays bounded."""
    out = Log()
    trouble = a_turn(GrantState.DEAD)

    assert len(out.after(trouble, TokenForgotten("gmail"), trouble)) == 3
    for number in range(3000):
        out.observer.notice(Warned(f"place {number}", "x"))
    assert len(out.observer._said) <= log._REMEMBERED


def test_the_level_of_the_settings_counts_for_us_and_not_for_libraries() -> None:
    """Debug lines of an HTTP library hold headers, so that no level of ours brings them out."""
    out = Log("debug")
    for name in ("httpx2", "httpcore2.http11", "uvicorn.error", "asyncpg"):
        logging.getLogger(name).debug("authorization: Bearer %s", SECRET)
        logging.getLogger(name).info("POST https://example.test/token")
    logging.getLogger("uvicorn.error").warning("Invalid HTTP request received.")
    logging.getLogger("asyncpg").warning("slow")

    assert [(line["logger"], line["event"], line["level"]) for line in out.lines()] == [
        ("asyncpg", "slow", "warning")
    ]
    out = Log("error")
    assert out.after(a_turn(), a_turn(GrantState.RETRYING)) == []


def test_warnings_of_python_go_the_same_way() -> None:
    """Nothing goes to stderr beside the pipeline."""
    out = Log()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=False)
        logging.captureWarnings(capture=True)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)

    assert [line["logger"] for line in out.lines()] == ["py.warnings"]


def _fail_with(error: Exception) -> Never:
    local = SECRET  # noqa: F841 - what a traceback with locals would show
    raise error


def test_tracebacks_hold_no_locals_and_no_messages_that_may_quote() -> None:
    """Where it happened is told in full, what it choked on isn't, in every part of a chain or a group."""
    out = Log()
    try:
        try:
            _fail_with(KeyError(SECRET))
        except KeyError as error:
            error.add_note(SECRET)
            try:
                _fail_with(ExceptionGroup("two", [ValueError(SECRET), OSError(28, "No space left")]))
            except ExceptionGroup as group:
                raise StoreError("the store is away") from group
    except StoreError:
        structlog.get_logger().error("failed", exc_info=True)
        logging.getLogger("some.library").exception("failed too")

    ours, theirs = out.lines()
    assert "_fail_with(KeyError(SECRET))" in ours["exception"]
    assert "KeyError: (message withheld: it may quote a secret)" in ours["exception"]
    assert "  | ValueError: (message withheld" in ours["exception"]
    assert "OSError: [Errno 28] No space left" in ours["exception"]
    assert ours["exception"].endswith("sidecar.errors.StoreError: the store is away")
    assert "KeyError" in theirs["exception"]
    assert "sim-" not in out.stream.getvalue()


def test_subclasses_of_libraries_are_not_vouched_for() -> None:
    """A library's own RuntimeError may say anything."""

    class DriverError(RuntimeError):
        """An error of a library."""

    assert "withheld" in format_exception(DriverError(SECRET))
    assert format_exception(RuntimeError("no running event loop")) == "RuntimeError: no running event loop"
    assert format_exception(ValueError()) == "ValueError"


def test_a_chain_that_bites_its_tail_ends() -> None:
    """Exceptions that are each other's context are printed once each."""
    first, second = ValueError("a"), ValueError("b")
    first.__context__, second.__context__ = second, first

    assert format_exception(first).count("withheld") == 2


def test_asyncios_reports_show_no_reprs() -> None:
    """An exception that nobody retrieved is in the repr of its task."""
    out = Log()

    async def main() -> None:
        asyncio.get_running_loop().call_exception_handler(
            {"message": "Task exception was never retrieved", "exception": ValueError(SECRET), "task": SECRET}
        )

    asyncio.run(main())

    assert out.lines()[0]["event"] == "Task exception was never retrieved"
    assert "sim-" not in out.stream.getvalue()


def test_an_uncaught_exception_is_logged_like_everything_else() -> None:
    """Python's own printing of it would show its message."""
    out = Log()
    try:
        _fail_with(ValueError(SECRET))
    except ValueError:
        log_uncaught(*sys.exc_info())
    log_uncaught(KeyboardInterrupt, KeyboardInterrupt(), None)

    (line,) = out.lines()
    assert "_fail_with" in line["exception"]
    assert "sim-" not in out.stream.getvalue()


def test_a_terminal_gets_plain_lines_without_control_characters() -> None:
    """What a provider says can't steer a terminal."""
    stream = io.StringIO()
    configure("info", "console", stream)
    LogObserver(StillClock()).notice(a_turn(GrantState.RETRYING, reason="bad \x1b[2J\x07 answer"))
    try:
        _fail_with(ValueError(SECRET))
    except ValueError:
        structlog.get_logger().error("failed", exc_info=True)

    text = stream.getvalue()
    assert "\x1b" not in text
    assert "refreshed; next at 12:00" in text
    assert "ValueError: (message withheld" in text
    assert "sim-" not in text


def test_json_is_the_default_where_there_is_no_terminal() -> None:
    """Containers have none."""
    stream = io.StringIO()
    configure(stream=stream)
    structlog.get_logger().info("hello")

    assert json.loads(stream.getvalue())["event"] == "hello"


def test_a_log_that_cannot_be_written_stops_nobody() -> None:
    """The disk under it is full, or its reader went away."""

    class Full(io.StringIO):
        def write(self, _text: str) -> int:
            raise OSError(28, "No space left on device")

        def flush(self) -> None:
            raise BrokenPipeError

        def isatty(self) -> bool:
            raise ValueError

    configure(stream=Full())

    LogObserver(StillClock()).notice(a_turn())
    logging.getLogger("some.library").error("lost")


@pytest.mark.parametrize(("level", "style"), [("loud", None), ("info", "xml")])
def test_settings_that_do_not_exist_are_refused(level: str, style: str | None) -> None:
    """The message lists those that do."""
    with pytest.raises(ConfigError, match=r"log\.(level|format): .* is not one of"):
        configure(level, style)


def test_an_observer_that_raises_is_logged_once_and_breaks_nothing() -> None:
    """The engine goes on, and so do the observers after it."""
    out = Log()
    seen: list[Event] = []

    class Broken:
        def notice(self, _event: Event) -> None:
            raise ValueError(SECRET)

    class Seeing:
        def notice(self, event: Event) -> None:
            seen.append(event)

    emit = fan_out([Broken(), Seeing(), Broken()])
    emit(a_turn())
    emit(a_turn())

    assert len(seen) == 2
    assert [line["level"] for line in out.lines()] == ["error", "error"]
    assert "the observer Broken failed at TurnEnded" in out.lines()[0]["event"]
    assert "sim-" not in out.stream.getvalue()


def test_a_set_tells_who_cannot_be_served_and_why_nobody_new_is_found() -> None:
    """Each trouble once, its end once, and the account that left by its own sentence."""
    trouble = SetListed("people", members=2, problem="the list is away; those who are known stay")
    refused = SetListed("people", members=2, refused=(("*", "the account '*' stands for all"),))
    lines = Log("info").after(trouble, trouble, refused, refused, TokenForgotten("people/a"))
    assert [(line["level"], line["event"]) for line in lines] == [
        ("warning", "the list is away; those who are known stay"),
        ("info", "it is known again who the accounts are"),
        ("warning", "1 accounts can't be served"),
        ("info", "the account is gone"),
    ]
    assert lines[2]["reasons"] == ["the account '*' stands for all"]
