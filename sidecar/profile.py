"""The shape of a provider profile: how one provider behaves, as data.

The profiles themselves and their loader are in `sidecar.providers`. A field that nobody has verified stays at
its cautious default: a provider that nothing is known of may rotate, and a lost answer is never replayed early.
"""

from __future__ import annotations

import re
from enum import StrEnum
from functools import lru_cache
from typing import Literal

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
    """Id and secret in the Authorization header (RFC 6749 §2.3.1)."""
    POST = "client_secret_post"
    """Id and secret among the request's members (RFC 6749 §2.3.1)."""
    SECRET_JWT = "client_secret_jwt"
    """An assertion that is signed with the secret (RFC 7523 §2.2, OpenID Connect Core §9)."""
    PRIVATE_KEY_JWT = "private_key_jwt"
    """An assertion that is signed with a private key (RFC 7523 §2.2, OpenID Connect Core §9)."""
    TLS = "tls_client_auth"
    """A certificate shown at the TLS handshake (RFC 8705 §2)."""
    NONE = "none"
    """A public client, which has nothing to prove itself with."""

    @property
    def takes_secret(self) -> bool:
        """Tell whether the proof is made of the client's secret."""
        return self in {AuthMethod.BASIC, AuthMethod.POST, AuthMethod.SECRET_JWT}


class GrantType(StrEnum):
    """How access tokens are obtained."""

    REFRESH_TOKEN = "refresh_token"
    """With a refresh token from a user's consent (RFC 6749 §6)."""
    CLIENT_CREDENTIALS = "client_credentials"
    """With nothing but the client's own proof (RFC 6749 §4.4)."""
    JWT_BEARER = "jwt_bearer"
    """With a signed assertion that names whom the token is for (RFC 7523 §2.1): Google service accounts,
    Salesforce."""
    TOKEN_EXCHANGE = "token_exchange"
    """With another token, read from a file that somebody else keeps fresh (RFC 8693)."""
    GITHUB_INSTALLATION = "github_installation"
    """With an assertion that a GitHub App signs for one of its installations."""
    LIVING_TOKEN = "living_token"
    """With the access token itself, for as long as it lives (Facebook's `fb_exchange_token`). What serves as the
    refresh token is the newest access token, and both end together."""

    @property
    def is_signed(self) -> bool:
        """Tell whether it consists of an assertion, which by itself proves who the client is (RFC 7521 §4.1)."""
        return self in {GrantType.JWT_BEARER, GrantType.GITHUB_INSTALLATION}


class BodyKind(StrEnum):
    """How a token request carries its members."""

    FORM = "form"
    """As RFC 6749 §4 has it: `application/x-www-form-urlencoded`."""
    JSON = "json"
    QUERY = "query"
    """In the URL, with an empty body. URLs end up in logs; only for providers that take nothing else."""


class ExpiryKind(StrEnum):
    """How an answer says when a token ends."""

    SECONDS = "seconds"
    """Seconds from now, as RFC 6749 §5.1 has it."""
    MILLISECONDS = "milliseconds"
    MINUTES = "minutes"
    EPOCH = "epoch"
    """Unix seconds."""
    EPOCH_MILLISECONDS = "epoch_milliseconds"
    ISO8601 = "iso8601"
    """A date and time; without an offset it is in UTC."""
    NEVER = "never"
    """Not at all, since it never ends."""
    ABSENT = "absent"
    """Usually not at all, though it does end: see `default_ttl`. What is said all the same is in seconds."""


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


class AnswerShape(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where an answer holds what RFC 6749 §5 names.

    Paths into nested objects are dotted (`authed_user.scope`), and a number in one counts through a list from 0
    (`errors.0.errorType`).
    """

    access_token: str = "access_token"
    """The access token."""
    refresh_token: str = "refresh_token"
    """The refresh token."""
    token_type: str = "token_type"
    """How the access token is used (RFC 6749 §7.1)."""
    scope: str = "scope"
    """What was granted."""
    expires: str = "expires_in"
    """The access token's end."""
    expires_kind: ExpiryKind = ExpiryKind.SECONDS
    """How it is written."""
    refresh_expires: tuple[str, ...] = (
        "refresh_token_expires_in",
        "refresh_expires_in",
        "x_refresh_token_expires_in",
    )
    """The refresh token's end; the first that is there counts."""
    refresh_expires_kind: ExpiryKind = ExpiryKind.SECONDS
    """How that is written."""
    success: dict[str, str | int | bool] = {}
    """What a success holds beside the token, where errors come with status 200 too: `{ok: true}`. A member that
    is there with another value makes it an error."""
    error: str = ""
    """The error's code, be it a word or a number; then, as by default, every place where providers put one."""
    error_description: str = ""
    """The error's text; then, as by default, every place where providers put one."""


class Profile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one provider behaves. Durations are seconds; None means unknown."""

    title: str = ""
    docs: str = ""
    """The provider's own page about refreshing."""
    issuer: str = ""
    """Where the endpoints are published (OpenID Connect Discovery, RFC 8414), if they are not named here."""
    token_url: str = ""
    """The token endpoint; with `github_installation`, `{installation}` in it stands for the number."""
    revocation_url: str = ""
    introspection_url: str = ""
    """The introspection endpoint (RFC 7662)."""
    authorization_url: str = ""
    """The authorization endpoint (RFC 6749 §3.1), where a user consents."""
    device_authorization_url: str = ""
    """The device authorization endpoint (RFC 8628 §3.1)."""
    authorization_params: dict[str, str] = {}
    """Added to a request for consent, beside what RFC 6749 §4.1.1 names: without them some providers give no
    refresh token."""
    consent_scopes: tuple[str, ...] = ()
    """Asked for in every consent, beside the token's own scopes: without them some providers give no refresh token."""
    scope_separator: str = " "
    """What stands between the scopes that are asked for."""
    pkce: bool = True
    """Whether a consent is bound to who asked for it by a proof key (RFC 7636)."""
    grant: GrantType = GrantType.REFRESH_TOKEN
    auth_method: AuthMethod = AuthMethod.POST
    method: Literal["POST", "GET"] = "POST"
    """The HTTP method of a token request."""
    body: BodyKind = BodyKind.FORM
    param_names: dict[str, str] = {}
    """What the provider calls a member of the request: `{client_id: client_key}`."""
    extra_params: dict[str, str] = {}
    """Sent with every token request."""
    extra_headers: dict[str, str] = {}
    """Sent with every token request."""
    scope_on_refresh: bool = False
    """Whether a refresh names the scopes: most providers want it omitted."""
    answer: AnswerShape = AnswerShape()
    """Where an answer differs from RFC 6749 §5."""
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
    """Life of a refresh token that is not used; every use starts it anew, rotated or not."""
    min_interval: float | None = None
    """The shortest time between two refreshes that the provider takes well."""
    max_rate: float | None = None
    """Sets only: how many refreshes a second one daemon asks for, in all."""
    max_concurrent: int | None = None
    """Sets only: how many requests of one daemon are under way at once; `max_workers` bounds them as well."""
    unavailable_is_refusal: bool = True
    """Whether 503 says that the request was not processed."""
    errors: tuple[ErrorRule, ...] = ()
    notes: tuple[str, ...] = ()
    """What a user should know and no other field says."""
    tested: str = ""
    """Who used it against the real provider, and when; empty: nobody did."""
    sources: dict[str, str] = {}
    """Field name → where its value comes from and when that was read."""

    @property
    def needs_refresh_token(self) -> bool:
        """Tell whether this grant is made of a refresh token, be it a living access token that serves as one."""
        return self.grant in {GrantType.REFRESH_TOKEN, GrantType.LIVING_TOKEN}

    @property
    def lives_by_itself(self) -> bool:
        """Tell whether the access token serves as the refresh token."""
        return self.grant is GrantType.LIVING_TOKEN

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
