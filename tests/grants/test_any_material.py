"""Whatever is in a client's file: it is read, or explained in words that quote nothing."""

from __future__ import annotations

import base64
import json
import textwrap
import warnings
from contextlib import suppress
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.files import UnfitFile
from sidecar.grants import material
from tests import pki

relaxed = settings(max_examples=60, deadline=None)  # on a busy machine a pause is no fault

READERS = (
    material.id_line,
    material.secret_line,
    material.private_key,
    material.certificate,
    material.google_client,
    material.google_service_account,
)

KEY_DER = pki.ec_key().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
CERTIFICATE_DER = pki.Authority().issue("app").der


def armoured(label: str, der: bytes) -> bytes:
    """Write DER as PEM."""
    lines = textwrap.wrap(base64.b64encode(der).decode(), 64)
    return "\n".join([f"-----BEGIN {label}-----", *lines, f"-----END {label}-----", ""]).encode()


def damaged(der: bytes) -> st.SearchStrategy[bytes]:
    """Change some bytes, and cut some off."""
    places = st.lists(st.tuples(st.integers(0, len(der) - 1), st.integers(0, 255)), max_size=4)

    def change(changes: list[tuple[int, int]], length: int) -> bytes:
        data = bytearray(der)
        for place, value in changes:
            data[place] = value
        return bytes(data[:length])

    return st.builds(change, places, st.one_of(st.just(len(der)), st.integers(0, len(der))))


def read(reader: Any, data: bytes) -> object:
    """Read without minding what the library thinks of the content, which is not ours to change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(UnfitFile):
            return reader(data)
    return None


@pytest.mark.parametrize("reader", READERS)
@relaxed
@given(data=st.binary(max_size=200))
def test_any_bytes_are_read_or_explained(reader: Any, data: bytes) -> None:
    """No other error than the one that is meant for it."""
    read(reader, data)


@relaxed
@given(data=damaged(KEY_DER))
def test_a_damaged_key_is_read_or_explained(data: bytes) -> None:
    """And one that was read can sign, or it is known why not."""
    from sidecar.clients import jose

    key: Any = read(material.private_key, armoured("PRIVATE KEY", data))
    if key is not None:
        with suppress(UnfitFile):
            assert jose.with_key(key).sign({"iss": "app"}).count(".") == 2


@relaxed
@given(data=damaged(CERTIFICATE_DER))
def test_a_damaged_certificate_is_read_or_explained(data: bytes) -> None:
    """And one that was read has a beginning and an end."""
    found: Any = read(material.certificate, armoured("CERTIFICATE", data))
    if found is not None:
        assert (type(found.begins), type(found.ends)) == (float, float)


@relaxed
@given(
    members=st.dictionaries(
        st.sampled_from(["type", "client_email", "private_key", "private_key_id", "installed", "web"]),
        st.one_of(
            st.none(),
            st.text(),
            st.integers(),
            st.just("service_account"),
            st.dictionaries(st.text(), st.text()),
        ),
    )
)
def test_any_document_is_read_or_explained(members: dict[str, Any]) -> None:
    """Members of whatever type, text with half a surrogate included."""
    for reader in (material.google_client, material.google_service_account):
        read(reader, json.dumps(members).encode())


def test_half_a_surrogate_is_no_key() -> None:
    """JSON can write what no encoding can."""
    document = {"type": "service_account", "client_email": "a@b", "private_key": "\ud800"}
    with pytest.raises(UnfitFile, match="holds no private key"):
        material.google_service_account(json.dumps(document).encode())
