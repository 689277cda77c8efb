"""The baseline of a burst: `python -m bench.loop URL COUNT` refreshes as many tokens as fast as the client goes.

As a daemon does it: so many at a time, each on a connection of its own. It does nothing with the answers.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator

import anyio
import httpx2

from bench.provider import minted

CONCURRENCY = 8
"""The daemon's, by default: `max_workers`."""


async def main(url: str, count: int) -> None:
    """Refresh all of them."""
    due = time.time()
    tokens = (minted(number, 0, due, 0.0).refresh for number in range(count))
    limits = httpx2.Limits(max_keepalive_connections=0)
    async with httpx2.AsyncClient(limits=limits) as client, anyio.create_task_group() as tasks:
        for _ in range(CONCURRENCY):
            tasks.start_soon(_work, client, f"{url}/token", tokens)


async def _work(client: httpx2.AsyncClient, url: str, tokens: Iterator[str]) -> None:
    for refresh in tokens:
        form = {"grant_type": "refresh_token", "refresh_token": refresh, "client_id": "bench"}
        answer = await client.post(url, data=form)
        answer.raise_for_status().json()


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], int(sys.argv[2]))
