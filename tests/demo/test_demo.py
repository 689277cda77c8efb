"""The whole of it: real processes, real files, and somebody who breaks them."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.demo.conftest import RunningDemo

Start = Callable[..., RunningDemo]


def test_it_ends_by_itself_and_every_promise_was_kept(start: Start) -> None:
    """With `--for` it prints plain lines, ends with figures and exit code 0, and leaves no process behind."""
    demo = start("--for", "8s", "--ttl", "6s")
    demo.until("all is well|refreshed to generation 2")
    assert len(demo.processes()) == 2
    assert demo.end() == 0
    summary = demo.summary
    done = re.match(r"(\d+) \((\d+) gmail, (\d+) reports-api\)", summary["refreshes done"])
    assert done is not None
    assert min(int(done[2]), int(done[3])) >= 2
    lowest = re.match(r"([\d.]+) s that a reader saw, 1 s are promised$", summary["lowest validity"])
    assert lowest is not None
    assert 1 <= float(lowest[1]) <= 5
    assert re.match(r"0 torn, 0 empty, 0 missing, of [\d,]{4,} reads", summary["torn reads"])
    assert summary["shown to the provider"].endswith("none refused")
    assert summary["refresh tokens"].endswith("none used twice")
    assert demo.output.endswith("Every promise was kept.\n")
    assert demo.processes() == []


def test_it_can_be_played_by_a_known_provider(start: Start) -> None:
    """Xero wants HTTP Basic and ends the old access token at once; readers see the new one soon enough."""
    demo = start("--for", "10s", "--ttl", "6s", "--provider", "xero")
    demo.until("gmail: refreshed to generation 2")
    assert demo.end() == 0
    assert "behaves as Xero does" in demo.output
    assert demo.summary["shown to the provider"].endswith("none refused")
    assert "extends: xero" in (demo.directory / "config.yaml").read_text()


def test_nothing_that_it_prints_or_logs_is_a_secret(start: Start) -> None:
    """Output and logs hold no token, and what does is in a private directory that git ignores."""
    demo = start("--for", "30s")
    demo.until("reports-api: refreshed")
    demo.interrupt()
    assert demo.end() == 0
    texts = [demo.output, *((demo.directory / name).read_text() for name in ("daemon.log", "config.yaml"))]
    assert not [text for text in texts if re.search(r"sim-(at|rt|cs)-", text)]
    assert stat.S_IMODE(demo.directory.stat().st_mode) == 0o700
    assert (demo.directory / ".gitignore").read_text() == "*\n"


def test_a_killed_daemon_resumes(start: Start) -> None:
    """SIGKILL costs a pause: the daemon comes back, refreshes go on, and no refresh token is used twice."""
    demo = start("--for", "30s", "--ttl", "6s")
    demo.until("gmail: refreshed to generation 2")
    demo.kill_daemon()
    demo.until("the daemon was ended by SIGKILL")
    demo.until("the daemon is back after")
    demo.until("gmail: refreshed to generation")
    demo.until("gmail: refreshed to generation")
    demo.interrupt()
    assert demo.end() == 0, demo.output
    assert demo.summary["refresh tokens"].endswith("none used twice")
    assert re.match(r"was ended by SIGKILL; back after \d\.\d s", demo.summary["daemon"])
    assert demo.processes() == []


def test_a_broken_provider_is_no_broken_promise(start: Start) -> None:
    """What comes of answers that somebody scripted is told apart from our own failures."""
    demo = start("--for", "30s", "--ttl", "4s")
    demo.until("gmail: refreshed to generation 1")
    demo.tell_provider("POST", "/_sim/faults", status=500, processed=False, times=None)
    demo.until("gmail: in_doubt: ")
    demo.tell_provider("DELETE", "/_sim/faults")
    demo.until("all is well again")
    demo.interrupt()
    assert demo.end() == 0, demo.output
    assert demo.summary["broken on purpose"] == "the provider, by faults"


def test_an_ended_grant_is_dead_until_somebody_consents_again(start: Start) -> None:
    """A grant that is ended at the provider is shown as dead; a new seed, as the hint gives it, revives it."""
    demo = start("--for", "30s", "--ttl", "4s")
    demo.until("gmail: refreshed to generation 1")
    demo.tell_provider("POST", "/_sim/kill")
    demo.until("gmail: dead: .*invalid_grant")
    (demo.directory / "seed.json").write_text(json.dumps(demo.tell_provider("POST", "/_sim/grants")))
    demo.until("all is well again")
    demo.interrupt()
    assert demo.end() == 0, demo.output
    assert demo.summary["broken on purpose"] == "the grant, by ending it at the provider"


def test_a_dead_token_at_the_end_is_a_failure(start: Start) -> None:
    """A token that stays dead gives exit code 1, though the one who ended its grant is named."""
    demo = start("--for", "30s", "--ttl", "4s")
    demo.until("gmail: refreshed to generation 1")
    demo.tell_provider("POST", "/_sim/kill")
    demo.until("gmail: dead")
    demo.interrupt()
    assert demo.end() == 1
    assert "gmail is dead: HTTP 400 invalid_grant; that was you" in demo.output
    assert "BROKEN PROMISE" not in demo.output


def test_an_expired_token_in_a_file_is_a_broken_promise(start: Start) -> None:
    """Whatever puts an expired token where readers find it: the demo says which file, and exits with 1."""
    demo = start("--for", "30s", "--ttl", "6s")
    demo.until("gmail: refreshed to generation 1")
    stale = {"access_token": "sim-at-expired-long-ago-0000", "expires_at": time.time() - 60}
    target, temporary = demo.directory / "tokens/gmail.json", demo.directory / "stale"

    def overwrite() -> None:
        while not over.wait(0.005):
            temporary.write_text(json.dumps(stale))
            temporary.replace(target)

    over = threading.Event()
    saboteur = threading.Thread(target=overwrite)
    saboteur.start()
    demo.until("reports-api: refreshed to generation 2")
    demo.interrupt()
    code = demo.end()
    over.set()
    saboteur.join()
    assert code == 1
    assert re.search(
        r"BROKEN PROMISE: tokens/gmail.json held an expired token in \d+ of the reads", demo.output
    )


def test_on_a_terminal_it_is_a_table_until_ctrl_c(tmp_path: Path) -> None:
    """A terminal shows the live table; Ctrl-C ends it with the summary."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "sidecar", "demo", "--directory", str(tmp_path / "demo"), "--ttl", "6s"]
    environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120", "LINES": "50"}
    with subprocess.Popen(command, stdout=theirs, env=environ) as process:
        os.close(theirs)
        shown, interrupted = "", False
        while (read := _read(ours)) is not None:
            shown += read
            if not interrupted and "a reader has" in shown and "gmail: refreshed to generation 2" in shown:
                process.send_signal(signal.SIGINT)
                interrupted = True
        os.close(ours)
        assert process.wait() == 0
    assert "gmail.header" in shown
    assert "█" in shown
    assert shown.rstrip().removesuffix("\x1b[0m").endswith("Every promise was kept.")


def _read(terminal: int) -> str | None:
    try:
        return os.read(terminal, 65536).decode(errors="replace")
    except OSError:  # the other end is closed
        return None


def test_no_process_outlives_a_demo_that_was_killed(start: Start) -> None:
    """SIGKILL of the demo takes daemon and provider with it, and the next demo starts afresh in its directory."""
    demo = start("--for", "30s")
    demo.until("gmail: refreshed to generation 1")
    children = [os.pidfd_open(pid) for pid in demo.processes()]
    demo.kill()
    ended = [select.select([child], [], [], 10)[0] for child in children]
    for child in children:
        os.close(child)
    assert len(children) == 2
    assert all(ended)
    again = start("--for", "30s")
    again.until("gmail: refreshed to generation 1, its first token")
    again.interrupt()
    assert again.end() == 0, again.output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--for", "0s"), "at least a second"),
        (("--ttl", "1s"), "between 4s and 24h"),
        (("--for", "x"), "no duration"),
    ],
)
def test_a_wrong_option_is_refused(start: Start, arguments: tuple[str, ...], complaint: str) -> None:
    """A time that shows nothing is a mistake in usage: exit code 2."""
    demo = start(*arguments)
    assert demo.end() == 2
    assert complaint in demo.output
