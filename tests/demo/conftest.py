"""The real command, in a directory of its own, and what can be done to it from outside."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest


class RunningDemo:
    """`token-sidecar demo`, printing plain lines."""

    def __init__(self, directory: Path, *arguments: str) -> None:
        """Start it."""
        self.directory = directory
        self.output = ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sidecar", "demo", "--directory", str(directory), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._process.__exit__(None, None, None)

    def until(self, pattern: str) -> re.Match[str]:
        """Read on to a line that matches; the demo's own end bounds the wait."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.output += line
            if found := re.search(pattern, line):
                return found
        pytest.fail(f"the demo ended before {pattern!r}:\n{self.output}")

    @property
    def url(self) -> str:
        """The provider's, as the hints give it."""
        found = re.search(r"(http://[\d.:]+)/_sim/faults", self.output) or self.until(
            r"(http://[\d.:]+)/_sim/faults"
        )
        return found[1]

    def tell_provider(self, method: str, path: str, **members: Any) -> dict[str, Any]:
        """Do what the hints do with curl."""
        body = json.dumps(members).encode()
        request = urllib.request.Request(self.url + path, body, method=method)  # noqa: S310 - loopback
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
            document: dict[str, Any] = json.load(answer)
            return document

    def kill_daemon(self) -> None:
        """Do what the hint with `kill -9` does."""
        os.kill(int((self.directory / "daemon.pid").read_text()), signal.SIGKILL)

    def is_over(self) -> bool:
        """Tell whether it has ended by itself."""
        return self._process.poll() is not None

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End it as nothing can prevent."""
        self._process.kill()
        self._process.wait()

    def end(self) -> int:
        """Read the rest and return the exit code."""
        assert self._process.stdout is not None
        self.output += self._process.stdout.read()
        return self._process.wait()

    @property
    def summary(self) -> dict[str, str]:
        """The figures at the end, by what they count."""
        lines = self.output.partition("\nAfter ")[2].splitlines()[1:]
        rows = (re.fullmatch(r"  (\S.*?)  +(\S.*)", line) for line in lines)
        return {row[1]: row[2] for row in rows if row}

    def processes(self) -> list[int]:
        """Find the processes that work in the demo's directory, the demo itself left out."""
        found = []
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = process.read_bytes()
            except OSError:
                continue
            if os.fsencode(self.directory) in words and b"\0demo\0" not in words:
                found.append(int(process.parent.name))
        return found


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RunningDemo]]:
    """Start demos that are ended with the test."""
    running: list[RunningDemo] = []

    def start(*arguments: str, directory: Path | None = None) -> RunningDemo:
        running.append(RunningDemo(directory or tmp_path / "a demo", *arguments))
        return running[-1]

    yield start
    for demo in running:
        with demo:
            pass
