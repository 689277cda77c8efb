"""What a daemon takes while it has nothing to do: memory, CPU, wake-ups, descriptors; and how soon it is there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import msgspec

from bench.daemon import MIB, Daemon, Idle, Sample, ended, token
from bench.figures import Figure, Picture, Section
from bench.places import PLACES, Place, folder

NOWHERE = "http://127.0.0.1:9"
"""Of the provider: no token is due, so nobody asks it."""
SETTLE = 15.0
"""Seconds after the start until it counts as idle."""
IMPORTS = (
    "import anyio, httpx2, msgspec, prometheus_client, structlog, uvicorn, watchfiles, yaml, "
    "starlette.applications"
)


class Size(msgspec.Struct, frozen=True):
    """How much is measured."""

    idle: float = 600.0
    """Seconds."""
    starts: int = 9
    plain: tuple[int, ...] = (10,)
    """Numbers of tokens, beside one, that the configuration names each."""
    members: tuple[int, ...] = (1_000, 10_000)
    """Numbers of accounts of a set."""
    settle: float = SETTLE
    kinds: tuple[str, ...] = tuple(PLACES)
    """Stores with one token."""
    growing: tuple[str, ...] = ("sqlite", "postgres")
    """Stores with more."""


TINY = Size(idle=1.0, starts=1, plain=(), members=(20,), settle=0.5, kinds=("sqlite",), growing=("sqlite",))


def plain(place: Place, within: Path, count: int = 1) -> Daemon:
    """Make a daemon with tokens that the configuration names each."""
    names = ["token", *(f"token-{number}" for number in range(1, count))]
    tokens = {name: token(within, NOWHERE, f"{name}.json") for name in names}
    return Daemon(within, store=place.store, tokens=tokens, environ=place.environ)


def many(place: Place, within: Path) -> Daemon:
    """Make a daemon with a set."""
    return Daemon(
        within,
        store=place.store,
        tokens={"people": token(within, NOWHERE, "{account}.json", for_each={})},
        environ=place.environ,
    )


def filled(daemon: Daemon, accounts: int = 0) -> Daemon:
    """Put fresh records into the daemon's store."""
    with suppress(FileNotFoundError):
        shutil.rmtree(daemon.state)
    daemon.migrate()
    command = [sys.executable, "-m", "bench.fill", str(daemon.path), str(accounts), NOWHERE]
    subprocess.run(command, check=True, env=daemon.environ)
    return daemon


class Bare:
    """The baseline's process."""

    def __init__(self, place: Place) -> None:
        """Start it, and wait until it holds everything."""
        command = [sys.executable, "-m", "bench.bare", place.kind, place.bare]
        environ = {**os.environ, **place.environ}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environ)
        self.pid = self._process.pid
        assert self._process.stdout is not None, "it was asked for"
        if not self._process.stdout.readline():
            raise RuntimeError(f"the bare program for {place.kind} did not come up")

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


class Looked(msgspec.Struct, frozen=True):
    """One process, idle."""

    sample: Sample
    idle: Idle


def idle(pids: Sequence[int], seconds: float) -> list[Looked]:
    """Look at several processes at once, twice."""
    before = [Sample.of(pid) for pid in pids]
    time.sleep(seconds)
    after = [Sample.of(pid) for pid in pids]
    return [
        Looked(now, Idle.between(pid, then, now)) for pid, then, now in zip(pids, before, after, strict=True)
    ]


@contextmanager
def crowd(within: Path, places: Sequence[Place], copies: int) -> Iterator[dict[str, list[int]]]:
    """Run several daemons and several bare programs on each place, each daemon with one token; yield their ids."""
    found: dict[str, list[int]] = {}
    with ExitStack() as stack:
        for place in places:
            daemons = [plain(place, within / f"{place.kind}{number}" / "daemon") for number in range(copies)]
            filled(daemons[0])
            stack.enter_context(ended(daemons))
            for daemon in daemons:
                daemon.start()
                daemon.until(1)
            found[place.kind] = [daemon.pid for daemon in daemons]
            for _ in range(copies):
                bare = Bare(place)
                stack.callback(bare.stop)
                found.setdefault(f"bare {place.kind}", []).append(bare.pid)
        yield found


def at_rest(size: Size, places: Sequence[Place]) -> list[Figure]:
    """Measure daemons with one token on each store, and their baselines, all side by side."""
    copies = 3 if size.starts > 1 else 1
    with folder() as within, crowd(within, places, copies) as found:
        time.sleep(size.settle)
        order = [(name, pid) for name, pids in found.items() for pid in pids]
        looks: dict[str, list[Looked]] = {}
        for (name, _), look in zip(order, idle([pid for _, pid in order], size.idle), strict=True):
            looks.setdefault(name, []).append(look)
    return [figure for place in places for figure in _at_rest(place.kind, looks)]


def _at_rest(kind: str, looks: dict[str, list[Looked]]) -> Iterator[Figure]:
    ours, bare = looks[kind], looks[f"bare {kind}"]

    def row(name: str, unit: str, pick: Any, target: str = "", *, compared: bool = True) -> Figure:
        below = tuple(pick(one) for one in bare) if compared else ()
        return Figure(
            f"{kind}: {name}",
            unit,
            tuple(pick(one) for one in ours),
            below,
            "bare program" if below else "",
            target,
        )

    memory = "≤ 1.05 of the baseline" if kind != "aws" else ""
    yield row("resident memory, one token", "MiB", lambda one: one.sample.rss / MIB, memory)
    yield row("private dirty memory, one token", "MiB", lambda one: one.sample.private / MIB)
    yield row("CPU, idle", "% of a core", lambda one: one.idle.cpu, "≤ 0.03")
    yield row("wake-ups of the event loop", "a minute", lambda one: one.idle.loop, "≤ 6")
    yield row("wake-ups of other threads", "a minute", lambda one: one.idle.others, "≤ 64")
    yield row("descriptors", "", lambda one: float(one.sample.descriptors))


def by_number(size: Size, kind: str) -> tuple[list[Figure], dict[int, float]]:
    """Measure one daemon at a time with more and more tokens; returns bytes by number as well."""
    private: dict[int, float] = {}
    figures = []
    for count in (1, *size.plain, *size.members):
        with PLACES[kind]() as one, folder() as within:
            of_set = count in size.members
            daemon = many(one, within / "daemon") if of_set else plain(one, within / "daemon", count)
            filled(daemon, count if of_set else 0)
            with ended([daemon]):
                began = time.monotonic()
                daemon.start()
                daemon.until(count)
                started = time.monotonic() - began
                time.sleep(size.settle)
                [look] = idle([daemon.pid], min(size.idle, 130.0))
        private[count] = look.sample.private
        name = f"{kind}: {count:,} {'accounts of a set' if of_set else 'tokens' if count > 1 else 'token'}"
        figures += [
            Figure(f"{name}: resident", "MiB", (look.sample.rss / MIB,)),
            Figure(f"{name}: idle CPU", "% of a core", (look.idle.cpu,)),
            Figure(f"{name}: exec to all files", "s", (started,)),
        ]
    largest = max(private)
    each = (private[largest] - private[1]) / (largest - 1) / 1024
    figures.append(Figure(f"{kind}: private memory per further token", "KiB", (each,), target="≤ 4"))
    return figures, private


def exec_to_file(size: Size, place: Place) -> Figure:
    """Time from exec to the token's file, with a record that is fresh, and beside it the imports alone."""
    ours, bare = [], []
    with folder() as within:
        daemon = filled(plain(place, within / "daemon"))
        for _ in range(size.starts + 1):
            for file in daemon.out.iterdir():
                file.unlink()
            began = time.monotonic()
            with ended([daemon]):
                daemon.start()
                daemon.wait_for(lambda: daemon.files() > 0, "file", step=0.0005)
                ours.append(time.monotonic() - began)
            began = time.monotonic()
            subprocess.run([sys.executable, "-c", IMPORTS], check=True)
            bare.append(time.monotonic() - began)
    # The first run of each writes bytecode, perhaps.
    return Figure(
        f"{place.kind}: exec → token file there",
        "s",
        tuple(ours[1:]),
        tuple(bare[1:]),
        "importing the libraries",
        "≤ 1.3 of the baseline",
    )


def wheels(requirements: Path) -> Figure:
    """Weigh what is installed for one set of requirements."""
    names = [
        line.split("==")[0] for line in requirements.read_text(encoding="utf-8").splitlines() if "==" in line
    ]
    total = 0
    for name in names:
        with suppress(ModuleNotFoundError):  # of another platform
            found = distribution(name)
            total += sum(file.size or 0 for file in found.files or [])
    return Figure(f"wheels of requirements/{requirements.name}", "MiB", (total / MIB,))


def peer() -> list[Figure]:
    """Measure oidc-agent, where Debian's package is installed."""
    program = shutil.which("oidc-agent")
    if program is None:
        return []
    with folder() as within:
        environ = {**os.environ, "HOME": str(within), "TMPDIR": str(within)}
        told = subprocess.run([program], capture_output=True, text=True, check=True, env=environ)
        pid = int(told.stdout.split("OIDCD_PID=")[1].split(";")[0])
        try:
            time.sleep(1)
            pids = [pid, *_children(pid)]
            rss = sum(Sample.of(one).rss for one in pids)
        finally:
            subprocess.run(["/bin/kill", str(pid)], check=False)
    return [Figure("oidc-agent (Debian's), idle: resident", "MiB", (rss / MIB,))]


def _children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return [int(one) for one in found]


METHOD = """\
Resident and private dirty memory are the kernel's (`smaps_rollup`). Idle CPU and wake-ups are taken over ten minutes,
of all these processes side by side: CPU from `/proc/PID/stat`, wake-ups as voluntary context switches of the first
thread (the event loop) and of all others. The bare program (`bench/bare.py`) imports the same libraries and holds the
same client, server, watcher and store open; its ratio is what our own code costs. Three processes of each. With more
tokens, one daemon is measured at a time, in 130 seconds; of 1,000 on, they are accounts of a set. Records are fresh and
have 32 turns of history each."""


def measure(size: Size, root: Path) -> Section:
    """Measure all of it."""
    with ExitStack() as stack:
        places = [stack.enter_context(PLACES[kind]()) for kind in size.kinds]
        figures = at_rest(size, places)
    private = {}
    for kind in size.growing:
        more, private[kind] = by_number(size, kind)
        figures += more
    with PLACES["sqlite"]() as place:
        figures.append(exec_to_file(size, place))
    figures += [wheels(root / "requirements" / f"{name}.txt") for name in ("run", "all")]
    figures += peer()
    lines = {
        kind: tuple((float(count), taken / MIB) for count, taken in points.items())
        for kind, points in private.items()
    }
    picture = Picture("memory", "Memory of an idle daemon", "private dirty MiB", lines)
    return Section("Footprint", METHOD, tuple(figures), (picture,))
