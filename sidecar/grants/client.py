"""The OAuth client: who we are, and how it is proved to the token endpoint (RFC 6749 §2)."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

import msgspec

from sidecar.clients.http import Sealed
from sidecar.config.settings import Client
from sidecar.errors import ConfigError
from sidecar.profile import AuthMethod, GrantType, Profile
from sidecar.tokens import fingerprint

FILE_LIMIT = 64 * 1024
"""Bytes; anything longer is not a client's credentials."""


class Credentials(msgspec.Struct, frozen=True):
    """A client's identity and its proof, as they are now."""

    id: str
    secret: str | None
    method: AuthMethod

    def __repr__(self) -> str:
        return f"Credentials({self.id!r}, {self.method.value})"

    @property
    def fingerprint(self) -> str:
        """Changes whenever the provider would be shown something else."""
        return fingerprint(json.dumps([self.id, self.secret, self.method]))

    def authenticate(self, form: Sealed) -> tuple[Sealed, Sealed]:
        """Add the proof to a form; return the form and the headers to send with it.

        One style only, never a second one as well (RFC 6749 §2.3): some providers refuse both at once.
        """
        secret = self.secret or ""
        if self.method is AuthMethod.BASIC:
            # Both are form-encoded before they are joined (RFC 6749 §2.3.1): an id may hold a colon.
            pair = f"{quote_plus(self.id, safe='')}:{quote_plus(secret, safe='')}"
            return form, Sealed(Authorization="Basic " + base64.b64encode(pair.encode()).decode())
        proof = {"client_secret": secret} if self.method is AuthMethod.POST else {}
        return Sealed({**form, "client_id": self.id, **proof}), Sealed()


class ClientIdentity:
    """Reads the client's settings, and its files again whenever they change."""

    def __init__(self, settings: Client, profile: Profile) -> None:
        """Raises `ConfigError` for settings that contradict each other."""
        self._settings = settings
        self._profile = profile
        self._read: dict[Path, tuple[object, dict[str, str]]] = {}
        _reject_contradictions(settings)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read, to be watched."""
        settings = self._settings
        return tuple(
            path for path in (settings.file, settings.id_file, settings.secret_file) if path is not None
        )

    def credentials(self) -> Credentials:
        """Return what holds now. Raises `ConfigError` naming file, reason and remedy, never the content."""
        settings = self._settings
        held: dict[str, str] = {}
        if settings.file is not None:
            held = self._content("client.file", settings.file, _google_client)
        if settings.id_file is not None:
            held = {**held, **self._content("client.id_file", settings.id_file, _line("id"))}
        if settings.secret_file is not None:
            held = {**held, **self._content("client.secret_file", settings.secret_file, _line("secret"))}
        client_id = settings.id or held.get("id")
        secret = settings.secret or held.get("secret")
        if not client_id:
            raise ConfigError("client: the client's id is missing; give file, id or id_file")
        return Credentials(client_id, secret, self._method(secret))

    def _method(self, secret: str | None) -> AuthMethod:
        asked = self._settings.auth_method
        if secret is None and asked not in {None, AuthMethod.NONE}:
            raise ConfigError(f"client.auth_method: {asked} needs a secret; give secret_file")
        if secret is None and self._profile.grant is GrantType.CLIENT_CREDENTIALS and asked is None:
            # RFC 6749 §4.4: only a client that can prove itself may use this grant.
            raise ConfigError("client: the client_credentials grant needs a secret; give secret_file")
        if asked is not None:
            return asked
        return AuthMethod.NONE if secret is None else self._profile.auth_method

    def _content(self, key: str, path: Path, parse: Callable[[bytes], dict[str, str]]) -> dict[str, str]:
        try:
            stat = path.stat()
            signature = (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size)
            known = self._read.get(path)
            if known is not None and known[0] == signature:
                return known[1]
            with path.open("rb") as file:
                data = file.read(FILE_LIMIT + 1)
        except OSError as error:
            remedy = (
                "create it or correct the path" if isinstance(error, FileNotFoundError) else "let us read it"
            )
            raise ConfigError(f"{key} {path}: {(error.strerror or 'unreadable').lower()}; {remedy}") from None
        problem = None
        content: dict[str, str] = {}
        try:
            content = parse(data)
        except _Unfit as unfit:
            problem = str(unfit)
        if problem is not None:
            # Raised out here, so that it is not chained to an error that quotes the file.
            raise ConfigError(f"{key} {path}: {problem}")
        self._read[path] = (signature, content)
        return content


class _Unfit(Exception):
    """What is wrong with a file's content, in words that quote none of it."""


def _line(member: str) -> Callable[[bytes], dict[str, str]]:
    def parse(data: bytes) -> dict[str, str]:
        text = _text(data).strip()
        if not text:
            raise _Unfit(f"is empty; write the client's {member} into it")
        if not text.isprintable():
            raise _Unfit(f"holds more than one line or is not text; it must hold the client's {member} alone")
        return {member: text}

    return parse


def _google_client(data: bytes) -> dict[str, str]:
    """Read what Google's console offers for download: one object under `installed` or `web`."""
    text = _text(data)
    if not text.strip():
        raise _Unfit("is empty; download the OAuth client's JSON again")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise _Unfit("is not JSON; download the OAuth client's JSON again") from None
    if not isinstance(document, dict):
        raise _Unfit("is not a JSON object; download the OAuth client's JSON again")
    if document.get("type") == "service_account":
        raise _Unfit("is the key of a service account; this grant needs the JSON of an OAuth client")
    client = document.get("installed") or document.get("web")
    if not isinstance(client, dict):
        raise _Unfit("has neither `installed` nor `web`; download the OAuth client's JSON again")
    client_id = _member(client, "client_id")
    if client_id is None:
        raise _Unfit("has no client_id; download the OAuth client's JSON again")
    secret = _member(client, "client_secret")
    return {"id": client_id} if secret is None else {"id": client_id, "secret": secret}


def _member(client: dict[str, Any], name: str) -> str | None:
    value = client.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or not value or not value.isprintable():
        raise _Unfit(f"has a {name} that is not a non-empty string")
    return value


def _text(data: bytes) -> str:
    if len(data) > FILE_LIMIT:
        raise _Unfit(f"is larger than {FILE_LIMIT // 1024} KiB; it is not a client's credentials")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise _Unfit("is not UTF-8 text; write it again") from None


def _reject_contradictions(settings: Client) -> None:
    sources = {
        "id": [name for name in ("file", "id", "id_file") if getattr(settings, name) is not None],
        "secret": [name for name in ("file", "secret", "secret_file") if getattr(settings, name) is not None],
    }
    # A downloaded file may lack the secret, or hold one that was replaced: then a secret of one's own counts.
    if "file" in sources["secret"] and len(sources["secret"]) > 1:
        sources["secret"].remove("file")
    problems = [
        f"client: {' and '.join(names)} all name the client's {what}; keep one"
        for what, names in sources.items()
        if len(names) > 1
    ]
    if problems:
        raise ConfigError(problems)
