"""What the processes of the stores' tests do: `python -m tests.stores.worker race|loop URL [KEY FILE]…`."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from sidecar.clock import SystemClock
from sidecar.errors import Conflict
from sidecar.seal import open_sealer
from sidecar.stores import open_store
from sidecar.tokens import Record

KEYS = ("ns/a", "ns/b", "ns/c")


def say(line: str) -> None:
    """Print a line that is in the pipe before the next statement runs."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def race(url: str, *keys: Path) -> None:
    """Write once, with the version that was there before the starting signal came in on stdin."""
    async with open_store(url, SystemClock(), open_sealer(keys)) as store:
        held = await store.load("ns/race")
        say("ready")
        sys.stdin.readline()
        record = Record(lineage="worker", generation=1)
        try:
            say("won " + await store.write("ns/race", record, expected=held.version if held else None))
        except Conflict:
            say("lost")


async def loop(url: str, *keys: Path) -> None:
    """Write for ever, each time one generation more, and print what was acknowledged."""
    async with open_store(url, SystemClock(), open_sealer(keys)) as store:
        while True:
            for key in KEYS:
                held = await store.load(key)
                generation = held.record.generation + 1 if held else 1
                # Larger than a page, so that one write touches several places of a file.
                record = Record(lineage="x" * 20_000, generation=generation)
                version = await store.write(key, record, expected=held.version if held else None)
                say(f"{key} {generation} {version}")


if __name__ == "__main__":
    anyio.run({"race": race, "loop": loop}[sys.argv[1]], sys.argv[2], *map(Path, sys.argv[3:]))
