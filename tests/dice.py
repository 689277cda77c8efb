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
    """Draw every random number from `seed`: secrets, ids, and the order in which trio runs its tasks."""
    rng = random.Random(seed)  # noqa: S311 - secrets of a simulation
    trio._core._run._r.seed(seed)
    with (
        mock.patch("secrets.token_urlsafe", lambda length=32: rng.randbytes(length).hex()),
        mock.patch("secrets.token_hex", lambda length=32: rng.randbytes(length).hex()),
        mock.patch("uuid.uuid4", side_effect=lambda: uuid.UUID(int=rng.getrandbits(128), version=4)),
    ):
        yield
