"""What the client's files hold: identifiers, secrets, keys and certificates, read again when they change."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from sidecar.errors import ConfigError
from sidecar.files import UnfitFile, signature

if TYPE_CHECKING:
    from sidecar.clients.pem import Certificate, PrivateKey

T = TypeVar("T")

FILE_LIMIT = 64 * 1024
"""Bytes; anything longer is not a client's credentials."""

_DOWNLOAD = "download the OAuth client's JSON again"


class Material(msgspec.Struct, frozen=True):
    """What one file, or all of them together, say of the client."""

    id: str | None = None
    secret: str | None = None
    key: Any = None
    """A `PrivateKey`."""
    key_id: str | None = None

    def __repr__(self) -> str:
        return f"Material({self.id!r})"


class Files:
    """Reads small files, and again only when they have changed."""

    def __init__(self) -> None:
        self._read: dict[tuple[Path, Callable[[bytes], Any]], tuple[object, Any]] = {}

    def content(self, key: str, path: Path, parse: Callable[[bytes], T]) -> T:
        """Return what a file holds. Raises `ConfigError` naming the key, the file, the reason and the remedy."""
        try:
            seen = signature(path.stat())
            known = self._read.get((path, parse))
            if known is not None and known[0] == seen:
                found: T = known[1]
                return found
            with path.open("rb") as file:
                data = file.read(FILE_LIMIT + 1)
        except OSError as error:
            remedy = (
                "create it or correct the path" if isinstance(error, FileNotFoundError) else "let us read it"
            )
            raise ConfigError(f"{key} {path}: {(error.strerror or 'unreadable').lower()}; {remedy}") from None
        try:
            found = parse(data)
        except UnfitFile as unfit:
            problem = str(unfit)
        else:
            self._read[path, parse] = (seen, found)
            return found
        # Raised out here, so that it is not chained to an error that quotes the file.
        raise ConfigError(f"{key} {path}: {problem}")


def id_line(data: bytes) -> Material:
    """Read a file that holds the client's identifier alone. Raises `UnfitFile`, as all that follow do."""
    return Material(id=_line(data, "id"))


def secret_line(data: bytes) -> Material:
    """Read a file that holds a secret alone."""
    return Material(secret=_line(data, "secret"))


def private_key(data: bytes) -> PrivateKey:
    """Read a private key in PEM."""
    from sidecar.clients import pem

    return pem.private_key(_bounded(data))


def certificate(data: bytes) -> Certificate:
    """Read a certificate in PEM."""
    from sidecar.clients import pem

    return pem.certificate(_bounded(data))


def client_anywhere(data: bytes) -> Material:
    """Read a client's id from wherever it is kept: bare, as `client_id` in JSON, or as Google's console gives it."""
    if not data.lstrip().startswith(b"{"):
        return id_line(data)
    document = _google(data)
    found = _member(document, "client_id")
    return Material(id=found) if found is not None else Material(id=google_client(data).id)


def google_client(data: bytes) -> Material:
    """Read what Google's console offers for download: one object under `installed` or `web`."""
    document = _google(data)
    if document.get("type") == "service_account":
        raise UnfitFile(
            "is the key of a service account, which is for `grant: jwt_bearer`; "
            "this grant needs the JSON of an OAuth client"
        )
    if document.get("type") == "authorized_user":
        raise UnfitFile(f"holds a user's refresh token, and belongs under `seed`; as the client {_DOWNLOAD}")
    client = document.get("installed") or document.get("web")
    if not isinstance(client, dict):
        raise UnfitFile(f"has neither `installed` nor `web`; {_DOWNLOAD}")
    client_id = _member(client, "client_id")
    if client_id is None:
        raise UnfitFile(f"has no client_id; {_DOWNLOAD}")
    return Material(id=client_id, secret=_member(client, "client_secret"))


def google_service_account(data: bytes) -> Material:
    """Read the key of a service account, as Google's console makes it.

    Its `token_uri` is left alone: where credentials are sent to is said by the configuration, never by a secret.
    """
    document = _google(data)
    if document.get("type") != "service_account":
        raise UnfitFile(
            "is not the key of a service account, which jwt_bearer needs; make one in the console"
        )
    client_id, key = _member(document, "client_email"), document.get("private_key")
    if client_id is None or not isinstance(key, str):
        raise UnfitFile("has no client_email or no private_key; make a new key in the console")
    return Material(
        id=client_id,
        key=private_key(key.encode(errors="replace")),
        key_id=_member(document, "private_key_id"),
    )


def _line(data: bytes, what: str) -> str:
    text = _text(data).strip()
    if not text:
        raise UnfitFile(f"is empty; write the client's {what} into it")
    if not text.isprintable():
        raise UnfitFile(f"holds more than one line or is not text; it must hold the client's {what} alone")
    return text


def _google(data: bytes) -> dict[str, Any]:
    text = _text(data)
    if not text.strip():
        raise UnfitFile(f"is empty; {_DOWNLOAD}")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise UnfitFile(f"is not JSON; {_DOWNLOAD}") from None
    if not isinstance(document, dict):
        raise UnfitFile(f"is not a JSON object; {_DOWNLOAD}")
    return document


def _member(client: dict[str, Any], name: str) -> str | None:
    value = client.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value or not value.isprintable():
        raise UnfitFile(f"has a {name} that is not a non-empty string")
    return value


def _text(data: bytes) -> str:
    try:
        return _bounded(data).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnfitFile("is not UTF-8 text; write it again") from None


def _bounded(data: bytes) -> bytes:
    if len(data) > FILE_LIMIT:
        raise UnfitFile(f"is larger than {FILE_LIMIT // 1024} KiB; it is not a client's credentials")
    return data
