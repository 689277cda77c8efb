"""Signalling a process: the right one, or none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from sidecar.errors import HookError
from tests.e2e.conftest import wait_until
from tests.hooks.conftest import MakeHook, occasion

SLEEPER = """
import ctypes, os, signal, sys
name, folder, handles = sys.argv[1:4]
ctypes.CDLL(None).prctl(15, name.encode(), 0, 0, 0)
hand = lambda: signal.signal(signal.SIGHUP, lambda *_: open(f"{folder}/{os.getpid()}.hup", "a").write("x"))
if handles == "handles": hand()
if "forks" in sys.argv: os.fork()
open(f"{folder}/{os.getpid()}.pid", "w").write(f"{os.getpid()}\\n")
while True: signal.pause()
"""


class Processes:
    """Processes that note each SIGHUP."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name = f"app-{os.getpid()}"
        self.started: list[subprocess.Popen[bytes]] = []

    def start(self, *more: str, handles: bool = True) -> int:
        """Start one, and wait until it is ready."""
        command = [sys.executable, "-I", "-c", SLEEPER, self.name, str(self.folder)]
        process = subprocess.Popen([*command, "handles" if handles else "leaves", *more], process_group=0)
        self.started.append(process)
        file = self.pid_file(process.pid)
        # The file is there a moment before the number is in it.
        wait_until(lambda: file.exists() and file.stat().st_size > 0, what="it is ready")
        return process.pid

    def pid_file(self, pid: int) -> Path:
        """Return the file that a process wrote its number into."""
        return self.folder / f"{pid}.pid"

    def heard(self, pid: int) -> bool:
        """Tell whether a process got the signal."""
        return (self.folder / f"{pid}.hup").exists()

    def end(self) -> None:
        """End them all."""
        for process in self.started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """End what was started."""
    processes = Processes(tmp_path)
    yield processes
    processes.end()


async def test_the_process_of_a_pid_file(processes: Processes, make_hook: MakeHook) -> None:
    """The one that wrote the file gets the signal, and no other."""
    pid, other = processes.start(), processes.start()

    assert await make_hook(signal={"pid_file": str(processes.pid_file(pid))}).run(occasion())

    wait_until(lambda: processes.heard(pid), what="it heard of it")
    assert not processes.heard(other)


async def test_a_number_that_somebody_else_has_by_now_is_left_alone(
    processes: Processes, make_hook: MakeHook
) -> None:
    """Who is younger than the pid file didn't write it."""
    pid = processes.start()
    file = processes.pid_file(pid)
    before = file.stat().st_mtime - 3600
    os.utime(file, (before, before))

    with pytest.raises(HookError, match=f"process {pid} has ended, or is not the one that wrote its number"):
        await make_hook(signal={"pid_file": str(file)}).run(occasion())
    assert not processes.heard(pid)


async def test_all_of_a_name_but_not_their_children(processes: Processes, make_hook: MakeHook) -> None:
    """A server's master tells its workers by itself; two servers of a name are both meant."""
    first, second = processes.start("forks"), processes.start()
    wait_until(lambda: len(list(processes.folder.glob("*.pid"))) == 3, what="its child is there")

    assert await make_hook(signal={"process": processes.name}).run(occasion())

    wait_until(lambda: processes.heard(first) and processes.heard(second), what="both heard of it")
    assert len(list(processes.folder.glob("*.hup"))) == 2


async def test_nobody_is_told_again_because_another_of_its_name_cannot_be(
    processes: Processes, make_hook: MakeHook
) -> None:
    """Whoever starts something of an application's name would otherwise have that one reload for ever."""
    first = processes.start()
    deaf = processes.start(handles=False)
    last = processes.start()
    hook = make_hook(signal={"process": processes.name})
    for _ in range(3):
        with pytest.raises(HookError, match=f"process {deaf} doesn't handle SIGHUP"):
            await hook.run(occasion())
    wait_until(lambda: processes.heard(first) and processes.heard(last), what="both heard of it")
    with pytest.raises(HookError):
        await hook.run(occasion(2))

    def times(pid: int) -> int:
        return len((processes.folder / f"{pid}.hup").read_text(encoding="ascii"))

    wait_until(lambda: times(first) == times(last) == 2, what="both heard of the next one, too")


async def test_a_kernel_that_does_not_answer_holds_up_nobody(
    make_hook: MakeHook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look into /proc may hang with the process that is looked at; the attempt ends in its time."""
    answers = threading.Event()

    def hang() -> list[Any]:
        answers.wait(20)
        return []

    monkeypatch.setattr("sidecar.hooks.signal._processes", hang)
    with anyio.move_on_after(0.2) as limit:
        await make_hook(signal={"process": "app"}).run(occasion())
    assert limit.cancelled_caught
    assert not answers.is_set()
    answers.set()


async def test_a_process_that_it_would_end_is_left_alone(processes: Processes, make_hook: MakeHook) -> None:
    """An application that is starting has no handler yet; and one that never has should be told otherwise."""
    pid = processes.start(handles=False)
    target = {"pid_file": str(processes.pid_file(pid))}

    with pytest.raises(HookError, match=r"doesn't handle SIGHUP \(yet\), which would end it"):
        await make_hook(signal=target).run(occasion())
    assert processes.started[0].poll() is None

    assert await make_hook(signal={**target, "signal": "TERM"}).run(occasion()), "which is meant to end it"
    assert processes.started[0].wait(20) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("1\n", "process 1 is the first process of this namespace, which is never signalled"),
        ("{ours}\n", "is this daemon itself, which is never signalled"),
        ("0", "there is no number of a process in it"),
        ("-1", "there is no number of a process in it"),
        ("", "there is no number of a process in it"),
        ("x" * 99, "there is no number of a process in it"),
        ("99999999999999999999", "there is no number of a process in it"),
        ("12345678901", "there is no number of a process in it"),
        ("1" * 9999, "there is no number of a process in it"),
        (None, "there is no such file; start the application"),
    ],
)
async def test_what_is_no_application_is_never_signalled(
    tmp_path: Path, make_hook: MakeHook, content: str | None, told: str
) -> None:
    """Neither the namespace's first process, nor this one, nor a whole group, nor everything."""
    file = tmp_path / "pid"
    if content is not None:
        file.write_text(content.format(ours=os.getpid()), encoding="ascii")
    with pytest.raises(HookError) as caught:
        await make_hook(signal={"pid_file": str(file), "signal": "TERM"}).run(occasion())
    assert told in str(caught.value)


async def test_a_process_that_has_ended_is_told(processes: Processes, make_hook: MakeHook) -> None:
    """Be it by its file or by its name: it reads the new token when it starts, and is told again then."""
    pid = processes.start()
    by_file: dict[str, Any] = {"pid_file": str(processes.pid_file(pid))}
    processes.end()

    for target, told in (
        (by_file, f"process {pid} has ended"),
        ({"process": processes.name}, "no process of this name can be seen; start it"),
    ):
        with pytest.raises(HookError, match=told):
            await make_hook(signal=target).run(occasion())


@pytest.mark.skipif(os.geteuid() != 0, reason="a process of another user's is made as root")
async def test_a_lacking_right_is_told(processes: Processes, make_hook: MakeHook) -> None:
    """It names the two ways out."""
    pid = processes.start()
    hook = make_hook(signal={"process": processes.name})
    refused = await _as_nobody(hook)
    assert f"process {pid} may not be signalled by user 65534; run both as the same user" in refused


async def _as_nobody(hook: Any) -> str:
    os.setresuid(65534, 65534, 0)
    try:
        hook._send()
    except HookError as error:
        return str(error)
    finally:
        os.setresuid(0, 0, 0)
    return "it was signalled"
