"""How a client proves who it is at the token endpoint, and how it is refused (RFC 6749 sections 2.3, 5.2)."""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import unquote_plus

from sidecar.testing.config import ClientAuth, ProviderConfig

LONGEST_ASSERTION = 3600.0
"""Seconds that an assertion may be valid for, as at Google."""


class Refused(Exception):
    """An error answer of the token endpoint (RFC 6749 section 5.2)."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.error = error
        self.description = description
        self.status = status


def authenticate(
    config: ProviderConfig, form: Mapping[str, str], authorization: str | None, assertions: Assertions
) -> None:
    """Check the client's credentials; raises `Refused`."""
    client_id, secret, signed = (
        form.get(name) for name in ("client_id", "client_secret", "client_assertion")
    )
    if sum(proof is not None for proof in (authorization, secret, signed)) > 1:
        raise Refused("invalid_request", "more than one client authentication method")
    if authorization is not None:
        client_id, secret = _basic_credentials(authorization)
    accepted = method_used(form, authorization) in config.accepted_auth
    if signed is not None and accepted:
        claims = assertions.verified(signed, config)
        if {claims.get("sub"), client_id or config.client_id} != {config.client_id}:
            raise Refused("invalid_client", "the assertion speaks for another client", 401)
        return
    right = hmac.compare_digest((secret or "").encode(), (config.client_secret or "").encode())
    if not (accepted and right and client_id == config.client_id):
        status = 400 if authorization is None else 401
        raise Refused("invalid_client", "client authentication failed", status)


def method_used(form: Mapping[str, str], authorization: str | None) -> ClientAuth | None:
    """Tell how a client authenticates, right or wrong; None if it doesn't say who it is."""
    if authorization is not None:
        return ClientAuth.BASIC
    if "client_secret" in form:
        return ClientAuth.POST
    if "client_assertion" in form:
        secret = _algorithm(form["client_assertion"]).startswith("HS")
        return ClientAuth.SECRET_JWT if secret else ClientAuth.PRIVATE_KEY_JWT
    return ClientAuth.NONE if "client_id" in form else None


class Assertions:
    """Verifies assertions (RFC 7523 section 3), each of which counts once."""

    def __init__(self, now: Callable[[], float]) -> None:
        """`now` gives seconds since the epoch."""
        self._now = now
        self._seen: set[str] = set()

    def verified(
        self, token: str, config: ProviderConfig, error: str = "invalid_client", *, once: bool = True
    ) -> dict[str, Any]:
        """Return the claims of an assertion that this client made; raises `Refused` with this error.

        `once`: it must have a `jti` that wasn't seen before.
        """
        claims, now = _signed_claims(token, config), self._now()
        problems = (
            (claims is None, "the signature of the assertion is wrong"),
            (claims and claims.get("iss") != config.client_id, "the assertion is from another client"),
            (
                claims and config.audience not in {"", claims.get("aud")},
                "the assertion is for another server",
            ),
            (
                claims and not now < claims.get("exp", 0) <= now + LONGEST_ASSERTION,
                "the assertion has expired",
            ),
            (claims and claims.get("iat", 0) > now, "the assertion is from the future"),
            (once and claims and claims.get("jti") in {*self._seen, None}, "the assertion was used before"),
        )
        for wrong, description in problems:
            if wrong or claims is None:
                raise Refused(error, description, 401 if error == "invalid_client" else 400)
        self._seen.add(claims.get("jti", "") if claims else "")
        return claims or {}


def _signed_claims(token: str, config: ProviderConfig) -> dict[str, Any] | None:
    """Check a signature, with the secret or with the registered key, whichever its algorithm takes."""
    from joserfc import jwk, jwt
    from joserfc.errors import JoseError, SecurityWarning

    algorithm = _algorithm(token)
    kinds: dict[str, Any] = {"RS": jwk.RSAKey, "PS": jwk.RSAKey, "ES": jwk.ECKey, "Ed": jwk.OKPKey}
    kind = kinds.get(algorithm[:2], jwk.OctKey)
    proof = config.client_secret if kind is jwk.OctKey else config.client_public_key
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SecurityWarning)
        with suppress(JoseError, ValueError):
            return dict(jwt.decode(token, kind.import_key(proof or "-"), algorithms=[algorithm]).claims)
    return None


def _algorithm(token: str) -> str:
    with suppress(ValueError, TypeError, KeyError):
        header = token.partition(".")[0]
        return str(json.loads(base64.urlsafe_b64decode(header + "=" * (-len(header) % 4)))["alg"])
    return ""


def _basic_credentials(authorization: str) -> tuple[str, str]:
    """Decode client id and secret, each form-encoded before Basic (RFC 6749 section 2.3.1)."""
    scheme, _, encoded = authorization.partition(" ")
    with suppress(binascii.Error, UnicodeDecodeError):
        client_id, colon, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
        if scheme.lower() == "basic" and colon:
            return unquote_plus(client_id), unquote_plus(secret)
    raise Refused("invalid_client", "the Authorization header is not HTTP Basic", 401)
