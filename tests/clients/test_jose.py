"""What is signed here is verified by another hand's library (PyJWT)."""

from __future__ import annotations

import base64
import hashlib
import warnings
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, x25519
from cryptography.hazmat.primitives.serialization import PrivateFormat

from sidecar.clients import jose, pem
from sidecar.files import UnfitFile
from tests import pki

SECRET = "sim-cs-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
CLAIMS: dict[str, str | int] = {"iss": "app", "exp": 4_000_000_000}

RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
KEYS: dict[str, Any] = {
    **dict.fromkeys(RSA, pki.rsa_key),
    "ES256": lambda: pki.ec_key(ec.SECP256R1),
    "ES384": lambda: pki.ec_key(ec.SECP384R1),
    "ES512": lambda: pki.ec_key(ec.SECP521R1),
    "EdDSA": pki.ed_key,
}


def verified(token: str, key: Any, algorithm: str) -> dict[str, Any]:
    """Return the claims, if the signature is right."""
    claims: dict[str, Any] = jwt.decode(token, key, algorithms=[algorithm])
    return claims


@pytest.mark.parametrize("algorithm", KEYS)
def test_every_algorithm_verifies_elsewhere(algorithm: str) -> None:
    """The signature is that of the public key, and the header names algorithm and key."""
    key = KEYS[algorithm]()
    signer = jose.with_key(pem.private_key(pki.pem(key)), algorithm=algorithm, key_id="k1")
    token = signer.sign(CLAIMS)
    assert verified(token, pki.public_pem(key), algorithm) == CLAIMS
    assert jwt.get_unverified_header(token) == {"alg": algorithm, "kid": "k1", "typ": "JWT"}


@pytest.mark.parametrize("algorithm", jose.SECRET_ALGORITHMS)
def test_a_secret_signs_too(algorithm: str) -> None:
    """With the client's secret as the key of an HMAC (OpenID Connect Core §9)."""
    token = jose.with_secret(SECRET, algorithm=algorithm).sign(CLAIMS)
    assert verified(token, SECRET, algorithm) == CLAIMS


def test_a_short_secret_signs_without_a_word() -> None:
    """How long a secret is was the provider's choice; nobody here could change it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        token = jose.with_secret("short").sign(CLAIMS)
    assert jwt.get_unverified_header(token)["alg"] == "HS256"


@pytest.mark.parametrize(
    ("make", "algorithm"),
    [
        (pki.rsa_key, "RS256"),
        (lambda: pki.ec_key(ec.SECP256R1), "ES256"),
        (lambda: pki.ec_key(ec.SECP384R1), "ES384"),
        (lambda: pki.ec_key(ec.SECP521R1), "ES512"),
        (pki.ed_key, "EdDSA"),
    ],
)
def test_the_algorithm_suits_the_key(make: Any, algorithm: str) -> None:
    """Where none is configured, and no `kid` is made up."""
    token = jose.with_key(pem.private_key(pki.pem(make()))).sign(CLAIMS)
    assert jwt.get_unverified_header(token) == {"alg": algorithm, "typ": "JWT"}


@pytest.mark.parametrize(
    ("make", "layout"),
    [
        (pki.rsa_key, PrivateFormat.PKCS8),
        (pki.rsa_key, PrivateFormat.TraditionalOpenSSL),
        (pki.ec_key, PrivateFormat.PKCS8),
        (pki.ec_key, PrivateFormat.TraditionalOpenSSL),
    ],
    ids=["PKCS#8 RSA", "PKCS#1", "PKCS#8 EC", "SEC1"],
)
def test_every_layout_of_a_key_is_read(make: Any, layout: PrivateFormat) -> None:
    """Whatever tool wrote it, and whatever else is in the file."""
    key = make()
    data = b"# our key\n" + pki.Authority().certificate + pki.pem(key, layout)
    token = jose.with_key(pem.private_key(data)).sign(CLAIMS)
    algorithm = jwt.get_unverified_header(token)["alg"]
    assert verified(token, pki.public_pem(key), algorithm) == CLAIMS


PASSPHRASE = b"sim-cs-0123456789abcdef"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "holds no private key in PEM"),
        (b"sim-cs-0123456789abcdef", "holds no private key in PEM"),
        (pki.public_pem(pki.ec_key()), "holds no private key in PEM"),
        (pki.pem(pki.ec_key(), passphrase=PASSPHRASE), "encrypted private key.*decrypt it"),
        (
            pki.pem(pki.ec_key(), PrivateFormat.TraditionalOpenSSL, PASSPHRASE),
            "encrypted private key.*decrypt it",
        ),
        (pki.pem(pki.ec_key())[:-60], "broken"),
        (pki.pem(pki.ec_key()).replace(b"M", b"!"), "broken"),
        (pki.pem(pki.rsa_key(1024)), "1024 bits, which is too weak"),
    ],
    ids=["empty", "a secret", "public", "encrypted", "encrypted SEC1", "cut", "garbled", "weak"],
)
def test_a_key_that_is_none_is_explained(data: bytes, reason: str) -> None:
    """In words that quote nothing of it."""
    with pytest.raises(UnfitFile, match=reason) as caught:
        pem.private_key(data)
    assert PASSPHRASE.decode() not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("make", "algorithm", "reason"),
    [
        (pki.rsa_key, "ES256", "holds an RSA key, which can't sign ES256; correct `signing_algorithm`"),
        (pki.ec_key, "ES384", "a key on secp256r1, which can't sign ES384"),
        (pki.ed_key, "RS256", "an Edwards-curve key, which can't sign RS256"),
        (pki.rsa_key, "HS256", "can't sign HS256"),
        (lambda: pki.ec_key(ec.SECP256K1), None, "a key on secp256k1, which signs no assertions"),
        (x25519.X25519PrivateKey.generate, None, "a key of another kind, which signs no assertions"),
        (lambda: dsa.generate_private_key(2048), None, "a key of another kind"),
    ],
)
def test_a_key_of_the_wrong_kind_is_explained(make: Any, algorithm: str | None, reason: str) -> None:
    """Which kind it is, and what it was wanted for."""
    key = pem.private_key(pki.pem(make()))
    with pytest.raises(UnfitFile, match=reason):
        jose.with_key(key, algorithm=algorithm)


def test_a_secret_cannot_sign_for_a_key() -> None:
    """RS256 and its like need a private key."""
    with pytest.raises(UnfitFile, match="can't sign RS256, which needs a private key"):
        jose.with_secret(SECRET, algorithm="RS256")


def test_a_certificate_names_its_key() -> None:
    """`x5t#S256` is the thumbprint of the certificate's DER (RFC 7515 §4.1.8)."""
    key = pki.rsa_key()
    pair = pki.Authority().issue("app", key)
    found = pem.certificate(pair.certificate)
    token = jose.with_key(pem.private_key(pair.key), thumbprint=found.thumbprint).sign(CLAIMS)
    expected = base64.urlsafe_b64encode(hashlib.sha256(pair.der).digest()).decode().rstrip("=")
    assert jwt.get_unverified_header(token)["x5t#S256"] == expected


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "holds no certificate in PEM"),
        (pki.pem(pki.ec_key()), "holds no certificate in PEM"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "broken"),
    ],
    ids=["empty", "a key", "garbled"],
)
def test_a_certificate_that_is_none_is_explained(data: bytes, reason: str) -> None:
    """And what belongs there."""
    with pytest.raises(UnfitFile, match=reason):
        pem.certificate(data)


def test_the_name_of_a_signer_follows_its_key_and_header() -> None:
    """Another key, algorithm or `kid` is worth another try at the provider; the same is not."""
    one, other = (pem.private_key(pki.pem(pki.rsa_key(2048, number))) for number in (0, 1))
    made = [
        jose.with_key(one),
        jose.with_key(other),
        jose.with_key(one, key_id="k"),
        jose.with_key(one, algorithm="PS256"),
        jose.with_secret(SECRET),
        jose.with_secret(SECRET + "x"),
    ]
    assert len({signer.fingerprint for signer in made}) == len(made)
    assert jose.with_key(one) == jose.with_key(one)


def test_nothing_shows_a_key() -> None:
    """In `repr`, and so in tracebacks."""
    key = pem.private_key(pki.pem(pki.ec_key()))
    assert repr(key) == "PrivateKey(a key on secp256r1)"
    assert repr(jose.with_secret(SECRET)) == "Signer({'alg': 'HS256'})"
