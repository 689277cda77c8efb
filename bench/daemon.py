"""Real daemons, and what the kernel knows of a process."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

TICKS = os.sysconf("SC_CLK_TCK")
MIB = 1 << 20


class Sample(msgspec.Struct, frozen=True):
    """A process as it is at one moment."""

    at: float
    """Seconds, monotonic."""
    rss: int
    private: int
    """Bytes; private and dirty."""
    cpu: float
    """Seconds that it has taken since its start."""
    switches: dict[int, int]
    """How often each of its threads went to sleep of its own will."""
    descriptors: int

    @classmethod
    def of(cls, pid: int) -> Sample:
        """Look at a process."""
        folder = Path(f"/proc/{pid}")
        lines = (folder / "smaps_rollup").read_text(encoding="ascii").splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
        # The name in the second field may hold spaces.
        fields = (folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return cls(
            time.monotonic(),
            kib["Rss"] * 1024,
            kib["Private_Dirty"] * 1024,
            (int(fields[11]) + int(fields[12])) / TICKS,
            {int(task.name): _switches(task) for task in (folder / "task").iterdir()},
            len(list((folder / "fd").iterdir())),
        )


def _switches(task: Path) -> int:
    for line in (task / "status").read_text(encoding="utf-8").splitlines():
        if line.startswith("voluntary_ctxt_switches"):
            return int(line.split()[1])
    raise AssertionError("this kernel doesn't count context switches")


class Idle(msgspec.Struct, frozen=True):
    """What a process did between two looks."""

    cpu: float
    """Percent of a core."""
    loop: float
    """Wake-ups a minute of its first thread."""
    others: float
    """Wake-ups a minute of all other threads together."""

    @classmethod
    def between(cls, pid: int, before: Sample, after: Sample) -> Idle:
        """Compare."""
        seconds = after.at - before.at
        wakes = {task: count - before.switches.get(task, 0) for task, count in after.switches.items()}
        loop = wakes.pop(pid, 0)
        return cls(
            100 * (after.cpu - before.cpu) / seconds, 60 * loop / seconds, 60 * sum(wakes.values()) / seconds
        )


def token(within: Path, endpoint: str, file: str, **more: Any) -> dict[str, Any]:
    """Configure a token, or a set, whose refresh tokens rotate, for the daemon in that folder."""
    return {
        "provider": {"token_url": f"{endpoint}/token", "rotation": "always"},
        "client": {"id": "bench", "secret_file": str(within / "secret")},
        "outputs": [{"file": str(within / "out" / file)}],
        **more,
    }


class Daemon:
    """One daemon with directories of its own below `folder`; it doesn't run yet."""

    def __init__(
        self,
        folder: Path,
        *,
        store: str,
        tokens: Mapping[str, Any],
        environ: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        """`tokens`: by name, with outputs below `self.out`, whose place is `folder / "out"`."""
        folder.mkdir(parents=True, exist_ok=True)
        self.out, self.state = folder / "out", folder / "state"
        self.out.mkdir(exist_ok=True)
        self.secret = folder / "secret"
        self.secret.write_text("sim-cs-0123456789abcdef", encoding="ascii")
        self.store = store
        self.environ = {**os.environ, **(environ or {})}
        self.path = folder / "config.yaml"
        config = {
            "namespace": "bench",
            "state_dir": str(self.state),
            # Benchmarks keep their files on tmpfs, as nothing that is worth anything should.
            "allow_volatile_store": True,
            "store": store,
            "server": {"port": 0},
            "log": {"level": "warning", "format": "json"},
            "tokens": dict(tokens),
            **settings,
        }
        self.path.write_text(json.dumps(config), encoding="utf-8")
        self.log = folder / "log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process is not None, "it runs"
        return self._process.pid

    def migrate(self) -> None:
        """Lay out the tables of its store, where that has any."""
        if self.store.startswith("postgresql:"):
            command = [sys.executable, "-m", "sidecar", "store", "migrate", "--config", str(self.path)]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=self.environ)

    def start(self) -> None:
        """Start it."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sidecar", "run", "--config", str(self.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environ,
            )

    def stop(self) -> None:
        """End it, at once if need be."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def files(self) -> int:
        """Count the files that applications would read."""
        with os.scandir(self.out) as found:
            return sum(not one.name.startswith(".") for one in found)

    def until(self, count: int = 1, *, patience: float = 600.0) -> None:
        """Return when so many files are there. Raises `TimeoutError` with the log's end."""
        self.wait_for(
            lambda: self.files() >= count, f"{count} files", patience=patience, step=count / 100_000
        )

    def wait_for(
        self, condition: Callable[[], bool], what: str, *, patience: float = 60.0, step: float = 0.0
    ) -> None:
        """Return as soon as it is so. Raises `TimeoutError` with the log's end."""
        until = time.monotonic() + patience
        while not condition():
            if time.monotonic() > until:
                end = self.log.read_text(encoding="utf-8")[-2000:] if self.log.exists() else ""
                raise TimeoutError(f"after {patience:g} s there are no {what}\n{end}")
            time.sleep(step)

    def get(self, path: str) -> int:
        """Ask for an HTTP page; returns the status."""
        address = json.loads((self.state / "http.json").read_text(encoding="utf-8"))["url"]
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            return answer.status
        finally:
            connection.close()


@contextmanager
def ended(daemons: Sequence[Daemon]) -> Iterator[None]:
    """End all of them with the block."""
    try:
        yield
    finally:
        for daemon in daemons:
            daemon.stop()
