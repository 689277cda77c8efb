from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from sidecar import cli
from sidecar.errors import (
    ConfigError,
    HumanNeeded,
    SidecarError,
    StoreError,
    TemporarilyUnavailable,
    UsageError,
)
from tests.cli.conftest import Place


def failing(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command line that ends in `error`."""

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(cli.root, "main", fail)
    return cli.main(["status"])


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (SidecarError("it failed"), 1, "token-sidecar: it failed"),
        (UsageError("not so"), 2, "token-sidecar: not so"),
        (HumanNeeded("dead"), 3, "token-sidecar: dead"),
        (TemporarilyUnavailable("later"), 4, "token-sidecar: later"),
        (StoreError("locked"), 4, "token-sidecar: locked"),
        (PermissionError(13, "Permission denied", "/x"), 1, "token-sidecar: /x: Permission denied"),
        (OSError("odd"), 1, "token-sidecar: odd"),
        (KeyboardInterrupt(), 1, "token-sidecar: interrupted"),
        (click.Abort(), 1, "token-sidecar: aborted"),
        (click.UsageError("wrong"), 2, "token-sidecar: wrong."),
        (SidecarError("a \x1b[31mred\x07 thing"), 1, "token-sidecar: a �[31mred� thing"),
        (ExceptionGroup("", [ExceptionGroup("", [HumanNeeded("dead")])]), 3, "token-sidecar: dead"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_every_expected_failure_is_one_line(
    error: BaseException,
    code: int,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An error is one line that can't steer the terminal, and its exit code."""
    assert failing(error, monkeypatch) == code
    assert capsys.readouterr().err == f"{line}\n"


def test_configuration_problems_are_a_line_each(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Problems of the configuration begin with their place, as editors want them."""
    assert failing(ConfigError(["c.yaml:1:1: a", "c.yaml:2:1: b"]), monkeypatch) == 2
    assert capsys.readouterr().err == "c.yaml:1:1: a\nc.yaml:2:1: b\n"


@pytest.mark.parametrize("error", [ZeroDivisionError(), ExceptionGroup("", [ZeroDivisionError()])])
def test_a_bug_is_not_hidden(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody expected comes out as what it is."""
    with pytest.raises(type(error)):
        failing(error, monkeypatch)


def test_wrong_usage_names_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    """A command line that doesn't fit is one line that says where to read on."""
    assert cli.main(["refresh", "--rejectd-file", "x"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("token-sidecar: No such option")
    assert line.endswith("Try `token-sidecar refresh --help`.")


def test_healthcheck_knows_two_exit_codes(tmp_path: Path) -> None:
    """Whatever is wrong with a health check, Docker gets 1."""
    missing = str(tmp_path / "missing.yaml")

    assert [cli.main(["healthcheck", *more]) for more in (["-c", missing], ["--no"], ["dead"])] == [1, 1, 1]


def test_a_reader_that_leaves_is_no_traceback(place: Place) -> None:
    """A closed pipe ends the command silently."""
    # From nothing, since the interpreter's own end is part of it.
    process = subprocess.Popen(
        [sys.executable, "-m", "sidecar", "check", "--schema"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=place.environment,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()

    assert (process.stderr.read(), process.wait(20)) == ("", 1)
    process.stderr.close()


def test_an_interrupted_wait_is_no_traceback(place: Place) -> None:
    """Control-C ends a command with one line."""
    process = place.begin(
        "seed", "gmail", stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdin is not None
    # It reads to the end of its input, which does not come.
    process.stdin.write(" " * 100_000)
    process.stdin.flush()
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)

    assert process.returncode == 1
    assert told.strip().startswith("token-sidecar: ")
    assert "Traceback" not in told


@pytest.mark.parametrize(
    "arguments",
    [
        ("seed", "gmail", "sim-rt-0123456789abcdefghij"),
        ("seed", "gmail", "--file", "sim-rt-0123456789abcdefghij"),
        ("refresh", "gmail", "--rejected-file", "sim-at-0123456789abcdefghij"),
        ("sim-at-0123456789abcdefghij",),
        ("seed", "gmail", "--sim-rt-0123456789abcdefghij"),
    ],
)
def test_a_secret_given_as_an_argument_is_not_repeated(
    arguments: tuple[str, ...], place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    """A token that was given where no secret belongs does not come back in the error."""
    more = ["--config", str(place.config)] if len(arguments) > 1 else []

    assert cli.main([*arguments, *more]) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert "0123456789" not in told
