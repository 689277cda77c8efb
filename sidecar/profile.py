"""The shape of a provider profile: how one provider behaves, as data.

The profiles themselves and their loader are in `sidecar.providers`. A field that nobody has verified stays at
its cautious default: a provider that nothing is known of may rotate, and a lost answer is never replayed early.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache

import msgspec

from sidecar.tokens import OutcomeClass


class Rotation(StrEnum):
    """Whether a refresh answers with a new refresh token that replaces the old one (RFC 6749 §6)."""

    NEVER = "never"
    ALWAYS = "always"
    SOMETIMES = "sometimes"
    UNKNOWN = "unknown"


class InDoubt(StrEnum):
    """What may be done when a request may have been processed but its answer is lost."""

    REPLAY_OK = "replay_ok"
    """The same refresh token may be sent again at any time."""
    REPLAY_WINDOW = "replay_window"
    """It may be sent again within `grace` seconds of the first use."""
    REPLAY_UNTIL_USED = "replay_until_used"
    """It may be sent again until the new pair was used."""
    NO_REPLAY = "no_replay"
    """Sending it again may kill the grant: wait until the access token is about to expire."""


class AuthMethod(StrEnum):
    """How the client authenticates at the token endpoint (RFC 7591 §2's names)."""

    BASIC = "client_secret_basic"
    POST = "client_secret_post"
    NONE = "none"


class GrantType(StrEnum):
    """How access tokens are obtained (RFC 6749 §4.4 and §6)."""

    REFRESH_TOKEN = "refresh_token"
    CLIENT_CREDENTIALS = "client_credentials"


class ErrorRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One override of the decision table; every condition that is given must hold."""

    outcome: OutcomeClass
    """What such an answer amounts to."""
    status: int | None = None
    """The answer's HTTP status."""
    code: str | None = None
    """The value of the answer's `error` member."""
    description: str | None = None
    """A regular expression searched for in `error_description` (or the whole body, where there is none)."""
    min_delay: float | None = None
    """Seconds to leave the provider alone at least."""

    def matches(self, status: int, code: str, description: str) -> bool:
        """Tell whether this rule speaks of such an answer."""
        if self.status is not None and self.status != status:
            return False
        if self.code is not None and self.code != code:
            return False
        return self.description is None or _compiled(self.description).search(description) is not None


@lru_cache(maxsize=256)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one provider behaves. Durations are seconds; None means unknown."""

    title: str = ""
    docs: str = ""
    """The provider's own page about refreshing."""
    token_url: str = ""
    revocation_url: str = ""
    grant: GrantType = GrantType.REFRESH_TOKEN
    auth_method: AuthMethod = AuthMethod.POST
    scope_on_refresh: bool = False
    """Whether a refresh names the scopes: most providers want it omitted."""
    extra_params: dict[str, str] = {}
    """Sent with every token request."""
    default_ttl: float | None = None
    """Lifetime of an access token whose answer names none."""
    zero_means_never: bool = False
    """Whether `expires_in: 0` says that the token never expires."""
    rotation: Rotation = Rotation.UNKNOWN
    in_doubt: InDoubt = InDoubt.NO_REPLAY
    grace: float | None = None
    """How long a replaced refresh token can still be used."""
    kills_old_access_token: bool = False
    refresh_ttl: float | None = None
    """Life of a refresh token from its consent, never extended."""
    refresh_idle_ttl: float | None = None
    """Life of a refresh token that is not used."""
    min_interval: float | None = None
    """The shortest time between two refreshes that the provider takes well."""
    unavailable_is_refusal: bool = True
    """Whether 503 says that the request was not processed."""
    errors: tuple[ErrorRule, ...] = ()
    sources: dict[str, str] = {}
    """Field name → where its value comes from and when that was read."""

    @property
    def needs_refresh_token(self) -> bool:
        """Tell whether this grant is made of a refresh token."""
        return self.grant is GrantType.REFRESH_TOKEN

    @property
    def may_rotate(self) -> bool:
        """Tell whether a refresh token must be treated as single-use."""
        return self.needs_refresh_token and self.rotation is not Rotation.NEVER

    @property
    def survives_until_used(self) -> bool:
        """Tell whether the old refresh token lives on until a token of the new pair is used (Shopify, Withings)."""
        return self.in_doubt is InDoubt.REPLAY_UNTIL_USED

    @property
    def replays_at_once(self) -> bool:
        """Tell whether a refresh token whose use is in doubt may be sent again without waiting."""
        return self.in_doubt is not InDoubt.NO_REPLAY
