"""Daemons that begin as forks of one process with everything imported: a tenth of the time that a start takes.

`forks.py SOCKET` is that process. Whoever connects sends one line, `[log, argument…]` in JSON: the arguments are those
of `child.py`, or a configuration alone. It is answered with the new process's id, and at its end with its exit
code (negative: the signal).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from select import select
from socketserver import ForkingMixIn, StreamRequestHandler, UnixStreamServer
from typing import NoReturn

from sidecar import cli
from tests.e2e import child

PROJECT = Path(__file__).parents[2]


class Forked:
    """The part of `subprocess.Popen` that is needed, for a process that another one forked."""

    def __init__(self, place: Path, log: Path, *arguments: str) -> None:
        """Have one started by the process that listens at `place`; what it writes goes to `log`."""
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(str(place))
        self._file = self._connection.makefile("rw", encoding="ascii")
        self._file.write(json.dumps([str(log), *arguments]) + "\n")
        self._file.flush()
        self.pid = int(self._file.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """See `Popen`."""
        if self.returncode is None and select([self._connection], [], [], 0)[0]:
            self._end()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """See `Popen`."""
        if self.returncode is None and not select([self._connection], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired("a daemon", timeout or 0.0)
        return self._end()

    def send_signal(self, signum: signal.Signals) -> None:
        """See `Popen`."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """See `Popen`."""
        self.send_signal(signal.SIGKILL)

    def _end(self) -> int:
        if self.returncode is None:
            self.returncode = int(self._file.readline())
            self._file.close()
            self._connection.close()
        return self.returncode


@contextmanager
def listening(place: Path) -> Iterator[Path]:
    """Run the process that forks, for the length of the block."""
    process = subprocess.Popen([sys.executable, "-m", "tests.e2e.forks", str(place)], cwd=PROJECT)
    try:
        while not place.exists():
            assert process.poll() is None, "it ended"
            time.sleep(0.01)
        yield place
    finally:
        process.kill()
        process.wait()


class _Handler(StreamRequestHandler):
    """Runs in a fork of its own for as long as the daemon lives, whose parent it is."""

    def handle(self) -> None:
        """Fork once more, and tell id and end."""
        log, *arguments = json.loads(self.rfile.readline())
        pid = os.fork()
        if pid == 0:
            _become(log, *arguments)
        self.wfile.write(f"{pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        self.wfile.write(f"{os.waitstatus_to_exitcode(status)}\n".encode())


def _become(log: str, config: str, *hook: str) -> NoReturn:
    """Be a daemon, and nothing after that."""
    code = 70
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(output, sys.stdout.fileno())
        os.dup2(output, sys.stderr.fileno())
        code = child.run(config, *hook) if hook else cli.main(["run", "--config", config])
    except BaseException:  # noqa: BLE001 - the way up leads into the process that forks
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


class _Server(ForkingMixIn, UnixStreamServer):
    max_children = 200
    request_queue_size = 200


def main() -> None:
    """Import what a daemon imports on its way, and fork."""
    for module in (
        "sidecar.app",
        "sidecar.stores.sqlite",
        "sidecar.stores.postgres",
        "sidecar.stores.kubernetes",
        "uvicorn.protocols.http.h11_impl",
    ):
        import_module(module)
    with _Server(sys.argv[1], _Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
