"""A pod without a cluster: the image's root, read-only, with volumes as kubelet makes them, in namespaces of its own.

What the runtime does is done by hand, with util-linux: mounts, a chroot, a process 1, a user that the image doesn't
know, `exec`. It takes root's powers; where they are missing, these tests are skipped.
"""

from __future__ import annotations

import ctypes
import fcntl
import http.client
import itertools
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib.metadata import Distribution, distribution
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sidecar.server.client import ControlClient
from sidecar.testing import ProviderConfig, Simulator
from tests.e2e.conftest import PATIENCE, Reply, wait_until

PROJECT = Path(__file__).parents[2]
VENV = Path("/opt/token-sidecar")
MEMORY = Path("/dev/shm")  # noqa: S108 - the volumes are memory, as a pod's are
CLONE_NEWNET = 0x40000000
LONG = pytest.mark.timeout(180)
"""For each module: the image is assembled within the first test that wants it."""
NUMBERS = itertools.count(1)

MakePod = Callable[..., "Pod"]
MakeSimulator = Callable[..., Simulator]
Finished = subprocess.CompletedProcess[str]


class User(NamedTuple):
    """Who a container runs as."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


NONROOT = User(65532, 65532)


def why_not() -> str:
    """Say what keeps a pod from being set up here; empty: nothing does."""
    if sys.platform != "linux" or not all(map(shutil.which, ("unshare", "nsenter", "setpriv", "ldd", "ip"))):
        return "util-linux or iproute2 is missing"
    if not MEMORY.is_dir():
        return f"there is no {MEMORY}"
    everything = ("unshare", "--mount", "--pid", "--net", "--fork", "--kill-child")
    trial = subprocess.run(
        [*everything, "mount", "--make-rprivate", "/"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"no namespaces for this user: {trial.stderr.strip()}" if trial.returncode else ""


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Assemble the image's root as the Dockerfile does, from the packages that are installed here; once a run."""
    if reason := why_not():
        pytest.skip(reason)
    base = tmp_path_factory.getbasetemp()
    folder = base if worker_id == "master" else base.parent
    with (folder / "image.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "image").exists():
            assemble(folder / "image.new")
            (folder / "image.new" / "rootfs").rename(folder / "image")
    return folder / "image"


def assemble(folder: Path) -> None:
    """Make the virtual environment, and run the Dockerfile's own script on it."""
    venv = folder / VENV.relative_to("/")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    packages = venv / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    for one in {found.name: found for found in needed("token-sidecar")}.values():
        for file in one.files or ():
            source, target = Path(str(one.locate_file(file))), packages / file
            if ".." not in file.parts and source.suffix != ".pyc":
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)
    shutil.copytree(PROJECT / "sidecar", packages / "sidecar", ignore=shutil.ignore_patterns("__pycache__"))
    # The path that it has in the image is the one that it is assembled under.
    run_in(folder, [sys.executable, str(PROJECT / "image" / "root.py"), str(VENV), str(folder / "rootfs")])
    command = folder / "rootfs" / VENV.relative_to("/") / "bin" / "token-sidecar"
    command.write_text(f"#!{VENV}/bin/python\nfrom sidecar.__main__ import main\nmain()\n", encoding="ascii")
    command.chmod(0o755)


def run_in(folder: Path, command: Sequence[str]) -> None:
    """Run a command for which the virtual environment below `folder` lies at its final path."""
    script = f'mount -t tmpfs tmpfs /opt && mkdir {VENV} && mount --bind "$0" {VENV} && exec "$@"'
    venv = folder / VENV.relative_to("/")
    private = ("unshare", "--mount", "--propagation=private")
    subprocess.run([*private, "sh", "-c", script, str(venv), *command], check=True)


def needed(name: str, extra: str = "") -> Iterator[Distribution]:
    """Go through what a distribution requires to run, and what that requires."""
    from packaging.requirements import Requirement

    found = distribution(name)
    yield found
    for text in found.requires or ():
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            for wanted in requirement.extras or {""}:
                yield from needed(requirement.name, wanted)


class Mount(NamedTuple):
    """A volume in a container."""

    source: Path
    target: str
    read_only: bool = False


class Container:
    """One start of a container: its process 1, and what happens to it."""

    def __init__(
        self,
        image: Path,
        mounts: Iterable[Mount],
        user: User,
        command: Sequence[str],
        *,
        log: Path,
        net: str | Container | None = None,
    ) -> None:
        """Start it. `net`: shell commands that set up its own network, or whose it shares; None: ours."""
        self.user = user
        self._log = log
        root = shlex.quote(str(image))
        steps = ["set -e", f"mount --bind {root} {root}"]
        if isinstance(net, str):
            steps += ["ip link set lo up", net]
        steps += [
            f"mount -t tmpfs -o mode=755 tmpfs {root}/dev",
            *(f"mknod -m 666 {root}/dev/{name} c 1 {minor}" for name, minor in (("null", 3), ("urandom", 9))),
            f"mount -t proc proc {root}/proc",
        ]
        for mount in mounts:
            source, target = shlex.quote(str(mount.source)), root + mount.target
            make = "mkdir -p" if mount.source.is_dir() else "touch"
            steps.append(f"test -e {target} || {make} {target}")
            steps.append(f"mount --bind {source} {target}")
            if mount.read_only:
                steps.append(f"mount -o remount,bind,ro {target}")
        groups = ",".join(map(str, (user.gid, *user.groups)))
        steps += [
            f"mount -o remount,bind,ro {root}",
            f'exec setpriv --no-new-privs chroot --userspec={user.uid}:{user.gid} --groups={groups} {root} "$@"',
        ]
        namespaces = ["unshare", "--mount", "--pid", "--fork"]
        if isinstance(net, str):
            namespaces.append("--net")
        elif net is not None:
            namespaces = ["nsenter", f"--net=/proc/{net.pid}/ns/net", *namespaces]
        with log.open("wb") as out:
            self._outer = subprocess.Popen(
                [*namespaces, "sh", "-c", "\n".join(steps), "sh", *command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env={
                    "PATH": f"{VENV}/bin:{os.environ['PATH']}",
                    "PYTHONDONTWRITEBYTECODE": "1",
                    "PYTHONUNBUFFERED": "1",
                },
            )

    @property
    def pid(self) -> int:
        """Its process 1, as numbered outside."""
        outer = self._outer.pid
        wait_until(lambda: _children(outer) or self.ended, what="there is a process")
        found = _children(outer)
        assert found, self.text()
        return found[0]

    @property
    def ended(self) -> bool:
        """Tell whether it is over."""
        return self._outer.poll() is not None

    def text(self) -> str:
        """Return what it wrote."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def stop(self, signum: signal.Signals = signal.SIGTERM) -> int:
        """Signal process 1, and return its exit code."""
        os.kill(self.pid, signum)
        return self.wait()

    def wait(self) -> int:
        """Wait for its end; returns the exit code."""
        try:
            return self._outer.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"it did not end:\n{self.text()}") from None

    def exec(self, *command: str, user: User | None = None) -> Finished:
        """Run a command inside, as an exec probe does."""
        who = user or self.user
        target = str(self.pid)
        return subprocess.run(
            [
                *(
                    str(shutil.which("nsenter")),
                    "--target",
                    target,
                    "--mount",
                    "--pid",
                    "--net",
                    f"--root=/proc/{target}/root",
                ),
                *(f"--wd=/proc/{target}/root", f"--setuid={who.uid}", f"--setgid={who.gid}"),
                *command,
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
            env={"PATH": f"{VENV}/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        )

    def get(self, host: str, path: str, *, port: int = 9640) -> Reply:
        """Ask over HTTP from within its network, as kubelet asks the pod's address."""

        def ask() -> Reply:
            with open(f"/proc/{self.pid}/ns/net", encoding="ascii") as network:  # noqa: PTH123
                # Of this thread alone, which ends.
                assert ctypes.CDLL(None).setns(network.fileno(), CLONE_NEWNET) == 0
            connection = http.client.HTTPConnection(host, port, timeout=PATIENCE)
            try:
                connection.request("GET", path)
                answer = connection.getresponse()
                return Reply(answer.status, answer.read().decode())
            finally:
                connection.close()

        with ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(ask).result()

    def children(self) -> list[int]:
        """List the processes that process 1 is the parent of, dead ones among them."""
        return _children(self.pid)

    def close(self) -> None:
        """End whatever is left."""
        if not self.ended:
            # Process 1 itself: what unshare's --kill-child asks for is forgotten when a process changes its user.
            for pid in (*_children(self._outer.pid), self._outer.pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._outer.wait()


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return []
    return [int(word) for word in text.split()]


class Pod:
    """Volumes that outlive containers, and the containers on them, one after another."""

    def __init__(self, image: Path, home: Path, logs: Path, *, fs_group: int | None = None) -> None:
        """Make the volumes: what kubelet does to an emptyDir, with `fsGroup` and without."""
        self.image = image
        self.home = home
        self.tokens, self.state, self.store = home / "tokens", home / "state", home / "store"
        self.settings = home / "settings"
        self.termination = home / "termination-log"
        self._logs = logs
        self._containers: list[Container] = []
        for volume in (self.tokens, self.state, self.store):
            volume.mkdir()
            volume.chmod(0o777)
            if fs_group is not None:
                os.chown(volume, -1, fs_group)
                volume.chmod(0o2777)
        (self.settings / "..1").mkdir(parents=True)
        (self.settings / "..data").symlink_to("..1")
        self.config: dict[str, Any] = {
            "state_dir": "/run/token-sidecar",
            "allow_volatile_store": True,
            "server": {"host": "::", "port": 0},
            "log": {"level": "debug", "format": "json"},
            "tokens": {},
        }

    def add(self, simulator: Simulator, name: str = "gmail", /, **settings: Any) -> str:
        """Configure a token; returns the refresh token that its seed has."""
        seed = simulator.provider.new_grant()
        self._put(f"{name}.seed", json.dumps({"refresh_token": seed}))
        self._put(f"{name}.secret", simulator.provider.config.client_secret or "")
        self.config["tokens"][name] = {
            "provider": {"token_url": simulator.token_url, "rotation": "always"},
            "client": {
                "id": simulator.provider.config.client_id,
                "secret_file": f"/etc/token-sidecar/{name}.secret",
            },
            "seed": f"/etc/token-sidecar/{name}.seed",
            "outputs": [{"file": f"/run/tokens/{name}.json", "format": "gmail-sdk"}],
            **settings,
        }
        return seed

    def add_unreachable(self) -> None:
        """Configure a token whose provider can't be reached: what its probes say doesn't matter."""
        self.config["tokens"]["gmail"] = {
            "provider": {"token_url": "http://127.0.0.1:1/token", "rotation": "never"},
            "client": {"id": "c", "auth_method": "none"},
            "outputs": [{"file": "/run/tokens/gmail.json"}],
        }

    def _put(self, name: str, text: str) -> None:
        # As ConfigMaps and Secrets are mounted: links, so that all of them can change at once.
        file, link = self.settings / "..1" / name, self.settings / name
        file.write_text(text, encoding="utf-8")
        file.chmod(0o644)
        if not link.is_symlink():
            link.symlink_to(f"..data/{name}")

    def start(
        self,
        user: User = NONROOT,
        command: Sequence[str] = ("token-sidecar", "run"),
        *,
        net: str | Container | None = None,
    ) -> Container:
        """Start the sidecar's container, with an empty termination message."""
        self._put("config.yaml", json.dumps(self.config))
        self.termination.write_bytes(b"")
        self.termination.chmod(0o666)
        (self.state / "http.json").unlink(missing_ok=True)
        mounts = [
            Mount(self.tokens, "/run/tokens"),
            Mount(self.state, "/run/token-sidecar"),
            Mount(self.store, "/run/store"),
            Mount(self.settings, "/etc/token-sidecar", read_only=True),
            Mount(self.termination, "/dev/termination-log"),
        ]
        return self._run(mounts, user, command, net=net)

    def run_app(self, user: User, script: str, *mounts: Mount) -> Any:
        """Run a Python script as the application, in a container of its own; returns what it printed, as JSON."""
        container = self._run(mounts, user, (f"{VENV}/bin/python", "-c", script))
        assert container.wait() == 0, container.text()
        return json.loads(container.text())

    def _run(self, mounts: Sequence[Mount], user: User, command: Sequence[str], **more: Any) -> Container:
        log = self._logs / f"pod-{os.getpid()}-{next(NUMBERS)}.log"
        container = Container(self.image, mounts, user, command, log=log, **more)
        self._containers.append(container)
        return container

    def get(self, path: str) -> Reply:
        """Ask a container that shares our network."""
        address = json.loads((self.state / "http.json").read_text(encoding="utf-8"))
        port = int(address["url"].rpartition(":")[2])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return Reply(answer.status, answer.read().decode())
        finally:
            connection.close()

    def answers(self, path: str, status: int = 200) -> bool:
        """Tell whether it answers with this status now."""
        with suppress(OSError, ValueError):
            return self.get(path).status == status
        return False

    def wait_until(self, container: Container, condition: Callable[[], object], what: str) -> None:
        """Wait for something while the container runs."""
        wait_until(lambda: container.ended or condition(), what=f"{what}\n{container.text()}")
        assert condition(), f"it ended before {what}:\n{container.text()}"

    def share(self, first: Pod) -> None:
        """Be another pod of the same workload: with its configuration, its Secrets and its store."""
        self.config, self.settings, self.store = first.config, first.settings, first.store

    def metric(self, name: str, **labels: str) -> float:
        """Return one sample of the metrics page."""
        families = text_string_to_metric_families(self.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples]
        name = f"token_sidecar_{name}"
        return next(
            each.value for each in samples if each.name == name and labels.items() <= each.labels.items()
        )

    def state_of(self, name: str = "gmail") -> str:
        """Return a token's grant state."""
        return str(json.loads(self.get("/status").text)["tokens"][name]["grant_state"])

    @property
    def control(self) -> ControlClient:
        """The commands' way in."""
        return ControlClient(self.state / "control.sock", timeout=PATIENCE)

    def close(self) -> None:
        """End what runs."""
        for container in self._containers:
            container.close()


@pytest.fixture(scope="module")
def make_pod(image: Path, run_logs: Path) -> Iterator[MakePod]:
    """Make pods; whatever runs in them at the end is killed."""
    with tempfile.TemporaryDirectory(prefix="sidecar-", dir=MEMORY) as folder:
        Path(folder).chmod(0o755)
        made: list[Pod] = []

        def make(**options: Any) -> Pod:
            home = Path(folder, str(len(made)))
            home.mkdir(mode=0o755)
            made.append(Pod(image, home, run_logs, **options))
            return made[-1]

        yield make
        for pod in made:
            pod.close()


@pytest.fixture(scope="module")
def make_simulator() -> Iterator[MakeSimulator]:
    """Start providers; the members of `ProviderConfig` are the arguments."""
    made: list[Simulator] = []

    def make(**config: Any) -> Simulator:
        made.append(Simulator(ProviderConfig(**config)))
        made[-1].start()
        return made[-1]

    yield make
    for simulator in made:
        simulator.stop()
