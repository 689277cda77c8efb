"""How a client proves who it is at the token endpoint, and how it is refused (RFC 6749 sections 2.3, 5.2)."""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import unquote_plus

from sidecar.testing.config import ClientAuth, ProviderConfig


class Refused(Exception):
    """An error answer of the token endpoint (RFC 6749 section 5.2)."""

    def __init__(self, error: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.error = error
        self.description = description
        self.status = status


def authenticate(config: ProviderConfig, form: Mapping[str, str], authorization: str | None) -> None:
    """Check the client's credentials; raises `Refused`."""
    client_id, secret = form.get("client_id"), form.get("client_secret")
    if authorization is not None:
        if secret is not None:
            raise Refused("invalid_request", "more than one client authentication method")
        client_id, secret = _basic_credentials(authorization)
    accepted = method_used(form, authorization) in config.accepted_auth
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
    return ClientAuth.NONE if "client_id" in form else None


def _basic_credentials(authorization: str) -> tuple[str, str]:
    """Decode client id and secret, each form-encoded before Basic (RFC 6749 section 2.3.1)."""
    scheme, _, encoded = authorization.partition(" ")
    with suppress(binascii.Error, UnicodeDecodeError):
        client_id, colon, secret = base64.b64decode(encoded, validate=True).decode().partition(":")
        if scheme.lower() == "basic" and colon:
            return unquote_plus(client_id), unquote_plus(secret)
    raise Refused("invalid_client", "the Authorization header is not HTTP Basic", 401)
