"""Publications to lay out."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sidecar.ports import Publication
from sidecar.tokens import AccessToken, ExpirySource, RefreshToken

ISSUED_AT = 1_700_000_000.25


@pytest.fixture
def publication() -> Callable[..., Publication]:
    """Make a publication of a token that was issued at 1,700,000,000.25 and lives an hour."""

    def make(
        *,
        value: str = "sim-at-0123456789abcdef",
        expires_at: float | None = ISSUED_AT + 3600,
        source: ExpirySource = ExpirySource.ANSWER,
        scope: str | None = "gmail.send gmail.readonly",
        refresh_expires_at: float | None = None,
        scopes: tuple[str, ...] = (),
    ) -> Publication:
        return Publication(
            token="gmail",
            access=AccessToken(
                value=value,
                issued_at=ISSUED_AT,
                expires_at=expires_at,
                ttl=3600.0,
                expiry_source=source,
                scope=scope,
            ),
            refresh=RefreshToken(
                value="sim-rt-0123456789abcdef", issued_at=ISSUED_AT, expires_at=refresh_expires_at
            ),
            lineage="0" * 32,
            generation=7,
            client_id="client.apps.example",
            token_url="https://oauth2.example/token",
            scopes=scopes,
        )

    return make
