"""Signing assertions (JWT, RFC 7519) for token endpoints. Imported only where the configuration needs one."""

from __future__ import annotations

import json
import warnings
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jwk, jwt
from joserfc.errors import SecurityWarning

from sidecar.files import UnfitFile
from sidecar.tokens import fingerprint

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.clients.pem import PrivateKey

SECRET_ALGORITHMS = ("HS256", "HS384", "HS512")

_KEYS: dict[str, Any] = {
    "RS": jwk.RSAKey,
    "PS": jwk.RSAKey,
    "ES": jwk.ECKey,
    "Ed": jwk.OKPKey,
    "HS": jwk.OctKey,
}


class Signer:
    """One key and the way it signs."""

    def __init__(self, key: Any, header: Mapping[str, str], identity: str) -> None:
        """Made by `with_key` and `with_secret`."""
        self._key = key
        self._header = dict(header)
        self.fingerprint = fingerprint(json.dumps([self._header, identity]))
        """Names the key and how it signs; not the assertions, of which each is new."""

    def __repr__(self) -> str:
        """Show the header, which is public."""
        return f"Signer({self._header})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signer) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def sign(self, claims: Mapping[str, str | int]) -> str:
        """Return the claims as a signed JWT in its compact form (RFC 7515 §3.1)."""
        with warnings.catch_warnings():
            # RFC 9864 has new names for EdDSA, which providers don't take yet.
            warnings.simplefilter("ignore", SecurityWarning)
            return jwt.encode(self._header, dict(claims), self._key, algorithms=[self._header["alg"]])


def with_key(
    key: PrivateKey, *, algorithm: str | None = None, key_id: str | None = None, thumbprint: str | None = None
) -> Signer:
    """Sign with a private key; by default as suits it. Raises `UnfitFile` for an algorithm of another kind of key.

    `thumbprint` is that of the key's certificate, for providers that know the key by it (Entra).
    """
    chosen = algorithm or next(iter(key.algorithms), None)
    if chosen is None:
        raise UnfitFile(
            f"holds {key.kind}, which signs no assertions; use RSA, P-256, P-384, P-521 or Ed25519"
        )
    if chosen not in key.algorithms:
        raise UnfitFile(
            f"holds {key.kind}, which can't sign {chosen}; correct `signing_algorithm` or the file"
        )
    pem = key.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    header = {"alg": chosen, "kid": key_id, "x5t#S256": thumbprint}
    return _signer(pem, header, key.fingerprint)


def with_secret(secret: str, *, algorithm: str | None = None, key_id: str | None = None) -> Signer:
    """Sign with the client's secret (OpenID Connect Core §9). Raises `UnfitFile` for an algorithm that needs a key."""
    chosen = algorithm or SECRET_ALGORITHMS[0]
    if chosen not in SECRET_ALGORITHMS:
        raise UnfitFile(f"can't sign {chosen}, which needs a private key; correct `signing_algorithm`")
    return _signer(secret.encode(), {"alg": chosen, "kid": key_id}, secret)


def _signer(key: bytes, header: Mapping[str, str | None], identity: str) -> Signer:
    with warnings.catch_warnings():
        # Providers choose how long their secrets are.
        warnings.simplefilter("ignore", SecurityWarning)
        imported = _KEYS[str(header["alg"])[:2]].import_key(key)
    return Signer(imported, {name: value for name, value in header.items() if value}, identity)
