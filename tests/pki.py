"""Keys and certificates made for one test run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import ip_address
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import NameOID

DAY = timedelta(days=1)


@cache
def rsa_key(bits: int = 2048, number: int = 0) -> rsa.RSAPrivateKey:
    """Make an RSA key, the same one for the same arguments: making one takes a while."""
    del number
    return rsa.generate_private_key(65537, bits)


def ec_key(curve: type[ec.EllipticCurve] = ec.SECP256R1) -> ec.EllipticCurvePrivateKey:
    """Make a key on a curve."""
    return ec.generate_private_key(curve())


def ed_key() -> ed25519.Ed25519PrivateKey:
    """Make an Ed25519 key."""
    return ed25519.Ed25519PrivateKey.generate()


def pem(key: Any, layout: PrivateFormat = PrivateFormat.PKCS8, passphrase: bytes | None = None) -> bytes:
    """Write a private key."""
    sealed = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    written: bytes = key.private_bytes(Encoding.PEM, layout, sealed)
    return written


def public_pem(key: Any) -> bytes:
    """Write the public half of a key."""
    written: bytes = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return written


@dataclass
class Pair:
    """A certificate and its key, as PEM."""

    certificate: bytes
    key: bytes
    der: bytes


class Authority:
    """Issues certificates."""

    def __init__(self, name: str = "the authority") -> None:
        self._key = ec_key()
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._build(self._name, self._key, ca=True).certificate

    def issue(self, name: str, key: Any = None, *, begins: timedelta = -DAY, ends: timedelta = DAY) -> Pair:
        """Issue a certificate that is good for 127.0.0.1 too; its times are counted from now."""
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return self._build(subject, key or ec_key(), begins=begins, ends=ends)

    def _build(
        self,
        subject: x509.Name,
        key: Any,
        *,
        ca: bool = False,
        begins: timedelta = -DAY,
        ends: timedelta = DAY,
    ) -> Pair:
        now = datetime.now(UTC)
        address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        built = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begins)
            .not_valid_after(now + ends)
            .add_extension(address, critical=False)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return Pair(built.public_bytes(Encoding.PEM), pem(key), built.public_bytes(Encoding.DER))
