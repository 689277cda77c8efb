"""Sends a signal to a process: the old way to have a daemon read its files again.

Two things go wrong with signals, and both end somebody. The number in a pid file may belong to another process by
now: so the process is held by a pidfd while it is looked at, and it has to be older than the file. And a process that
handles no SIGHUP, or not yet since it is starting, is ended by it: so its handlers are looked at first.
"""

from __future__ import annotations

import os
import re
import signal
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import anyio.to_thread

from sidecar.errors import HookError
from sidecar.files import UnfitFile, read_small
from sidecar.hooks.base import NearbyHook

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sidecar.config.settings import HookSettings, ProcessSignal
    from sidecar.ports import Occasion

PROC = Path("/proc")
ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
"""Meant to end a process, which somebody starts again."""
CLOCK_SLACK = 2.0
"""Seconds by which a process may seem younger than the file that it wrote."""
_INIT = 1


class _Process(NamedTuple):
    """What /proc tells of a process."""

    pid: int
    parent: int
    names: frozenset[str]
    """What `ps -o comm` shows, and the first word of its command line without the directory."""
    ticks: int
    """When it was started, in clock ticks since boot: with its number this tells it from all others."""
    heeds: int
    """The signals that it handles or takes from a queue, as bits."""

    @property
    def started_at(self) -> float:
        """Unix seconds, as reckoned by the clocks of now."""
        booted_at = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        return booted_at + self.ticks / os.sysconf("SC_CLK_TCK")


class SignalHook(NearbyHook):
    """One signal, to one process or to several of a name. See `Hook` for the contract."""

    def __init__(self, settings: HookSettings, target: ProcessSignal, *, token: str, state_dir: Path) -> None:
        """See `sidecar.hooks.open_hook`."""
        super().__init__(settings, token, state_dir)
        self._target = target
        self._signal = signal.Signals[f"SIG{target.signal}"]
        self._occasion: Occasion | None = None
        self._reached: set[tuple[int, int]] = set()
        """Number and start of those that heard of it already, while others of their name can't be told."""

    async def tell(self, occasion: Occasion) -> None:
        """See `NearbyHook.tell`."""
        if occasion != self._occasion:
            self._occasion, self._reached = occasion, set()
        # A host may have thousands of processes to look through, and /proc waits for one that hangs in the kernel.
        await anyio.to_thread.run_sync(self._send, abandon_on_cancel=True)

    def _send(self) -> None:
        if self._target.pid_file is not None:
            self._signal_if(_pid_in(self._target.pid_file, self.id), partial(_wrote, self._target.pid_file))
            return
        name = self._target.process or ""
        found = {process.pid: process for process in _processes() if name in process.names}
        masters = [process for process in found.values() if process.parent not in found]
        if not masters:
            raise HookError(
                f"{self.id}: no process of this name can be seen; start it, correct `process` (see `ps -e -o "
                "pid,comm,args`), or have the pod share one process namespace"
            )
        problems = []
        for process in masters:
            if (process.pid, process.ticks) in self._reached:
                continue
            try:
                self._signal_if(process.pid, lambda one: name in one.names)
            except HookError as error:
                problems.append(error)
            else:
                self._reached.add((process.pid, process.ticks))
        if problems:
            raise problems[0]

    def _signal_if(self, pid: int, is_the_one: Callable[[_Process], bool]) -> None:
        """Signal a process, if it is the one that is meant; whatever happens to its number meanwhile."""
        if pid in {_INIT, os.getpid()}:
            what = "this daemon itself" if pid == os.getpid() else "the first process of this namespace"
            raise HookError(
                f"{self.id}: process {pid} is {what}, which is never signalled; an application in another container "
                "counts its processes by itself, unless the pod shares one process namespace"
            )
        try:
            held = os.pidfd_open(pid)
        except OSError as error:
            raise (
                self._gone(pid) if isinstance(error, ProcessLookupError) else self._refused(pid, error)
            ) from None
        try:
            process = _look(pid)
            if process is None or not is_the_one(process):
                raise self._gone(pid)
            if self._signal not in ENDING and not process.heeds >> (self._signal - 1) & 1:
                raise HookError(
                    f"{self.id}: process {pid} doesn't handle {self._signal.name} (yet), which would end it; have it "
                    "handle that, or choose another `signal`"
                )
            signal.pidfd_send_signal(held, self._signal)
        except ProcessLookupError:
            raise self._gone(pid) from None
        except OSError as error:
            raise self._refused(pid, error) from None
        finally:
            os.close(held)

    def _gone(self, pid: int) -> HookError:
        return HookError(
            f"{self.id}: process {pid} has ended, or is not the one that wrote its number; start the application, "
            "and see that it writes its pid file"
        )

    def _refused(self, pid: int, error: OSError) -> HookError:
        if isinstance(error, PermissionError):
            remedy = "run both as the same user, or give this one the capability KILL"
            return HookError(
                f"{self.id}: process {pid} may not be signalled by user {os.geteuid()}; {remedy}"
            )
        return HookError(
            f"{self.id}: process {pid} can't be signalled: {error.strerror}; choose another hook"
        )


def _pid_in(path: Path, hook: str) -> int:
    try:
        text = read_small(path, follow=True).data.strip()
    except FileNotFoundError:
        raise HookError(
            f"{hook}: there is no such file; start the application, or correct `pid_file`"
        ) from None
    except OSError as error:
        raise HookError(
            f"{hook}: it can't be read: {error.strerror}; correct its mode or `pid_file`"
        ) from None
    except UnfitFile as unfit:
        raise HookError(f"{hook}: it {unfit}; correct `pid_file`") from None
    words = text.split()[:1]  # some write more than the number
    # A long run of digits is no number that Python or the kernel would take.
    if not words or not re.fullmatch(rb"0{0,9}[0-9]{1,10}", words[0]) or not 0 < int(words[0]) < 2**31:
        raise HookError(f"{hook}: there is no number of a process in it; correct `pid_file`")
    return int(words[0])


def _wrote(path: Path, process: _Process) -> bool:
    """Tell whether a process can have written its pid file: whoever got the number later is younger than that."""
    try:
        return process.started_at <= path.stat().st_mtime + CLOCK_SLACK
    except OSError:
        return False


def _processes() -> Iterator[_Process]:
    """Go through all processes that can be seen, but for this one and the namespace's first."""
    for entry in PROC.iterdir():
        if entry.name.isdigit() and int(entry.name) not in {_INIT, os.getpid()}:
            process = _look(int(entry.name))
            if process is not None:
                yield process


def _look(pid: int) -> _Process | None:
    """Read what /proc tells of a process; None: it has ended."""
    folder = PROC / str(pid)
    try:
        status = dict(
            line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line
        )
        words = (folder / "cmdline").read_bytes().split(b"\0")
        ticks = int((folder / "stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
    if status.get("State", "Z").strip()[:1] in {"Z", "X"}:
        return None
    return _Process(
        pid=pid,
        parent=int(status["PPid"]),
        names=frozenset({status["Name"].strip(), os.fsdecode(words[0]).rpartition("/")[2]} - {""}),
        ticks=ticks,
        heeds=int(status.get("SigCgt", "0"), 16) | int(status.get("SigBlk", "0"), 16),
    )
