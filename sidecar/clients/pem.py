"""Private keys and certificates in PEM files, and what is wrong with one that can't be used.

Imported only where one is configured: the library takes megabytes of memory.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from sidecar.files import UnfitFile

RSA_BITS = 2048
"""RFC 7518 §3.3 forbids anything shorter."""


class PrivateKey(msgspec.Struct, frozen=True):
    """A private key."""

    key: Any
    """The library's own object."""
    public: bytes
    """Its public half (DER, SubjectPublicKeyInfo), to tell whether a certificate is for this key."""
    kind: str
    """In words: `an RSA key`."""
    algorithms: tuple[str, ...]
    """What it can sign with (RFC 7518 §3.1, RFC 8037 §3.1), the usual one first."""

    def __repr__(self) -> str:
        """Show what kind it is, and nothing of it."""
        return f"PrivateKey({self.kind})"

    @property
    def fingerprint(self) -> str:
        """Names the key."""
        return hashlib.sha256(self.public).hexdigest()


class Certificate(msgspec.Struct, frozen=True):
    """The first certificate of a file, which is the client's own. Times are Unix seconds."""

    der: bytes
    public: bytes
    """Its public key (DER, SubjectPublicKeyInfo)."""
    begins: float
    ends: float

    @property
    def thumbprint(self) -> str:
        """What the header `x5t#S256` holds (RFC 7515 §4.1.8)."""
        return base64.urlsafe_b64encode(hashlib.sha256(self.der).digest()).rstrip(b"=").decode()


def private_key(data: bytes) -> PrivateKey:
    """Read a private key: PKCS#8, PKCS#1 or SEC1. What else is in the file is left alone. Raises `UnfitFile`."""
    if b"PRIVATE KEY-----" not in data:
        raise UnfitFile("holds no private key in PEM (-----BEGIN … PRIVATE KEY-----); write one into it")
    if b"-----BEGIN ENCRYPTED" in data or b"Proc-Type: 4,ENCRYPTED" in data:
        raise UnfitFile(
            "holds an encrypted private key, and nobody is there to type the passphrase; decrypt it"
        )
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UnfitFile("holds a private key that is broken or of an unknown kind; write it anew") from None
    kind, algorithms = _nature(key)
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return PrivateKey(key, public, kind, algorithms)


def _nature(key: object) -> tuple[str, tuple[str, ...]]:
    match key:
        case rsa.RSAPrivateKey() if key.key_size >= RSA_BITS:
            return "an RSA key", ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
        case rsa.RSAPrivateKey():
            raise UnfitFile(
                f"holds an RSA key of {key.key_size} bits, which is too weak; make one of {RSA_BITS}"
            )
        case ec.EllipticCurvePrivateKey():
            return f"a key on {key.curve.name}", _CURVES.get(key.curve.name, ())
        case ed25519.Ed25519PrivateKey() | ed448.Ed448PrivateKey():
            return "an Edwards-curve key", ("EdDSA",)
        case _:
            return "a key of another kind", ()


_CURVES = {"secp256r1": ("ES256",), "secp384r1": ("ES384",), "secp521r1": ("ES512",)}


def certificate(data: bytes) -> Certificate:
    """Read a file's first certificate. Raises `UnfitFile`."""
    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise UnfitFile("holds no certificate in PEM (-----BEGIN CERTIFICATE-----); write one into it")
    try:
        found = x509.load_pem_x509_certificates(data)[0]
        return Certificate(
            der=found.public_bytes(Encoding.DER),
            public=found.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
            begins=found.not_valid_before_utc.timestamp(),
            ends=found.not_valid_after_utc.timestamp(),
        )
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise UnfitFile("holds a certificate that is broken; write it anew") from None
