"""What many tokens cost: real daemons that divide one set in a real PostgreSQL, at a provider that only answers.

    python -m bench.scale --tokens 1 20000 --daemons 1 2 4 --life 720 --seconds 60

makes a run for each pair of numbers, and prints what it took. Tokens that live 12 minutes are refreshed as often as
five times as many that live an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from bench.provider import Behaviour, Report, minted
from sidecar.tokens import AccessToken, OutcomeClass, Record, RefreshToken, Turn, encode_record
from tests.postgres import Server, running

PREFIX = "bench/people/"
MIB = 1 << 20
PATIENCE = 1800.0
"""Seconds until a start is given up."""
COLUMNS = ("key", "version", "blob", "lease_until", "due_at")
SERVER = (
    "shared_buffers=256MB",
    "max_wal_size=4GB",
    "autovacuum_naptime=15s",
    "log_autovacuum_min_duration=0",
)


class Plan(msgspec.Struct, frozen=True):
    """One run."""

    tokens: int
    daemons: int
    life: float = 720.0
    """Of an access token, in seconds."""
    seconds: float = 60.0
    """For so long it is measured."""
    history: int = 32
    """Entries that each record has: those of a token that was refreshed for long."""
    settings: dict[str, Any] = {}
    """Further members of the set's configuration."""


class Cost(msgspec.Struct, frozen=True):
    """What one process took in the time that was measured."""

    cpu: float
    """Seconds."""
    rss: int
    private: int
    """Bytes; private and dirty."""


class DaemonCost(msgspec.Struct, frozen=True):
    """What one daemon took."""

    cost: Cost
    start: float
    """Seconds from its start until every token's file was there."""
    start_cpu: float
    pages: dict[str, float]
    """Seconds until an HTTP page was there."""


class Result(msgspec.Struct, frozen=True):
    """What came of a run."""

    plan: Plan
    daemons: list[DaemonCost]
    database: float
    """CPU seconds of the whole PostgreSQL."""
    report: Report
    transactions: int
    """Each statement is one."""
    updates: int
    hot: int
    """Updates that touched no index."""

    @property
    def refreshes(self) -> int:
        """How many there were."""
        return len(self.report.lateness)


# The table


def record_of(account: int, plan: Plan, due: float) -> tuple[Record, float]:
    """Make the record of an account whose token is due about then."""
    issued = due - (minted(account, 0, 0.0, plan.life).due)
    made = minted(account, 0, issued, plan.life)
    turn = Turn(issued, OutcomeClass.SUCCESS, "a new access token and a new refresh token", 1, 0.123)
    record = Record(
        lineage=f"{account:032x}",
        generation=1,
        access=AccessToken(made.access, issued, issued + plan.life, plan.life),
        refresh=RefreshToken(made.refresh, issued, None, issued),
        client_id="bench",
        endpoint="",
        seeds=(f"{account:012x}",),
        replaced=tuple(f"{account:06x}{number:06x}" for number in range(plan.history)),
        rotates=True,
        history=(turn,) * plan.history,
    )
    return record, made.due


async def fill(server: Server, database: str, plan: Plan, endpoint: str, first: float) -> None:
    """Put all records there at once, due evenly from `first` (Unix seconds) on."""
    span = minted(0, 0, 0.0, plan.life).due
    rows = []
    for account in range(plan.tokens):
        key = f"{PREFIX}user-{account:08d}@example.com"
        record, due = record_of(account, plan, first + span * account / plan.tokens)
        record = msgspec.structs.replace(record, endpoint=endpoint)
        rows.append((key, secrets.token_hex(8), encode_record(record, key), None, due))
    connection = await server.connect(database)
    await connection.execute(
        "CREATE TEMP TABLE made (key text, version text, blob bytea, lease text, due float8)"
    )
    await connection.copy_records_to_table("made", records=rows)
    await connection.execute(
        "INSERT INTO token_sidecar_records (key, version, blob, due_at) "
        "SELECT key, version, blob, to_timestamp(due) FROM made ORDER BY md5(key)"
    )
    await connection.execute("DROP TABLE made")
    await connection.execute("VACUUM ANALYZE token_sidecar_records")
    await connection.close()


# Processes


class Process(msgspec.Struct, frozen=True):
    """A process, as /proc shows it."""

    pid: int

    @property
    def cpu(self) -> float:
        """CPU seconds that it has taken, those of its children that ended included."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return sum(int(field) for field in fields[11:15]) / os.sysconf("SC_CLK_TCK")

    def cost(self, since: float) -> Cost:
        """Tell what it takes; `since`: CPU seconds that it had taken before."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        kib = {line.split(":")[0]: int(line.split()[1]) for line in rollup[1:]}
        return Cost(self.cpu - since, kib["Rss"] * 1024, kib["Private_Dirty"] * 1024)


def family(pid: int) -> list[Process]:
    """Find a process and its children."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for thread in threads for child in thread.read_text(encoding="ascii").split()]
    return [Process(pid), *map(Process, children)]


class Daemon:
    """One real daemon with directories of its own."""

    def __init__(self, folder: Path, plan: Plan, server: Server, database: str, provider: int) -> None:
        """Write its configuration; it does not run yet."""
        folder.mkdir()
        self.folder = folder
        self.state = folder / "state"
        self.out = folder / "out"
        self.out.mkdir()
        (folder / "secret").write_text("sim-cs-0123456789abcdef", encoding="ascii")
        people = {
            "for_each": {},
            "provider": {"token_url": f"http://127.0.0.1:{provider}/token", "rotation": "always"},
            "client": {"id": "bench", "secret_file": str(folder / "secret")},
            "outputs": [{"file": str(self.out / "{account}.json")}],
            **plan.settings,
        }
        self.config = {
            "namespace": "bench",
            "state_dir": str(self.state),
            "store": server.url(database),
            "server": {"port": 0},
            "log": {"level": "warning", "format": "json"},
            "tokens": {"people": people},
        }
        self.path = folder / "config.yaml"
        self.path.write_text(json.dumps(self.config), encoding="utf-8")
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Process:
        """Start it."""
        profiling = os.environ.get("BENCH_PROFILE")
        command = [sys.executable, "-m", *(profiling.split() if profiling else ()), "sidecar"]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "run", "--config", str(self.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return Process(self.process.pid)

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
            self.process = None

    def files(self) -> int:
        """Count the files that applications would read."""
        with os.scandir(self.out) as found:
            return sum(not one.name.startswith(".") for one in found)

    def page(self, path: str) -> float:
        """Get an HTTP page; returns the seconds that it took."""
        address = json.loads((self.state / "http.json").read_text(encoding="utf-8"))["url"]
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=120)
        began = time.monotonic()
        connection.request("GET", path)
        connection.getresponse().read()
        connection.close()
        return time.monotonic() - began


class Endpoint:
    """The provider's process."""

    def __init__(self, life: float) -> None:
        """Start it."""
        command = [sys.executable, "-m", "bench.provider", str(life)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def _ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body)
        answer = connection.getresponse().read()
        connection.close()
        return answer

    def report(self) -> Report:
        """Get what was counted since the last time."""
        return msgspec.json.decode(self._ask("GET", "/report"), type=Report)

    def behave(self, behaviour: Behaviour) -> None:
        """Change how it answers."""
        self._ask("POST", "/behave", msgspec.json.encode(behaviour))


@contextmanager
def providing(life: float) -> Iterator[Endpoint]:
    """Run a provider for the length of the block."""
    endpoint = Endpoint(life)
    try:
        yield endpoint
    finally:
        endpoint.process.terminate()
        endpoint.process.wait()


@contextmanager
def stage(plan: Plan, server: Server) -> Iterator[tuple[list[Daemon], Endpoint, str]]:
    """Fill a database and make the daemons, none of which runs yet; they end with the block."""
    with ExitStack() as stack:
        endpoint = stack.enter_context(providing(plan.life))
        # On tmpfs where there is one: what a disk takes isn't what is measured.
        place = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 - a directory of its own is made there
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-", dir=place)))
        database = server.database()
        daemons = [
            Daemon(folder / f"{number}", plan, server, database, endpoint.port)
            for number in range(plan.daemons)
        ]
        lay_out(daemons[0])
        lead = 2 + plan.tokens * plan.daemons / 1500
        asyncio.run(fill(server, database, plan, f"http://127.0.0.1:{endpoint.port}", time.time() + lead))
        for daemon in daemons:
            stack.callback(daemon.stop)
        yield daemons, endpoint, database


def lay_out(daemon: Daemon) -> None:
    """Make the tables."""
    command = [sys.executable, "-m", "sidecar", "store", "migrate", "--config", str(daemon.path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def started(daemons: Sequence[Daemon], plan: Plan) -> list[tuple[Process, float, float]]:
    """Start all daemons; returns each one's process, and the seconds and CPU seconds until all files were there."""
    began = time.monotonic()
    processes = [daemon.start() for daemon in daemons]
    done: dict[int, tuple[float, float]] = {}
    while len(done) < len(daemons):
        if time.monotonic() - began > PATIENCE:
            raise TimeoutError(f"after {PATIENCE:g} s files are missing: {[one.files() for one in daemons]}")
        for number, daemon in enumerate(daemons):
            if number not in done and daemon.files() >= plan.tokens:
                done[number] = time.monotonic() - began, processes[number].cpu
        time.sleep(0.02 + plan.tokens / 200_000)
    return [(process, *done[number]) for number, process in enumerate(processes)]


def statistics_of(server: Server, database: str) -> tuple[int, int, int]:
    """Count transactions, updates, and updates that touched no index, so far."""
    statement = (
        "SELECT xact_commit + xact_rollback AS done, n_tup_upd AS updated, n_tup_hot_upd AS hot "
        "FROM pg_stat_database, pg_stat_user_tables "
        "WHERE datname = current_database() AND relname = 'token_sidecar_records'"
    )
    [row] = server.sql(statement, database=database)
    return row["done"], row["updated"], row["hot"]


def measured(plan: Plan, server: Server) -> Result:
    """Make one run."""
    with stage(plan, server) as (daemons, endpoint, database):
        running_ones = started(daemons, plan)
        time.sleep(5)
        postmaster = int((server.data / "postmaster.pid").read_text(encoding="ascii").splitlines()[0])
        endpoint.report()
        before = [process.cpu for process, _, _ in running_ones]
        database_before = sum(one.cpu for one in family(postmaster))
        counted_before = statistics_of(server, database)
        time.sleep(plan.seconds)
        report = endpoint.report()
        costs = [process.cost(since) for (process, _, _), since in zip(running_ones, before, strict=True)]
        database_cost = sum(one.cpu for one in family(postmaster)) - database_before
        counted = statistics_of(server, database)
        pages = [
            {path: daemon.page(path) for path in ("/readyz", "/metrics", "/status")} for daemon in daemons
        ]
        return Result(
            plan,
            [
                DaemonCost(cost, start, start_cpu, page)
                for cost, (_, start, start_cpu), page in zip(costs, running_ones, pages, strict=True)
            ],
            database_cost,
            report,
            *(now - then for now, then in zip(counted, counted_before, strict=True)),
        )


# What is told


def spread(values: Sequence[float], form: str = "{:.2f}") -> str:
    """Write min / median / max."""
    shown = (min(values), statistics.median(values), max(values)) if values else ()
    return " / ".join(form.format(value) for value in shown) or "none"


def quantile(values: Sequence[float], share: float) -> float:
    """Return what so great a share of the values doesn't exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def told(result: Result, alone: Result | None = None) -> str:
    """Tell of a run, in lines; `alone`: the run with one token, from which memory per further token follows."""
    plan, report, count = result.plan, result.report, max(1, result.refreshes)
    costs = [one.cost for one in result.daemons]
    lines = [
        f"{plan.tokens} tokens of {plan.life:g} s, {plan.daemons} daemons, {plan.seconds:g} s",
        f"  refreshes       {result.refreshes} ({result.refreshes / plan.seconds:.1f}/s), "
        f"reused {report.reused}, refused {report.refused}",
        "  lateness s      "
        + ", ".join(
            f"p{100 * share:g} {quantile(report.lateness, share):.2f}" for share in (0.5, 0.99, 0.999, 1)
        ),
        f"  cpu %           daemon {spread([100 * cost.cpu / plan.seconds for cost in costs], '{:.1f}')}, "
        f"all {100 * sum(cost.cpu for cost in costs) / plan.seconds:.1f}, "
        f"database {100 * result.database / plan.seconds:.1f}",
        f"  rss MiB         {spread([cost.rss / MIB for cost in costs], '{:.1f}')}, "
        f"private dirty {spread([cost.private / MIB for cost in costs], '{:.1f}')}",
        f"  start s         {spread([one.start for one in result.daemons])}, "
        f"cpu {spread([one.start_cpu for one in result.daemons])}",
        f"  statements      {result.transactions} ({result.transactions / count:.2f} a refresh), "
        f"updates {result.updates}, of which hot {result.hot}",
        "  pages s         "
        + ", ".join(
            f"{path} {spread([one.pages[path] for one in result.daemons])}"
            for path in result.daemons[0].pages
        ),
    ]
    if alone is not None and plan.tokens > 1:
        base = statistics.median(one.cost.private for one in alone.daemons)
        each = [(cost.private - base) / (plan.tokens - 1) for cost in costs]
        lines.append(f"  bytes a token   {spread(each, '{:.0f}')}")
    return "\n".join(lines)


def main() -> None:
    """Make the runs that the arguments ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[1, 1000])
    parser.add_argument("--daemons", type=int, nargs="+", default=[1])
    parser.add_argument("--life", type=float, default=720.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--history", type=int, default=32)
    given = parser.parse_args()
    alone: dict[int, Result] = {}
    with running(*SERVER) as server:
        for daemons in given.daemons:
            for tokens in given.tokens:
                result = measured(Plan(tokens, daemons, given.life, given.seconds, given.history), server)
                alone = alone | ({daemons: result} if tokens == 1 else {})
                print(told(result, alone.get(daemons)), flush=True)


if __name__ == "__main__":
    main()
