"""What a daemon like ours can't do without, and nothing else: `python -m bench.bare STORE [URL]` is the baseline.

It imports the same libraries, holds the same client, server, watcher and store open, and waits. It prints a line when
all of that is there.
"""

from __future__ import annotations

import asyncio
import sqlite3
import sys
import tempfile
import threading
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import httpx2
import msgspec
import prometheus_client
import structlog
import uvicorn
import watchfiles
import yaml
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

LIBRARIES = (anyio, httpx2, msgspec, prometheus_client, structlog, uvicorn, watchfiles, yaml)


async def opened(store: str, url: str, stack: AsyncExitStack) -> object:
    """Open what the store of that kind is reached by."""
    match store:
        case "sqlite":
            connection = sqlite3.connect(Path(url) / "bare.db")
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("CREATE TABLE IF NOT EXISTS records (key TEXT PRIMARY KEY, value BLOB)")
            return connection
        case "postgres":
            import asyncpg

            return await asyncpg.connect(url)
        case "kubernetes":
            import lightkube

            return lightkube.AsyncClient()
        case "aws":
            from aiobotocore.session import get_session

            return await stack.enter_async_context(get_session().create_client("secretsmanager"))
        case _:
            return None


async def answer(_: object) -> PlainTextResponse:
    """Answer a probe."""
    return PlainTextResponse("ok")


async def main(store: str, url: str) -> None:
    """Hold it all open until the process is ended."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        held = [httpx2.AsyncClient(), await opened(store, url or folder, stack)]
        threading.Thread(
            target=lambda: [None for _ in watchfiles.watch(folder, step=1000, rust_timeout=60_000)],
            daemon=True,
        ).start()
        config = uvicorn.Config(Starlette(routes=[Route("/livez", answer)]), port=0, log_config=None)
        config.load()
        server = uvicorn.Server(config)
        server.lifespan = config.lifespan_class(config)
        await server.startup()
        print("ready", len(held), len(LIBRARIES), flush=True)
        # Not serve(): it wakes ten times a second, and a baseline that does so would be too easy.
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""))
