"""How a simulated provider behaves: one frozen value, checked when it is made."""

from __future__ import annotations

import math
import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from sidecar import profile as profiles
from sidecar.profile import AuthMethod, InDoubt, Profile

ACCESS_PREFIX = "sim-at-"
REFRESH_PREFIX = "sim-rt-"
CLIENT_SECRET_PREFIX = "sim-cs-"
USUAL_TTL = 3600.0


class Rotation(StrEnum):
    """When a refresh answers with a new refresh token (RFC 6749 section 6)."""

    NEVER = "never"
    ALWAYS = "always"
    SOMETIMES = "sometimes"


class ClientAuth(StrEnum):
    """Client authentication methods, by their registered names (RFC 7591 section 2)."""

    BASIC = "client_secret_basic"
    POST = "client_secret_post"
    SECRET_JWT = "client_secret_jwt"
    PRIVATE_KEY_JWT = "private_key_jwt"
    NONE = "none"


_ROTATIONS = {
    profiles.Rotation.NEVER: Rotation.NEVER,
    profiles.Rotation.SOMETIMES: Rotation.SOMETIMES,
}
_METHODS = {AuthMethod.BASIC: ClientAuth.BASIC, AuthMethod.POST: ClientAuth.POST}


class Consent(StrEnum):
    """What the simulated user does when asked for a consent."""

    GIVEN = "given"
    REFUSED = "refused"
    PENDING = "pending"
    """Nothing yet: a device is told to wait, and a browser is shown a page."""


class GraceAnswer(StrEnum):
    """What a replaced refresh token is answered with inside its grace window."""

    SAME = "same"
    NEW = "new"


def new_secret(prefix: str) -> str:
    """Make a recognisable secret: the prefix and 32 URL-safe random characters."""
    return prefix + secrets.token_urlsafe(24)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderConfig:
    """Everything that can be asked of a simulated provider. Durations are in seconds."""

    client_id: str = "sim-client"
    client_secret: str | None = field(default_factory=lambda: new_secret(CLIENT_SECRET_PREFIX), repr=False)
    """None makes the client public: it authenticates by its client_id alone."""

    client_public_key: str | None = None
    """The public key (PEM) of a client that signs assertions with a private one (RFC 7523)."""

    audience: str = ""
    """Whom assertions must be for: the token endpoint's URL. Empty: it isn't looked at."""

    client_auth: frozenset[ClientAuth] = frozenset({ClientAuth.BASIC, ClientAuth.POST})
    """Methods accepted of a confidential client; a public one always uses `none`."""

    profile: Profile = field(default_factory=Profile)
    """The provider whose shapes of requests, answers and errors are imitated; see `like` for its behaviour, too."""

    form_answers: bool = False
    """Answer as a form, as GitHub does where JSON wasn't asked for."""

    access_ttl: float = USUAL_TTL
    """`math.inf` is for ever."""

    refresh_ttl: float | None = None
    """Counted from the grant; no refresh extends it. None is for ever."""

    refresh_idle_ttl: float | None = None
    """Counted from the last use of the refresh token, or from its issue. None is for ever."""

    announce_refresh_expiry: bool = False
    """Answer `refresh_token_expires_in` when the refresh token has an end."""

    rotation: Rotation = Rotation.ALWAYS
    rotate_every: int = 2
    """With `sometimes`: every Nth refresh of a grant rotates."""

    rotation_probability: float | None = None
    """With `sometimes`: rotate with this probability instead of every Nth time."""

    random_seed: int = 0
    """Decides the `rotation_probability` draws; the same seed gives the same sequence."""

    repeat_refresh_token: bool = False
    """A refresh that doesn't rotate answers with the old refresh token; otherwise the member is absent."""

    grace: float = 0.0
    """How long a replaced refresh token may be used again; `math.inf` sets no limit in time."""

    grace_until_used: bool = False
    """End the grace window early, when the new access or refresh token is first used."""

    grace_answer: GraceAnswer = GraceAnswer.SAME
    reuse_kills_family: bool = True
    """A replaced refresh token used outside its grace ends the whole grant (RFC 9700 section 4.14.2)."""

    kills_old_access_token: bool = False
    """A refresh revokes the grant's earlier access tokens."""

    same_token_until: float | None = None
    """Answer the same access token, unrotated, until it has no more than this left."""

    scopes: frozenset[str] = frozenset()
    """Scopes that client_credentials may ask for; empty allows any."""

    consent: Consent = Consent.GIVEN
    redirect_uris: tuple[str, ...] = ("http://127.0.0.1/",)
    """Registered for the client, and compared exactly; on the loopback a port may be added (RFC 8252 section 7.3)."""

    require_pkce: bool = True
    """Refuse a request for consent without an S256 challenge (RFC 7636)."""

    issuer: str = ""
    """Named in redirects (RFC 9207) and in ID tokens, if it isn't empty."""

    code_ttl: float = 60.0
    device_code_ttl: float = 600.0
    device_interval: float = 5.0
    """How long a device has to leave between two questions; one that doesn't is told to `slow_down`."""

    refresh_token_scope: str = ""
    """Only a consent with this scope gives a refresh token; empty: each does."""

    refresh_token_params: tuple[tuple[str, str], ...] = ()
    """Only a consent that was asked for with these parameters gives a refresh token."""

    clock_skew: float = 0.0
    """How far the provider's clock is ahead; negative is behind. Shifts `Date` and every lifetime."""

    @classmethod
    def like(cls, profile: Profile, **changes: Any) -> Self:
        """Behave as a profile says that its provider does; where it says nothing, in the way that hurts most.

        An unknown refresh token rotation rotates, and a replaced refresh token that is used again kills the grant.
        """
        lives = math.inf if profile.zero_means_never else profile.default_ttl or USUAL_TTL
        mild = profile.in_doubt is InDoubt.REPLAY_OK
        graces = {InDoubt.REPLAY_WINDOW: profile.grace or 0.0, InDoubt.NO_REPLAY: 0.0}
        told: dict[str, Any] = {
            "profile": profile,
            "access_ttl": lives,
            "refresh_ttl": profile.refresh_ttl,
            "refresh_idle_ttl": profile.refresh_idle_ttl,
            "rotation": _ROTATIONS.get(profile.rotation, Rotation.ALWAYS),
            "grace": graces.get(profile.in_doubt, math.inf),
            "grace_until_used": profile.survives_until_used,
            "reuse_kills_family": not mild,
            "kills_old_access_token": profile.kills_old_access_token,
            "refresh_token_scope": next(iter(profile.consent_scopes), ""),
            "refresh_token_params": tuple(profile.authorization_params.items()),
            "require_pkce": profile.pkce,
        }
        if profile.auth_method is AuthMethod.NONE:
            told["client_secret"] = None
        elif profile.auth_method in _METHODS:
            told["client_auth"] = frozenset({_METHODS[profile.auth_method]})
        return cls(**{**told, **changes})

    def __post_init__(self) -> None:
        """Refuse what can't be simulated."""
        problems = (
            (self.access_ttl <= 0, "access_ttl must be above 0"),
            (self.rotate_every < 1, "rotate_every must be at least 1"),
            (self.grace < 0, "grace can't be negative"),
            (
                self.grace_until_used and not self.grace,
                "grace_until_used needs a grace; math.inf sets no limit",
            ),
            (not 0 <= (self.rotation_probability or 0) <= 1, "rotation_probability must be within 0 and 1"),
            (
                ClientAuth.NONE in self.client_auth and self.client_secret is not None,
                "a public client has no secret",
            ),
        )
        for wrong, message in problems:
            if wrong:
                raise ValueError(message)

    @property
    def accepted_auth(self) -> frozenset[ClientAuth]:
        """Methods this client may authenticate by."""
        confidential = self.client_secret is not None or self.client_public_key is not None
        return self.client_auth if confidential else frozenset({ClientAuth.NONE})
