"""What holds for the whole run: nothing that it wrote has a secret in it (see leaks.py).

Searched are the directories that `run_logs` gives (what daemons wrote, and their metrics and status pages) and
the output that pytest captured of every test, those that passed included. Store and output files are where
secrets belong. Where tests run in parallel this is done once, by the process that the others report to.
"""

from __future__ import annotations

import faulthandler
import gc
import inspect
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from tests import leaks

if TYPE_CHECKING:
    from _pytest.terminal import TerminalReporter

    from tests.aws.moto import Moto
    from tests.kube.apiserver import ApiServer
    from tests.kube.cluster import Cluster
    from tests.kube.fake import Fake
    from tests.postgres import Server

PROJECT = Path(__file__).parents[1]

# The same examples at each run: whether a change is good must not hang on the dice. CONTRIBUTING.md has the other way.
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def run_logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the directory for everything that daemons of this run write, at debug level; it is searched at the end."""
    return tmp_path_factory.mktemp("run-logs")


class LeakCheck:
    """Turns a green run red when a secret got out."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._began = time.time()
        self._found: list[leaks.Leak] = []
        self._searched = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Search what one test printed and logged."""
        # Each phase repeats what the phases before it captured.
        if report.when == "teardown":
            for title, text in report.sections:
                self._found += leaks.in_bytes(text.encode(), f"{report.nodeid} ({title})")

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Search what daemons wrote; the folders of parallel processes lie below the one of this process."""
        base: Path = self._config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        folders = [*base.glob("run-logs*"), *base.glob("popen-*/run-logs*")]
        for folder in (folder for folder in folders if not folder.is_symlink()):
            self._searched += sum(1 for path in folder.rglob("*") if path.is_file())
            self._found += leaks.in_folder(folder)
        dumped = [path for path in PROJECT.iterdir() if path.is_file() and leaks.is_core(path)]
        self._found += [
            leaks.Leak(str(path), 0, "a core file") for path in dumped if path.stat().st_mtime >= self._began
        ]
        if self._found and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Name the places."""
        if self._found:
            terminalreporter.section("SECRETS GOT OUT", red=True, bold=True)
            for leak in self._found:
                terminalreporter.line(str(leak), red=True)
        elif self._searched:
            terminalreporter.line(f"no secret in {self._searched} logs and pages")


class Figures:
    """Shows what tests recorded as their `figures`, whether they passed or not."""

    def __init__(self) -> None:
        self._found: list[tuple[str, str]] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take them from the report, which comes from parallel processes too."""
        if report.when == "call":
            self._found += [
                (report.nodeid, str(text)) for name, text in report.user_properties if name == "figures"
            ]

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Show them at the end."""
        if self._found:
            terminalreporter.section("figures")
        for name, text in self._found:
            terminalreporter.line(f"{name}\n{text}\n")


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Run a PostgreSQL server for the tests of this process."""
    from tests.postgres import running

    with running() as started:
        yield started


@pytest.fixture
def database(server: Server) -> Iterator[str]:
    """Make an empty database in it, for one test."""
    name = server.database()
    yield name
    server.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def moto() -> Iterator[Moto]:
    """Run moto's AWS for the tests of this process."""
    from tests.aws.moto import running

    with running() as started:
        yield started


@pytest.fixture
def aws(moto: Moto, monkeypatch: pytest.MonkeyPatch) -> Moto:
    """Have whoever looks for AWS find it there, in this process and in those that it starts."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in moto.env.items():
        monkeypatch.setenv(name, value)
    return moto


@pytest.fixture(scope="session")
def fake_cluster() -> Iterator[Fake]:
    """Run a fake Kubernetes API server for the tests of this process."""
    from tests.kube.fake import running

    with running() as started:
        yield started


@pytest.fixture(scope="session")
def real_cluster() -> Iterator[ApiServer]:
    """Run a real one."""
    from tests.kube.apiserver import running

    with running() as started:
        yield started


@pytest.fixture(
    scope="session", params=["fake", "real"] if os.environ.get("KUBEBUILDER_ASSETS") else ["fake"]
)
def cluster(request: pytest.FixtureRequest) -> Cluster:
    """Give the fake one, and the real one as well where its programs are."""
    given: Cluster = request.getfixturevalue(f"{request.param}_cluster")
    return given


@pytest.fixture
def namespace(cluster: Cluster) -> str:
    """Make a namespace in it, for one test."""
    return cluster.namespace()


class SimulationCount:
    """Says what was simulated in the whole run."""

    def __init__(self) -> None:
        self._counted: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Add up what the shares of the simulation tell."""
        if report.when == "call" and "/simulation/" in report.nodeid:
            self._counted.update({name: int(str(value)) for name, value in report.user_properties})

    def pytest_terminal_summary(self, terminalreporter: TerminalReporter) -> None:
        """Tell the sum."""
        if self._counted:
            told = ", ".join(f"{count} {name}" for name, count in self._counted.items())
            terminalreporter.line(f"simulated: {told}")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let one history of the simulation be asked for."""
    parser.addoption("--sim-seed", type=int, help="live only the simulated history of this seed")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Run only the history that was asked for."""
    if config.getoption("sim_seed") is None:
        return
    wanted = [item for item in items if "sim_seed" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = wanted


def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    """End the process in which a test on trio hangs, and show where it was; xdist begins another one.

    A failure that is raised inside trio's guest run stops that for good, and the tests behind it wait for ever.
    """
    backend = getattr(getattr(item, "callspec", None), "params", {}).get("anyio_backend", "trio")
    if not inspect.iscoroutinefunction(getattr(item, "obj", None)) or "trio" not in backend:
        return None

    def end() -> None:
        item.config.pluginmanager.getplugin("capturemanager").suspend_global_capture(in_=True)
        print(f"{item.nodeid} hangs:", file=sys.stderr, flush=True)  # noqa: T201
        faulthandler.dump_traceback(sys.stderr)
        os._exit(1)

    timer = threading.Timer(settings.timeout, end)
    timer.daemon = True
    timer.start()
    item.cancel_timeout = timer.cancel  # type: ignore[attr-defined]
    return True


def pytest_collection_finish() -> None:
    """Keep what all tests are made of out of the garbage collector's rounds: it stays until the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def sim_seed(request: pytest.FixtureRequest) -> int:
    """Give the seed that was asked for."""
    seed: int | None = request.config.getoption("sim_seed")
    return 1 if seed is None else seed


def pytest_configure(config: pytest.Config) -> None:
    """Check where the results come together, and let nothing depend on how the run was started."""
    # A shell has its background jobs ignore SIGINT, and so do all that they start, unless somebody handles it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(LeakCheck(config), "leak-check")
        config.pluginmanager.register(Figures(), "figures")
        config.pluginmanager.register(SimulationCount(), "simulation-count")
