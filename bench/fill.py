"""Fresh records for a configuration: `python -m bench.fill CONFIG ACCOUNTS` writes one for each token, or account.

They are as a daemon leaves them that has refreshed for long: a full history, and as many fingerprints as are kept.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anyio

from sidecar import config, records
from sidecar.tokens import HISTORY_LENGTH, AccessToken, OutcomeClass, Record, RefreshToken, Turn

LIFE = 86400.0
"""Seconds; so that nothing is due while idling is measured."""
TOKEN = 220
"""Characters of an access token: as many as Google's have."""


def fresh(number: int, endpoint: str, *, life: float = LIFE) -> Record:
    """Make the record of a token that was refreshed a moment ago."""
    now = time.time()
    turn = Turn(now, OutcomeClass.SUCCESS, "a new access token and a new refresh token", 1, 0.123)
    return Record(
        lineage=f"{number:032x}",
        generation=1,
        access=AccessToken(f"sim-at-{number:08d}-".ljust(TOKEN, "x"), now, now + life, life),
        refresh=RefreshToken(f"sim-rt-{number:08d}-0123456789abcdef", now, None, now),
        client_id="bench",
        endpoint=endpoint,
        seeds=(f"{number:012x}",),
        replaced=tuple(f"{number:06x}{place:06x}" for place in range(HISTORY_LENGTH)),
        rotates=True,
        history=(turn,) * HISTORY_LENGTH,
    )


def keys(settings: config.Settings, accounts: int) -> Iterator[str]:
    """Name what is to be written."""
    for of in settings.sets:
        yield from (f"{settings.namespace}/{of}/user-{number:08d}@example.com" for number in range(accounts))
    yield from (f"{settings.namespace}/{token}" for token in settings.tokens)


async def main(path: Path, accounts: int, endpoint: str) -> None:
    """Write all of them."""
    settings = config.load(path).settings
    async with records.make_store(settings) as store:
        for number, key in enumerate(keys(settings, accounts)):
            await store.write(key, fresh(number, endpoint), expected=None)


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
