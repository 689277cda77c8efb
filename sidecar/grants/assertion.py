"""The claims of an assertion: a JWT that says who speaks, and to whom (RFC 7523 §3)."""

from __future__ import annotations

import secrets

BACKDATED = 60.0
"""Seconds: a clock that is ahead of the provider's by less than this makes no assertion from the future."""
LIFE = 300.0
"""Seconds from `iat` to `exp`. Salesforce takes no more than 5 minutes, GitHub 10, Google an hour."""


def lifetime(now: float) -> dict[str, int]:
    """Return the claims that say when it counts (RFC 7519 §4.1.4, §4.1.6)."""
    issued = int(now - BACKDATED)
    return {"iat": issued, "exp": issued + int(LIFE)}


def claims(issuer: str, subject: str | None, audience: str, now: float) -> dict[str, str | int]:
    """Return all claims of a new assertion, which no other one shares its `jti` with."""
    named = {"iss": issuer, "sub": subject, "aud": audience, "jti": secrets.token_urlsafe(16)}
    return {**{name: value for name, value in named.items() if value}, **lifetime(now)}
