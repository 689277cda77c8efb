"""What the pages about stores type works."""

from __future__ import annotations

import sqlite3
import sys
from pathlib import Path

import anyio
import pytest

from sidecar.clock import SystemClock
from sidecar.stores.sqlite import SqliteStore
from sidecar.tokens import Record
from tests.docs.pages import DOCS
from tests.docs.pages import of as blocks

STORE = "/var/lib/token-sidecar/tokens.db"


@pytest.fixture
def anyio_backend() -> str:
    """A store in a file needs no particular one."""
    return "asyncio"


async def test_the_backup_is_whole_while_the_store_is_open(tmp_path: Path) -> None:
    """The command of sqlite.md copies every record under a daemon's hands, and the copy is a store."""
    [block] = blocks("sh", pages=[DOCS / "howto" / "sqlite.md"])
    file = tmp_path / "tokens.db"
    script = block.text.replace(STORE, str(file)).replace("python3", sys.executable)
    assert STORE in block.text
    async with SqliteStore(file, SystemClock()) as store:
        version = await store.write("ns/gmail", Record(lineage="first"), expected=None)

        await anyio.run_process(["/bin/sh", "-ec", script], cwd=tmp_path)

        await store.write("ns/gmail", Record(lineage="second"), expected=version)
    with sqlite3.connect(tmp_path / "tokens.backup") as copied:
        assert copied.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    copied.close()
    async with SqliteStore(tmp_path / "tokens.backup", SystemClock()) as restored:
        held = await restored.load("ns/gmail")
        assert held is not None
        assert held.record.lineage == "first"
