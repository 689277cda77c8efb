"""The hardening guide's SQL, on a real server."""

from __future__ import annotations

import re
import secrets
from pathlib import Path

import pytest

from sidecar.clock import SystemClock
from sidecar.stores import migration, open_store
from sidecar.tokens import Record, RefreshToken
from tests.postgres import Server

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "hardening.md"
KEY = "ns/gmail"


@pytest.fixture
def anyio_backend() -> str:
    """The client library knows asyncio alone."""
    return "asyncio"


async def hardened(server: Server, database: str) -> str:
    """Make the tables as their owner, and run what the page shows; returns the role that it is about."""
    name = f"hardened_{secrets.token_hex(4)}"
    [shown] = re.findall(r"^```sql\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    shown = shown.replace("DATABASE tokens", f"DATABASE {database}")
    lines = [*migration(server.url(database)).split(";\n"), f"CREATE ROLE {name} LOGIN"]
    lines += re.sub(r"\btoken_sidecar\b", name, shown).split(";\n")
    await server.sql_async(*filter(str.strip, lines), database=database)
    return name


async def written(server: Server, database: str, role: str) -> str:
    """Write a record as this role, whose every statement is logged; returns what the server's log has of it."""
    log = server.data / "log"
    begin = log.stat().st_size
    record = Record(
        lineage="l1", refresh=RefreshToken(value=f"sim-rt-{secrets.token_hex(12)}", issued_at=0.0)
    )
    async with open_store(server.url(database, user=role), SystemClock()) as store:
        await store.write(KEY, record, expected=None)
        held = await store.load(KEY)
    assert held is not None
    assert held.record.refresh == record.refresh
    assert record.refresh is not None
    with log.open("rb") as found:
        found.seek(begin)
        text = found.read().decode()
    assert "INSERT INTO" in text
    return "the record" if record.refresh.value.encode().hex() in text else "nothing"


async def test_no_record_is_in_the_server_s_log(server: Server, database: str) -> None:
    """With the page's settings the daemon works, and a server that logs statements logs no record; else it does."""
    role = await hardened(server, database)
    await server.sql_async(f"ALTER ROLE {role} SET log_min_duration_statement = 0")
    closed = await written(server, database, role)
    await server.sql_async(
        "DELETE FROM token_sidecar_records",
        f"ALTER ROLE {role} RESET log_parameter_max_length",
        database=database,
    )

    assert closed == "nothing"
    assert await written(server, database, role) == "the record"


async def test_nobody_else_may_look(server: Server, database: str) -> None:
    """Another role neither reads the records nor connects; the daemon's own can make nothing."""
    role = await hardened(server, database)
    other = f"other_{secrets.token_hex(4)}"
    asked = await server.sql_async(
        f"CREATE ROLE {other} LOGIN",
        f"SELECT has_database_privilege('{other}', '{database}', 'CONNECT') AS connects,"
        f" has_table_privilege('{other}', 'token_sidecar_records', 'SELECT') AS reads,"
        f" has_schema_privilege('{role}', 'public', 'CREATE') AS makes",
        database=database,
    )

    assert dict(asked[0]) == {"connects": False, "reads": False, "makes": False}
