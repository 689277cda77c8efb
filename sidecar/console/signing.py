"""What is handed to browsers and has to come back as it was: sessions, forms, `state`, one-time links."""

from __future__ import annotations

import hashlib
import secrets
from functools import cache
from typing import TYPE_CHECKING, Any

from itsdangerous import BadData, URLSafeTimedSerializer
from itsdangerous.timed import TimestampSigner

if TYPE_CHECKING:
    from collections.abc import Callable

LEAST = 32
"""Bytes of a secret."""


def new_secret() -> bytes:
    """Make a secret that nobody else has."""
    return secrets.token_bytes(LEAST)


def new_id() -> str:
    """Make a name that nobody guesses."""
    return secrets.token_urlsafe(18)


class Signer:
    """Signs small values for one purpose each, and reads what comes back."""

    def __init__(self, secret: bytes, now: Callable[[], float]) -> None:
        """`now` gives Unix seconds."""
        self._secret = secret

        class Dated(TimestampSigner):
            """Dates by our own clock."""

            def get_timestamp(self) -> int:
                return int(now())

        self._signer = Dated
        self._serializer = cache(self._make)

    def __repr__(self) -> str:
        """Show no secret."""
        return "Signer(...)"

    def _make(self, purpose: str) -> URLSafeTimedSerializer:
        # Each purpose has a key of its own: what was signed as a form is no session.
        return URLSafeTimedSerializer(
            self._secret,
            salt=f"token-sidecar.{purpose}",
            signer=self._signer,
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )

    def sign(self, purpose: str, value: Any) -> str:
        """Return a value of JSON types as text that is fit for URLs and cookies, signed and dated."""
        return str(self._serializer(purpose).dumps(value))

    def read(self, purpose: str, text: str, *, max_age: float) -> Any:
        """Return what `sign` was given; None for what isn't ours, is for something else or older than `max_age` s."""
        try:
            return self._serializer(purpose).loads(text, max_age=int(max_age))
        except BadData:
            return None
