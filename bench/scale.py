"""What many tokens cost: real daemons that divide one set in a real PostgreSQL, at a provider that only answers.

    python -m bench.scale --tokens 20000 --daemons 1 2 4 --life 720 --seconds 60

measures each pair of numbers by itself. Tokens that live 12 minutes are refreshed as often as five times as many that
live an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from bench.daemon import MIB, TICKS, Daemon, Sample, ended, token
from bench.figures import Figure, Picture, Section, quantile, table
from bench.places import folder
from bench.provider import Behaviour, Report, minted
from sidecar.tokens import AccessToken, OutcomeClass, Record, RefreshToken, Turn, encode_record
from tests.postgres import Server, running

PREFIX = "bench/people/"
SERVER = (
    "shared_buffers=256MB",
    "max_wal_size=4GB",
    "autovacuum_naptime=15s",
    "log_autovacuum_min_duration=0",
)


class Plan(msgspec.Struct, frozen=True):
    """One run."""

    tokens: int
    daemons: int = 1
    life: float = 720.0
    """Of an access token, in seconds."""
    seconds: float = 60.0
    """For so long it is measured."""
    history: int = 32
    """Entries that each record has: those of a token that was refreshed for long."""
    burst: bool = False
    """Whether all are due at once, before any daemon runs."""
    settings: dict[str, Any] = {}
    """Further members of the set's configuration."""


class Size(msgspec.Struct, frozen=True):
    """How much is measured."""

    steady: tuple[Plan, ...] = tuple(Plan(20_000, daemons) for daemons in (1, 2, 4))
    growth: tuple[int, ...] = (1_000, 5_000)
    """Numbers of tokens beside those, for the picture."""
    burst: int = 10_000
    """Tokens that are due at once."""


TINY = Size(steady=(Plan(20, 2, life=12.0, seconds=4.0),), growth=(), burst=30)


class Result(msgspec.Struct, frozen=True):
    """What came of a run."""

    plan: Plan
    samples: list[Sample]
    """At the end, of each daemon."""
    cpu: list[float]
    """Seconds that each daemon took in the time that was measured."""
    start: list[float]
    """Seconds from each daemon's start until every token's file was there."""
    database: float
    """CPU seconds of the whole PostgreSQL."""
    pages: dict[str, float]
    """Seconds until an HTTP page was there."""
    report: Report
    transactions: int
    """Each statement is one."""
    updates: int
    hot: int
    """Updates that touched no index."""


def record_of(account: int, plan: Plan, endpoint: str, due: float) -> tuple[Record, float]:
    """Make the record of an account whose token is due about then; returns when it is."""
    issued = due - (minted(account, 0, 0.0, plan.life).due)
    made = minted(account, 0, issued, plan.life)
    turn = Turn(issued, OutcomeClass.SUCCESS, "a new access token and a new refresh token", 1, 0.123)
    record = Record(
        lineage=f"{account:032x}",
        generation=1,
        access=AccessToken(made.access, issued, issued + plan.life, plan.life),
        refresh=RefreshToken(made.refresh, issued, None, issued),
        client_id="bench",
        endpoint=endpoint,
        seeds=(f"{account:012x}",),
        replaced=tuple(f"{account:06x}{number:06x}" for number in range(plan.history)),
        rotates=True,
        history=(turn,) * plan.history,
    )
    return record, made.due


async def fill(server: Server, database: str, plan: Plan, endpoint: str, first: float) -> None:
    """Put all records there at once, due evenly from `first` (Unix seconds) on; or all of them then."""
    span = 0.0 if plan.burst else minted(0, 0, 0.0, plan.life).due
    rows = []
    for account in range(plan.tokens):
        key = f"{PREFIX}user-{account:08d}@example.com"
        record, due = record_of(account, plan, endpoint, first + span * account / plan.tokens)
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


class Endpoint:
    """The provider's process."""

    def __init__(self, life: float) -> None:
        """Start it."""
        command = [sys.executable, "-m", "bench.provider", str(life)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def _ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        connection = http.client.HTTPConnection(self.url.removeprefix("http://"), timeout=60)
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
    with providing(plan.life) as endpoint, folder() as within, ExitStack() as stack:
        database = server.database()
        daemons = []
        for number in range(plan.daemons):
            own = within / str(number)
            people = token(own, endpoint.url, "{account}.json", for_each={}, **plan.settings)
            daemons.append(Daemon(own, store=server.url(database), tokens={"people": people}))
        daemons[0].migrate()
        lead = 0.0 if plan.burst else 2 + plan.tokens * plan.daemons / 1500
        asyncio.run(fill(server, database, plan, endpoint.url, time.time() + lead))
        stack.enter_context(ended(daemons))
        yield daemons, endpoint, database


def started(daemons: Sequence[Daemon], plan: Plan) -> list[float]:
    """Start all daemons; returns for each the seconds until all files were there."""
    began = time.monotonic()
    for daemon in daemons:
        daemon.start()
    seconds = []
    for daemon in daemons:
        daemon.until(plan.tokens, patience=1800)
        seconds.append(time.monotonic() - began)
    return seconds


def counted(server: Server, database: str) -> tuple[int, int, int]:
    """Count transactions, updates, and updates that touched no index, so far."""
    statement = (
        "SELECT xact_commit + xact_rollback AS done, n_tup_upd AS updated, n_tup_hot_upd AS hot "
        "FROM pg_stat_database, pg_stat_user_tables "
        "WHERE datname = current_database() AND relname = 'token_sidecar_records'"
    )
    [row] = server.sql(statement, database=database)
    return row["done"], row["updated"], row["hot"]


def cpu_of(pid: int) -> float:
    """Tell the CPU seconds of a process and of its children, those that ended included."""
    threads = Path(f"/proc/{pid}/task").glob("*/children")
    children = [int(child) for thread in threads for child in thread.read_text(encoding="ascii").split()]
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / TICKS + sum(map(cpu_of, children))


def timed(daemon: Daemon, path: str) -> float:
    """Get a page; returns the seconds that it took."""
    began = time.monotonic()
    daemon.get(path)
    return time.monotonic() - began


def measured(plan: Plan, server: Server) -> Result:
    """Make one run."""
    with stage(plan, server) as (daemons, endpoint, database):
        start = started(daemons, plan)
        time.sleep(min(5.0, plan.seconds))
        postmaster = int((server.data / "postmaster.pid").read_text(encoding="ascii").splitlines()[0])
        endpoint.report()
        before = [Sample.of(daemon.pid) for daemon in daemons]
        database_before, counts_before = cpu_of(postmaster), counted(server, database)
        time.sleep(plan.seconds)
        report = endpoint.report()
        after = [Sample.of(daemon.pid) for daemon in daemons]
        return Result(
            plan,
            after,
            [now.cpu - then.cpu for now, then in zip(after, before, strict=True)],
            start,
            cpu_of(postmaster) - database_before,
            {path: timed(daemons[0], path) for path in ("/readyz", "/metrics", "/status")},
            report,
            *(now - then for now, then in zip(counted(server, database), counts_before, strict=True)),
        )


def figures(result: Result) -> Iterator[Figure]:
    """Make rows of a run."""
    plan, report = result.plan, result.report
    name = f"{plan.tokens:,} tokens of {plan.life / 60:g} min, {plan.daemons} daemon{'s'[: plan.daemons - 1]}"
    refreshes = len(report.lateness)
    yield Figure(f"{name}: refreshes", "a second", (refreshes / plan.seconds,))
    yield Figure(f"{name}: refresh tokens that came twice", "", (float(report.reused),), target="0")
    late = tuple(quantile(report.lateness, share) for share in (0.5, 0.999))
    yield Figure(f"{name}: lateness, p50", "s", late[:1])
    yield Figure(f"{name}: lateness, p99.9", "s", late[1:], target="≤ 5")
    cpu = [100 * seconds / plan.seconds for seconds in result.cpu]
    yield Figure(f"{name}: CPU of all daemons", "% of a core", (sum(cpu),), target="≤ 100")
    yield Figure(f"{name}: CPU of PostgreSQL", "% of a core", (100 * result.database / plan.seconds,))
    yield Figure(
        f"{name}: statements a refresh, all polling included",
        "",
        (result.transactions / max(1, refreshes),),
        target="≤ 2",
    )
    yield Figure(f"{name}: updates that touch no index", "%", (100 * result.hot / max(1, result.updates),))
    yield Figure(f"{name}: resident", "MiB", tuple(one.rss / MIB for one in result.samples))
    yield Figure(f"{name}: start to the last file", "s", tuple(result.start))
    for path, seconds in result.pages.items():
        yield Figure(f"{name}: `{path}`", "s", (seconds,))


# All at once


def rate(moments: Sequence[float]) -> float:
    """Tell how many a second there were, from the first to the last."""
    return (len(moments) - 1) / (max(moments) - min(moments))


def all_of(endpoint: Endpoint, count: int, *, patience: float = 900.0) -> list[float]:
    """Wait for so many refreshes; returns when each was asked for, from some moment that all share."""
    until, moments = time.monotonic() + patience, list[float]()
    while len(moments) < count:
        if time.monotonic() > until:
            raise TimeoutError(f"{len(moments)} of {count} refreshes came in {patience:g} s")
        time.sleep(0.2)
        moments += endpoint.report().lateness
    return moments


def on_postgres(count: int, server: Server) -> float:
    """Have one daemon refresh a set whose tokens are all due; returns refreshes a second."""
    with stage(Plan(count, life=3600.0, burst=True), server) as ([daemon], endpoint, _):
        daemon.start()
        return rate(all_of(endpoint, count))


def in_memory(count: int) -> float:
    """Have one daemon take so many seeds at once; returns refreshes a second."""
    due = time.time()
    with providing(3600.0) as endpoint, folder() as within:
        seeds = within / "seeds"
        seeds.mkdir()
        tokens = {}
        for number in range(count):
            seed = seeds / str(number)
            seed.write_text(minted(number, 0, due, 0.0).refresh, encoding="ascii")
            tokens[f"token-{number}"] = token(within / "one", endpoint.url, f"{number}.json", seed=str(seed))
        daemon = Daemon(within / "one", store="memory:", tokens=tokens)
        with ended([daemon]):
            daemon.start()
            return rate(all_of(endpoint, count))


def bare(count: int) -> float:
    """Have a bare loop of the same HTTP client do the same, on fresh connections; returns refreshes a second."""
    with providing(3600.0) as endpoint:
        command = [sys.executable, "-m", "bench.loop", endpoint.url, str(count)]
        subprocess.run(command, check=True)
        return rate(all_of(endpoint, count))


def bursts(count: int, server: Server) -> list[Figure]:
    """Compare, in the same minutes."""
    baseline = tuple(bare(count) for _ in range(2))
    unit, against = "a second", "bare loop"
    name = f"{count:,} due at once, one daemon"
    return [
        Figure(f"{name}: memory", unit, (in_memory(count),), baseline, against, "≥ 0.8 of the baseline"),
        Figure(
            f"{name}: Postgres",
            unit,
            (on_postgres(count, server),),
            baseline,
            against,
            "≥ 0.5 of the baseline",
        ),
    ]


METHOD = """\
Real daemons in processes of their own divide one set in a real PostgreSQL, at a provider that only answers, and counts:
how late each request is after its token was due, and whether a refresh token ever comes twice. 20,000 tokens that live
12 minutes are refreshed as often as 100,000 that live an hour. Daemons, PostgreSQL and provider share the machine's
cores. The burst's bare loop (`bench/loop.py`) sends as many requests with the same client, as many at a time, each on a
fresh connection, and does nothing with the answers."""


def measure(size: Size, _root: Path) -> Section:
    """Measure all of it."""
    with running(*SERVER) as server:
        results = [measured(plan, server) for plan in size.steady]
        first = size.steady[0]
        smaller = [measured(msgspec.structs.replace(first, tokens=count), server) for count in size.growth]
        rows = [row for result in results for row in figures(result)] + bursts(size.burst, server)
    alone = sorted((*smaller, results[0]), key=lambda one: one.plan.tokens)
    points = {
        "private dirty memory, MiB": tuple(
            (float(one.plan.tokens), one.samples[0].private / MIB) for one in alone
        ),
        "CPU, % of a core": tuple(
            (float(one.plan.tokens), 100 * one.cpu[0] / one.plan.seconds) for one in alone
        ),
    }
    picture = Picture("scale", "One daemon that refreshes tokens of 12 minutes", "MiB, %", points)
    return Section("Very many tokens", METHOD, tuple(rows), (picture,))


def main() -> None:
    """Make the runs that the arguments ask for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", type=int, nargs="+", default=[1000])
    parser.add_argument("--daemons", type=int, nargs="+", default=[1])
    parser.add_argument("--life", type=float, default=720.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--history", type=int, default=32)
    given = parser.parse_args()
    with running(*SERVER) as server:
        for daemons in given.daemons:
            for tokens in given.tokens:
                plan = Plan(tokens, daemons, given.life, given.seconds, given.history)
                print(table(list(figures(measured(plan, server)))), flush=True)


if __name__ == "__main__":
    main()
