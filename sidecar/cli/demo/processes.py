"""Child processes that end with the demo, however it ends, and that come back when somebody else ends them."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import sidecar
from sidecar.errors import SidecarError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BY_HAND = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
START_TIMEOUT = 20.0
GRACE = 4.0
TAIL = 8
"""Lines of a log that are shown when a start failed."""

# The kernel kills the child when the demo dies: PR_SET_PDEATHSIG (1) survives the exec. A preexec_fn could do it
# without the detour, but not safely beside threads. The parent may have died before the call.
TIE = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


@dataclass(slots=True)
class Fall:
    """One unwanted end of a process. Times are Unix seconds."""

    at: float
    how: str
    by_hand: bool
    """Whether somebody sent a signal; else it ended by its own fault."""
    back_at: float | None = None


class Child:
    """One Python module as a process, restarted after a pause when it falls.

    To be used from the main thread alone: the kernel watches the thread that started a process.
    """

    def __init__(self, module: str, place: Path, name: str, *, pause: float) -> None:
        """`place`: where its log and its process id go; `pause`: seconds before a restart."""
        self._module = module
        self._log = place / f"{name}.log"
        self._pid_file = place / f"{name}.pid"
        self._pause = pause
        self.arguments: Sequence[str] = ()
        """What it is started with the next time."""
        self._process: subprocess.Popen[bytes] | None = None
        self.falls: list[Fall] = []
        self.started_at = 0.0

    @property
    def pid(self) -> int | None:
        """The process id, while it runs."""
        return None if self._process is None else self._process.pid

    def start(self, arguments: Sequence[str], *, listen: bool = False) -> str:
        """Start it; with `listen` wait for the first line that it prints, and return that.

        Raises `SidecarError` with the log's end if the line doesn't come.
        """
        self.arguments = arguments
        # From a checkout that isn't installed only the current directory leads to the package; otherwise that
        # directory may hold anything, a `sidecar` of the user's own too.
        here = Path(sidecar.__file__).parent.parent == Path.cwd()
        python = [sys.executable, *([] if here else ["-P"]), "-m", self._module]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-I", "-S", "-c", TIE, str(os.getpid()), *python, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if listen else log,
                stderr=log,
                process_group=0,  # Ctrl-C is for the demo, which ends its children in order
            )
        self.started_at = time.time()
        self._pid_file.write_text(f"{self._process.pid}\n", encoding="ascii")
        return self._first_line(self._process) if listen else ""

    def _first_line(self, process: subprocess.Popen[bytes]) -> str:
        if process.stdout is None:
            return ""
        with process.stdout as stdout:
            ready, _, _ = select.select([stdout], [], [], START_TIMEOUT)
            line = stdout.readline().decode() if ready else ""
        if not line:
            self.end()
            raise SidecarError(f"`python -m {self._module}` did not start:\n{self.tail()}")
        return line

    def tail(self) -> str:
        """Return the end of the log."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-TAIL:])

    def look(self) -> Fall | None:
        """Return a fall that has just happened; start the process again once its pause is over."""
        if self._process is not None:
            code = self._process.poll()
            if code is None:
                return None
            self._process = None
            self.falls.append(_fall(code))
            return self.falls[-1]
        if self.falls and time.time() >= self.falls[-1].at + self._pause:
            self.start(self.arguments)
        return None

    def is_stopped(self) -> bool:
        """Tell whether somebody froze it (SIGSTOP)."""
        with suppress(OSError, IndexError):
            # The name before it is in parentheses, and may hold any character.
            return (
                Path(f"/proc/{self.pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
                == "T"
            )
        return False

    def end(self, *, hurried: Callable[[], bool] = lambda: False) -> int | None:
        """End it and return its exit code: SIGTERM, and SIGKILL when it takes too long or is `hurried`.

        None: it wasn't running.
        """
        process, self._process = self._process, None
        if process is None:
            return None
        deadline = time.monotonic() + GRACE
        for signum in (signal.SIGTERM, signal.SIGCONT):
            process.send_signal(signum)
        while process.poll() is None and time.monotonic() < deadline and not hurried():
            time.sleep(0.02)
        process.kill()
        return process.wait()


def _fall(code: int) -> Fall:
    if code < 0:
        signum = signal.Signals(-code)
        return Fall(time.time(), f"was ended by {signum.name}", signum in BY_HAND)
    # A daemon that is told to stop exits with 0, and by itself it never does.
    return Fall(time.time(), f"ended with exit code {code}", by_hand=code == 0)
