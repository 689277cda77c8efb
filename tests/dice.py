"""One seed for every random number: a test that fails by the dice can be run again as it was."""

from __future__ import annotations

import contextlib
import random
import uuid
from collections.abc import Iterator
from unittest import mock

import trio


@contextlib.contextmanager
def loaded(seed: int) -> Iterator[None]:
    """Draw every random number from `seed`: secrets, ids, and the order in which trio runs its tasks.

    Secrets and ids have dice of their own, so that one id more doesn't change all tokens that follow.
    """
    secrets, ids = (random.Random(f"{seed}/{what}") for what in ("secrets", "ids"))  # noqa: S311 - a simulation's
    trio._core._run._r.seed(seed)
    with (
        # Otherwise tasks that wake together stand in the order of a set: by their addresses in memory.
        mock.patch.object(trio._core._run, "_ALLOW_DETERMINISTIC_SCHEDULING", new=True),
        mock.patch("secrets.token_urlsafe", lambda length=32: secrets.randbytes(length).hex()),
        mock.patch("secrets.token_hex", lambda length=32: secrets.randbytes(length).hex()),
        mock.patch("uuid.uuid4", side_effect=lambda: uuid.UUID(int=ids.getrandbits(128), version=4)),
    ):
        yield
