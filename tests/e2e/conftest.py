"""The real daemon in a process of its own, against the real simulator: started, asked, killed, paused."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import anyio
import pytest
from prometheus_client.parser import text_string_to_metric_families

from sidecar.clock import SystemClock
from sidecar.escrow import Entry, Escrow
from sidecar.ports import Seeding
from sidecar.server.client import ControlClient
from sidecar.server.wire import SeedReply, SeedRequest
from sidecar.stores import open_store
from sidecar.testing import ProviderConfig, Simulator
from sidecar.tokens import Record, RefreshToken, decode_record
from tests import forks, leaks

PROJECT = Path(__file__).parents[2]
PATIENCE = 20.0
"""Seconds until a test gives up: far more than anything takes, since the machine may be busy."""
POLL = 0.01

# SECBIT_NOROOT, see capabilities(7): from the exec on, uid 0 has the rights of an owner and no others.
_DROP = """
import ctypes, os, sys
if os.geteuid() == 0:
    assert ctypes.CDLL(None).prctl(28, 3, 0, 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""
POWERLESS = (sys.executable, "-c", _DROP)
"""Put before a command: root may look into every process and write everywhere, others may not."""

EAGER: dict[str, Any] = {"refresh_at": 0.0001, "min_interval": "1s"}
"""Settings of a token that is refreshed every second, though it lives for an hour."""


class Reply(NamedTuple):
    """An HTTP answer."""

    status: int
    text: str


class Remains(NamedTuple):
    """What a process left in store and escrow, as it was at its death."""

    records: dict[str, Record]
    """By token name."""
    entries: dict[str, Entry]
    """What is in escrow, by token name."""


def wait_until(condition: Callable[[], object], *, what: str, patience: float = PATIENCE) -> None:
    """Return as soon as `condition` holds; fail when it does not come true."""
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end, f"did not happen within {patience:g} s: {what}"
        time.sleep(POLL)


class Daemon:
    """One configuration with its directories, and the processes that run on it, one after another.

    `config` is the document to be written; change it between two runs at will.
    """

    def __init__(self, folder: Path, logs: Path) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.out = folder / "out"
        self.path = folder / "config.yaml"
        self.store = folder / "store.db"
        self.process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}
        """What it has beside the tests' own variables."""
        self.from_nothing = False
        """Start it as a program of its own, not as a fork."""
        self.powerless = False
        """Run it without root's powers, should the tests have them; that takes a start from nothing."""
        self._logs = logs
        self._runs = itertools.count(1)
        self.log = logs / "none"
        """Standard output and error of the latest run."""
        self.config: dict[str, Any] = {
            "state_dir": str(self.state_dir),
            "store": f"sqlite://{self.store}",
            "allow_volatile_store": True,
            "server": {"port": 0},
            "log": {"level": "debug", "format": "json"},
            "tokens": {},
        }
        self.out.mkdir(parents=True)

    # The configuration

    def add(self, simulator: Simulator, name: str = "gmail", /, **settings: Any) -> str:
        """Configure a token with a seed from this provider; returns the refresh token.

        `settings` are the token's; `profile` among them is merged into its provider's inline profile.
        """
        seed = simulator.provider.new_grant()
        self._write(self.folder / f"{name}.seed", json.dumps({"refresh_token": seed}))
        self._write(self.folder / f"{name}.secret", simulator.provider.config.client_secret or "")
        profile = {"token_url": simulator.token_url, "rotation": "always", **settings.pop("profile", {})}
        self.config["tokens"][name] = {
            "provider": profile,
            "client": {
                "id": simulator.provider.config.client_id,
                "secret_file": str(self.folder / f"{name}.secret"),
            },
            "seed": str(self.folder / f"{name}.seed"),
            "outputs": [{"file": str(self.out / f"{name}.json"), "format": "gmail-sdk"}],
            **settings,
        }
        return seed

    def change(self, name: str = "gmail", /, **settings: Any) -> None:
        """Change a token's settings from the next run on; None takes a key away."""
        token = {**self.config["tokens"][name], **settings}
        self.config["tokens"][name] = {key: value for key, value in token.items() if value is not None}

    def join(self, first: Daemon, name: str = "gmail") -> None:
        """Take part in another daemon's token: its settings without its seed, and a file of one's own."""
        token: dict[str, Any] = json.loads(json.dumps(first.config["tokens"][name]))
        del token["seed"]
        token["outputs"][0]["file"] = str(self.output(name))
        self.config["tokens"][name] = token

    def _write(self, path: Path, content: str) -> None:
        path.write_text(content, encoding="utf-8")
        path.chmod(0o600)

    def write_config(self) -> Path:
        """Write the configuration; JSON is YAML too."""
        self._write(self.path, json.dumps(self.config, indent=1))
        return self.path

    # Its life

    def launch(self, *hook: str) -> Self:
        """Start a process and do not wait for anything.

        `hook` names something that shall happen to it at a certain point, see `child.py`.
        """
        assert self.process is None, "it runs already"
        self.write_config()
        # Left by an earlier run, it would name that one's port.
        (self.state_dir / "http.json").unlink(missing_ok=True)
        self.log = self._logs / f"{self.folder.name}-{next(self._runs)}.log"
        command = ["sidecar", "run", "--config", str(self.path)]
        if hook:
            command = ["tests.e2e.child", str(self.path), *hook]
        start: type[subprocess.Popen[bytes]] = forks.Popen
        if self.powerless or self.from_nothing:
            start = subprocess.Popen
            command = [*(POWERLESS if self.powerless else ()), sys.executable, "-m", *command]
        with self.log.open("wb") as log:
            self.process = start(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=PROJECT,
                env={**os.environ, **self.environment},
            )
        return self

    def start(self, *hook: str, probe: str = "/startupz") -> Self:
        """Start a process and wait until `probe` is answered with 200."""
        self.launch(*hook)
        self.wait_until(lambda: self.answers(probe), f"{probe} is 200")
        return self

    def wait_until(self, condition: Callable[[], object], what: str, *, patience: float = PATIENCE) -> None:
        """Wait for something while the process runs; its end is a failure, shown with its log."""
        ended = False

        def over() -> bool:
            nonlocal ended
            ended = self.process is not None and self.process.poll() is not None
            return ended or bool(condition())

        try:
            wait_until(over, what=what, patience=patience)
        except AssertionError as error:
            raise AssertionError(f"{error}; the daemon wrote:\n{self.text()}") from None
        assert not ended or condition(), f"it ended before {what}:\n{self.text()}"

    @property
    def running(self) -> subprocess.Popen[bytes]:
        """The process under way."""
        assert self.process is not None, "it does not run"
        return self.process

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.running.pid

    def signal(self, signum: signal.Signals) -> None:
        """Send it a signal."""
        self.running.send_signal(signum)

    def stop(self, *, patience: float = PATIENCE) -> int:
        """End it with SIGTERM; returns its exit code."""
        self.keep_pages()
        self.signal(signal.SIGTERM)
        return self.wait(patience=patience)

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.running.kill()
        assert self.wait() == -signal.SIGKILL, self.text()

    def wait(self, *, patience: float = PATIENCE) -> int:
        """Wait for its end; returns its exit code."""
        try:
            code = self.running.wait(patience)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end within {patience:g} s:\n{self.text()}") from None
        self.process = None
        return code

    def pause(self) -> None:
        """Stop it with SIGSTOP and return when it stands still."""
        self.signal(signal.SIGSTOP)
        self.wait_until(self.is_paused, "it stands still")

    def resume(self) -> None:
        """Let a stopped process go on."""
        self.signal(signal.SIGCONT)

    def is_paused(self) -> bool:
        """Tell whether it stands still."""
        stat = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii")
        return stat.rpartition(")")[2].split()[0] == "T"

    def close(self) -> None:
        """End whatever is left of it."""
        for core in leaks.cores(self.folder):
            shutil.copy(core, self._logs)
        if self.process is not None:
            self.keep_pages()
            self.process.kill()
            self.process.wait()
            self.process = None

    def keep_pages(self) -> None:
        """Put metrics and status beside the log, where they are searched for secrets at the end of the run."""
        if self.running.poll() is not None or self.is_paused():
            return
        for page in ("metrics", "status"):
            with suppress(OSError):
                text = self.get(f"/{page}", timeout=2.0).text
                self.log.with_suffix(f".{page}").write_text(text, encoding="utf-8")

    # What it says

    @property
    def url(self) -> str:
        """Where its probes are; known once it serves."""
        address: dict[str, Any] = json.loads((self.state_dir / "http.json").read_text(encoding="utf-8"))
        return str(address["url"])

    def get(self, path: str, *, timeout: float = PATIENCE) -> Reply:
        """Ask over HTTP. Raises `OSError` while it does not answer."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=timeout)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return Reply(answer.status, answer.read().decode())
        except http.client.HTTPException as error:
            raise ConnectionError(str(error)) from error
        finally:
            connection.close()

    def answers(self, path: str, status: int = 200) -> bool:
        """Tell whether it answers a probe with this status now."""
        with suppress(OSError):
            return self.get(path).status == status
        return False

    def status(self, name: str = "gmail") -> dict[str, Any]:
        """Return a token's part of the status document."""
        token: dict[str, Any] = json.loads(self.get("/status").text)["tokens"][name]
        return token

    def metric(self, name: str, **labels: str) -> float:
        """Return one sample of the metrics page; the prefix may be left out."""
        wanted = {f"token_sidecar_{name}", name}
        samples = [
            sample.value
            for family in text_string_to_metric_families(self.get("/metrics").text)
            for sample in family.samples
            if sample.name in wanted and labels.items() <= sample.labels.items()
        ]
        assert len(samples) == 1, f"{len(samples)} samples are called {name} {labels}"
        return samples[0]

    def refreshes(self, outcome: str, name: str = "gmail") -> int:
        """Count the calls that had this outcome in this run."""
        return int(self.metric("refreshes_total", token=name, outcome=outcome))

    @property
    def control(self) -> ControlClient:
        """The commands' way in."""
        return ControlClient(self.state_dir / "control.sock", timeout=PATIENCE)

    def seed(self, refresh_token: str, name: str = "gmail") -> SeedReply:
        """Give it a new refresh token, as the command does."""
        return self.control.seed(name, a_seed(refresh_token))

    def output(self, name: str = "gmail") -> Path:
        """Return the file that a token is published to."""
        return self.out / f"{name}.json"

    def published(self, name: str = "gmail") -> str:
        """Return the access token that an application would read."""
        document: dict[str, Any] = json.loads(self.output(name).read_text(encoding="utf-8"))
        return str(document["access_token"])

    def published_at(self, name: str) -> str:
        """Return the access token in a file of another name."""
        document: dict[str, Any] = json.loads((self.out / name).read_text(encoding="utf-8"))
        return str(document["access_token"])

    def text(self) -> str:
        """Return all that the latest run wrote."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def lines(self, **members: Any) -> list[dict[str, Any]]:
        """Return the lines of the latest run's log that have these members."""
        found: list[dict[str, Any]] = []
        for line in self.text().splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
        return [line for line in found if members.items() <= line.items()]

    # What it leaves

    def remains(self) -> Remains:
        """Read store and escrow; what is in files from a copy, since it is the next run that has to cope with it."""
        assert self.process is None, "it runs and may change them"
        url = self.config["store"]
        with tempfile.TemporaryDirectory(dir=self.folder) as copy:
            if url.startswith("sqlite:"):
                for path in self.store.parent.glob(f"{self.store.name}*"):
                    shutil.copy(path, copy)
                url = f"sqlite://{copy}/{self.store.name}"
            keys = {
                name: f"{self.config.get('namespace', 'default')}/{name}" for name in self.config["tokens"]
            }
            records = anyio.run(_records_in, url, keys)
        return Remains(records, self.escrowed())

    def escrowed(self) -> dict[str, Entry]:
        """Read what is in escrow, by token name, from a copy; of a process that stands still or is dead."""
        if not (self.state_dir / "escrow").exists():
            return {}
        with tempfile.TemporaryDirectory(dir=self.folder) as copy:
            shutil.copytree(self.state_dir / "escrow", Path(copy) / "escrow")
            entries = Escrow(Path(copy) / "escrow").entries()
        return {entry.key.partition("/")[2]: entry for entry in entries}

    def stored(self, name: str = "gmail") -> Record:
        """Return a token's record as the store has it now."""
        if self.process is None:
            return self.remains().records[name]
        return decode_record(self._column("blob", name))

    def lease_until(self, name: str = "gmail") -> float | None:
        """Return the end of a token's lease on the boot-time clock, as the store has it."""
        until: float | None = self._column("lease_until", name)
        return until

    def _column(self, column: str, name: str) -> Any:
        connection = sqlite3.connect(self.store, timeout=PATIENCE)
        try:
            found = connection.execute(
                f"SELECT {column} FROM records WHERE key = ?",  # noqa: S608 - a name of ours
                (f"default/{name}",),
            ).fetchone()
        finally:
            connection.close()
        return found[0]


async def _records_in(url: str, keys: dict[str, str]) -> dict[str, Record]:
    async with open_store(url, SystemClock(), create=False) as store:
        found = {name: await store.load(key) for name, key in keys.items()}
    return {name: held.record for name, held in found.items() if held is not None}


def a_seed(refresh_token: str) -> SeedRequest:
    """Make what the `seed` command sends."""
    return SeedRequest(Seeding(RefreshToken(refresh_token, time.time())))


@contextmanager
def login(config: Path, name: str = "gmail") -> Iterator[str]:
    """Have a human asked for a consent; gives the URL to open, and ends when the grant is stored."""
    command = ["sidecar", "login", name, "--config", str(config)]
    environment = {**os.environ, "DISPLAY": "", "WAYLAND_DISPLAY": "", "BROWSER": ""}
    process = forks.Popen(
        command, cwd=PROJECT, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, env=environment
    )
    try:
        assert process.stderr is not None
        yield next(line.strip() for line in process.stderr if line.strip().startswith("http"))
        assert process.wait(PATIENCE) == 0, process.stderr.read()
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """Give a directory for daemons whose path is short enough for a socket's and open to every user."""
    with tempfile.TemporaryDirectory(prefix="sidecar-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


MakeDaemon = Callable[[], Daemon]
MakeSimulator = Callable[..., Simulator]


@pytest.fixture(scope="session")
def names() -> Iterator[int]:
    """Number the daemons of the session."""
    return itertools.count(1)


@pytest.fixture(scope="module")
def make_daemon(
    home: Path, run_logs: Path, names: Iterator[int], request: pytest.FixtureRequest
) -> Iterator[MakeDaemon]:
    """Make daemons, each with directories of its own; what runs at the end of the module is killed."""
    made: list[Daemon] = []

    def make() -> Daemon:
        module = request.path.stem.removeprefix("test_")
        daemon = Daemon(home / f"{module}-{next(names)}", run_logs)
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        daemon.close()


@pytest.fixture(scope="module")
def make_simulator() -> Iterator[MakeSimulator]:
    """Start providers; the members of `ProviderConfig` are the arguments."""
    made: list[Simulator] = []

    def make(**config: Any) -> Simulator:
        simulator = Simulator(ProviderConfig(**config))
        made.append(simulator)
        simulator.start()
        return simulator

    yield make
    for simulator in made:
        simulator.stop()


@pytest.fixture
def simulator(make_simulator: MakeSimulator) -> Iterator[Simulator]:
    """Give a provider whose tokens live an hour; it rotates always, and reuse kills the family."""
    made = make_simulator()
    yield made
    made.stop()


@pytest.fixture
def daemon(make_daemon: MakeDaemon) -> Iterator[Daemon]:
    """Give a daemon that has no token configured yet and does not run."""
    made = make_daemon()
    yield made
    made.close()
