"""What a simulated user consents to: authorization codes (RFC 6749, RFC 7636), device codes (RFC 8628), ID tokens."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

from sidecar.testing.authentication import Refused
from sidecar.testing.config import Consent, ProviderConfig

AUTHORIZATION_CODE = "authorization_code"
DEVICE_CODE = "urn:ietf:params:oauth:grant-type:device_code"
CODE_PREFIX = "sim-rt-code-"
"""As that of refresh tokens, so that whoever looks for leaked secrets finds codes, too."""

DEVICE_PAGE = "https://provider.example/device"


@dataclass(slots=True)
class Given:
    """One consent that waits to be redeemed."""

    scope: str
    ends: float
    redirect_uri: str = ""
    challenge: str = ""
    nonce: str = ""
    offline: bool = True
    """Whether it gives a refresh token."""

    redeemed: bool = False
    family: str = ""
    interval: float = 0.0
    asked: float | None = None


class Replayed(Refused):
    """A code came for a second time."""

    def __init__(self, family: str) -> None:
        """`family` is what the first time gave."""
        super().__init__("invalid_grant", "the authorization code was used before")
        self.family = family


class Consents:
    """The codes of one provider."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now` gives seconds since the epoch."""
        self._now = now
        self._codes: dict[str, Given] = {}
        self._devices: dict[str, Given] = {}

    def authorize(self, config: ProviderConfig, query: Mapping[str, str]) -> str | None:
        """Return where the browser is sent to; None while the user has not decided. Raises `Refused`."""
        redirect_uri = query.get("redirect_uri", "")
        if query.get(config.profile.param_names.get("client_id", "client_id")) != config.client_id:
            raise Refused("invalid_client", "there is no such client")
        if not any(_matches(redirect_uri, registered) for registered in config.redirect_uris):
            raise Refused("redirect_uri_mismatch", "the redirect URI is not registered for this client")
        if config.consent is Consent.PENDING:
            return None
        answer = self._decided(config, query)
        state = {"state": query["state"]} if "state" in query else {}
        issuer = {"iss": config.issuer} if config.issuer else {}
        joint = "&" if urlsplit(redirect_uri).query else "?"
        return redirect_uri + joint + urlencode({**answer, **state, **issuer})

    def _decided(self, config: ProviderConfig, query: Mapping[str, str]) -> dict[str, str]:
        if query.get("response_type") != "code":
            return {"error": "unsupported_response_type"}
        challenge = query.get("code_challenge", "")
        if config.require_pkce and not (challenge and query.get("code_challenge_method") == "S256"):
            return {"error": "invalid_request", "error_description": "an S256 code_challenge is wanted"}
        if config.consent is Consent.REFUSED:
            return {"error": "access_denied", "error_description": "the user said <no>"}
        scope = " ".join(query.get("scope", "").split(config.profile.scope_separator))
        code = CODE_PREFIX + secrets.token_urlsafe(24)
        self._codes[code] = Given(
            scope=scope,
            ends=self._now() + config.code_ttl,
            redirect_uri=query["redirect_uri"],
            challenge=challenge,
            nonce=query.get("nonce", ""),
            offline=_is_offline(config, scope) and set(config.refresh_token_params) <= set(query.items()),
        )
        return {"code": code}

    def device(self, config: ProviderConfig, scope: str) -> dict[str, Any]:
        """Give a device what it needs."""
        secret, code = CODE_PREFIX + secrets.token_urlsafe(24), secrets.token_hex(4).upper()
        self._devices[secret] = Given(
            scope=" ".join(scope.split(config.profile.scope_separator)),
            ends=self._now() + config.device_code_ttl,
            offline=_is_offline(config, scope),
            interval=config.device_interval,
        )
        return {
            "device_code": secret,
            "user_code": code,
            "verification_uri": DEVICE_PAGE,
            "verification_uri_complete": f"{DEVICE_PAGE}?user_code={code}",
            "expires_in": config.device_code_ttl,
            "interval": config.device_interval,
        }

    def redeem(self, config: ProviderConfig, form: Mapping[str, str]) -> Given:
        """Redeem a code, of either kind, once. Raises `Refused`."""
        if form["grant_type"] == DEVICE_CODE:
            return self._redeem_device(config, form.get("device_code", ""))
        given = self._codes.get(form.get("code", ""))
        if given is None or self._now() >= given.ends:
            raise Refused("invalid_grant", "the authorization code is unknown or too old")
        if given.redeemed:
            raise Replayed(given.family)
        if form.get("redirect_uri") != given.redirect_uri:
            raise Refused("invalid_grant", "the redirect URI is not that of the request")
        if given.challenge and not hmac.compare_digest(_s256(form.get("code_verifier", "")), given.challenge):
            raise Refused("invalid_grant", "the code_verifier does not fit")
        given.redeemed = True
        return given

    def _redeem_device(self, config: ProviderConfig, code: str) -> Given:
        given, now = self._devices.get(code), self._now()
        if given is None or given.redeemed:
            raise Refused("invalid_grant", "the device code is unknown or was used")
        if now >= given.ends:
            raise Refused("expired_token", "the device code is too old")
        early = given.asked is not None and now - given.asked < given.interval
        given.asked = now
        if early:
            raise Refused("slow_down", "that was too soon")
        if config.consent is Consent.PENDING:
            raise Refused("authorization_pending", "the user has not decided yet")
        if config.consent is Consent.REFUSED:
            raise Refused("access_denied", "the user refused")
        given.redeemed = True
        return given


def id_token(config: ProviderConfig, given: Given, now: float) -> str:
    """Make an ID token, signed with the client's secret (OpenID Connect Core 1.0 section 2)."""
    claims = {
        "iss": config.issuer,
        "sub": "user",
        "aud": config.client_id,
        "iat": int(now),
        "exp": int(now) + 300,
    }
    if given.nonce:
        claims["nonce"] = given.nonce
    signed = f"{_encoded({'alg': 'HS256', 'typ': 'JWT'})}.{_encoded(claims)}"
    proof = hmac.digest((config.client_secret or "-").encode(), signed.encode(), "sha256")
    return f"{signed}.{_base64(proof)}"


def _is_offline(config: ProviderConfig, scope: str) -> bool:
    return not config.refresh_token_scope or config.refresh_token_scope in scope.split()


def _matches(redirect_uri: str, registered: str) -> bool:
    if redirect_uri == registered:
        return True
    asked, known = urlsplit(redirect_uri), urlsplit(registered)
    # Whatever port a native application could get (RFC 8252 section 7.3).
    loopback = known.hostname in {"127.0.0.1", "::1"} and known.port is None
    return loopback and asked._replace(netloc=known.netloc) == known and asked.hostname == known.hostname


def _s256(verifier: str) -> str:
    return _base64(hashlib.sha256(verifier.encode()).digest())


def _encoded(members: Mapping[str, Any]) -> str:
    return _base64(json.dumps(members).encode())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
