"""What the provider remembers: grants and their tokens. Times are seconds since the epoch by its clock."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Family:
    """One consent and all that descends from it."""

    id: str
    client_id: str
    scope: str
    created: float
    killed: str | None = None
    refreshes: int = 0
    current_access: str | None = None


@dataclass(slots=True)
class RefreshToken:
    """One refresh token, its place in its family, and how often it was used."""

    token: str
    family: str
    last_used: float
    parent: str | None = None
    replaced_at: float | None = None
    child: str | None = None
    child_access: str | None = None
    grace_over: bool = False
    presented: int = 0
    uses: int = 0
    answered: int = 0
    cut: int = 0
    replays: int = 0


@dataclass(slots=True)
class AccessToken:
    """One access token; `family` is None for client credentials."""

    token: str
    family: str | None
    client_id: str
    scope: str
    issued: float
    expires_at: float
    revoked: bool = False
    replaces: str | None = None
    """The refresh token whose grace may end when this access token is first used."""
