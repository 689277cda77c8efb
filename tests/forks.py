"""Processes of ours that begin as forks of one that has everything imported: a tenth of what a start takes.

`Popen` and `run` are those of `subprocess`, for what `python -m MODULE ARGUMENT…` would be: a process of its own, with
its own environment, files and end. Two things aren't those of a start from nothing, its command line in /proc and
what it finds imported: a test that is about either begins with `sys.executable`.

The process that forks is this module, run as a program. Each connection to its socket is one process: a request, which
brings the three standard files along; then the process's id comes back, and at its end its exit code (negative: the
signal).
"""

from __future__ import annotations

import atexit
import gc
import json
import logging
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from contextlib import closing, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

PROJECT = Path(__file__).parents[1]
REQUEST = 1 << 17
"""Bytes that a request has at most: arguments and environment."""

BESIDE = (
    "anyio._backends._asyncio",
    "anyio._core._signals",
    "asyncio",
    "encodings.idna",
    "httpcore2",
    "tests.e2e.child",
    "truststore",
    "uvicorn.lifespan.off",
    "uvicorn.protocols.http.h11_impl",
    "watchfiles",
)
"""What processes import on their way, beside all that is ours."""


class Popen(subprocess.Popen[Any]):
    """A process of the arguments' first word, which is a module, and the others, which are its own."""

    _connection: socket.socket

    # These three are where CPython's Popen forks and waits, from 3.11 on.

    def _execute_child(self, args: Any, *given: Any) -> None:
        folder, environment, pipes = given[4], given[5], given[9:15]
        files = [theirs if theirs != -1 else own for own, theirs in enumerate((pipes[0], pipes[3], pipes[5]))]
        request = {
            "arguments": [str(argument) for argument in args],
            "environment": dict(os.environ if environment is None else environment),
            "folder": str(folder or Path.cwd()),
        }
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.connect(str(_place()))
        socket.send_fds(self._connection, [json.dumps(request).encode()], files)
        self.pid = int(self._connection.recv(REQUEST))
        self._child_created = True
        self._close_pipe_fds(*pipes)  # type: ignore[attr-defined]

    def _internal_poll(self, *_: object, **__: object) -> int | None:
        return self.returncode if self.returncode is not None else self._ended(0.0)

    def _wait(self, timeout: float | None) -> int:
        if self.returncode is None and self._ended(timeout) is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self.returncode

    def _ended(self, timeout: float | None) -> int | None:
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        if poll.poll(None if timeout is None else 1000 * timeout):
            self.returncode = int(self._connection.recv(REQUEST))
            self._connection.close()
        return self.returncode


def run(
    *arguments: str, stdin: str = "", timeout: float = 40, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a module to its end."""
    pipe = subprocess.PIPE
    with Popen(arguments, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env=env) as process:
        try:
            output, errors = process.communicate(stdin, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)


_first = threading.Lock()


def _place() -> Path:
    """Tell where the process listens that forks."""
    with _first:
        return _started()


@cache
def _started() -> Path:
    """Start it, once; it ends with this one."""
    folder = tempfile.TemporaryDirectory(prefix="forks-")
    place = Path(folder.name) / "socket"
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.forks", str(place)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )

    def end() -> None:
        process.communicate()
        folder.cleanup()

    atexit.register(end)
    assert process.stdout is not None
    assert process.stdout.readline(), "it ended"
    return place


class _Server:
    """Forks as it is asked to, and tells of their ends, until nobody can ask any more."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._poll = select.epoll()
        self._poll.register(listener, select.EPOLLIN)
        self._poll.register(0, 0)  # whose end is told unasked
        self._living: dict[int, tuple[int, socket.socket]] = {}
        """By the file that tells of the end: process and connection."""

    def run(self) -> None:
        """Serve."""
        while True:
            for file, _ in self._poll.poll():
                if file == self._listener.fileno():
                    self._begin()
                elif file == 0:
                    return
                else:
                    self._end(file)

    def _begin(self) -> None:
        connection, _ = self._listener.accept()
        message, files, _, _ = socket.recv_fds(connection, REQUEST, 3)
        pid = os.fork()
        if pid == 0:
            self._poll.close()
            for mine in (connection, self._listener, *(other for _, other in self._living.values())):
                mine.close()
            for file in self._living:
                os.close(file)
            _become(files, **json.loads(message))
        for file in files:
            os.close(file)
        ended = os.pidfd_open(pid)
        self._living[ended] = pid, connection
        self._poll.register(ended, select.EPOLLIN)
        connection.send(f"{pid}".encode())

    def _end(self, file: int) -> None:
        pid, connection = self._living.pop(file)
        self._poll.unregister(file)
        os.close(file)
        _, status = os.waitpid(pid, 0)
        with closing(connection), suppress(OSError):  # whoever asked may be gone
            connection.send(f"{os.waitstatus_to_exitcode(status)}".encode())


def _become(files: list[int], arguments: list[str], environment: dict[str, str], folder: str) -> NoReturn:
    """Be that process, and nothing after that."""
    code: object = 1
    try:
        for own, theirs in enumerate(files):
            os.dup2(theirs, own)
            os.close(theirs)
        _open_standard_files()
        os.chdir(folder)
        os.environ.clear()
        os.environ.update(environment)
        time.tzset()
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:  # noqa: BLE001 - the way up leads into the process that forks
        traceback.print_exc()
    if isinstance(code, str):
        print(code, file=sys.stderr)  # noqa: T201 - as the interpreter does
        code = 1
    with suppress(BaseException):
        atexit._run_exitfuncs()
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 0)


def _open_standard_files() -> None:
    """Do it as the interpreter does, once it knows where they lead."""
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def _import_all() -> None:
    for package in ("sidecar",):
        for module in pkgutil.walk_packages(import_module(package).__path__, f"{package}."):
            if not module.name.endswith("__main__"):
                import_module(module.name)
    for name in BESIDE:
        import_module(name)


def main() -> None:
    """Import, then fork."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _import_all()
    gc.collect()
    gc.freeze()  # or each fork's collector would make copies of it all
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(sys.argv[1])
    listener.listen(200)
    print("ready", flush=True)  # noqa: T201 - that is its way of telling
    _Server(listener).run()


if __name__ == "__main__":
    main()
