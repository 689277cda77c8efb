"""What the simulator has seen: frozen values without a single secret in them."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


def fingerprint(secret: str) -> str:
    """Name a secret without telling it: the first 12 hex digits of its SHA-256."""
    return hashlib.sha256(secret.encode()).hexdigest()[:12]


class Fate(StrEnum):
    """What became of an answer."""

    PENDING = "pending"
    ANSWERED = "answered"
    """Handed to the network in whole while the client was still connected."""

    CUT = "cut"
    """The client never got all of it: reset, closed, held, or hung up first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRecord:
    """One request to the token endpoint."""

    at: float
    """Seconds since the epoch by the injected clock, without the provider's skew."""

    grant_type: str
    """As sent, or `other` when it is none that the simulator knows."""

    fingerprint: str | None
    """Of the refresh token presented."""

    client_auth: str | None
    """The client authentication method used, right or wrong."""

    connection: int
    """Which connection it came by, counted from 1; 0 when there was no network."""

    outcome: str
    """`pending`, `unprocessed`, `issued`, `rotated`, `unrotated`, `same_token`, `grace`, `prolonged`, or an error
    code."""

    status: int | None
    """HTTP status of the answer, once there is one."""

    fate: Fate
    faulted: bool
    """A scripted fault decided part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenUses:
    """How often one refresh token was used."""

    fingerprint: str
    family: str
    presented: int
    """Requests that carried it, whatever came of them."""

    uses: int
    """Requests that the token endpoint processed for an authenticated client."""

    answered: int
    """Uses whose answer reached the client."""

    cut: int
    """Uses whose answer was lost: the client is in doubt."""

    replays: int
    """Uses after the token had been replaced, in grace or not."""

    replaced: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyReport:
    """One grant and all tokens descended from it."""

    id: str
    scope: str
    created: float
    """Seconds since the epoch by the provider's clock."""

    killed: str | None
    """Why it was ended, or None while it lives."""

    refreshes: int
    active_refresh_tokens: tuple[str, ...]
    """Fingerprints of those not replaced yet; empty once killed."""

    live_access_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The whole of it, at one instant."""

    requests: tuple[RequestRecord, ...]
    tokens: tuple[TokenUses, ...]
    reused: tuple[str, ...]
    """Fingerprints of refresh tokens with more than one use."""

    replayed: tuple[str, ...]
    """Fingerprints of refresh tokens used again after they had been replaced."""

    in_flight: int
    max_in_flight: int
    resource_granted: int
    resource_denied: int
    families: tuple[FamilyReport, ...]
    faults_armed: int

    def as_dict(self) -> dict[str, Any]:
        """Give the report as plain JSON values."""
        return asdict(self)
