"""Token ↔ bytes, both ways: one file per format. Pure functions of their arguments, no I/O.

Outputs write and read back with `for_target`; seeds are read with `seed_contents`, which `recognise`s the
format from the content unless it is named.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from sidecar.errors import ConfigError, FormatError
from sidecar.formats.contents import Contents, Format
from sidecar.formats.gmail_sdk import KEYS, GmailSdk
from sidecar.formats.google_authorized_user import GoogleAuthorizedUser
from sidecar.formats.header import Header
from sidecar.formats.json import FIELDS, TYPES, JsonObject
from sidecar.formats.raw import Raw
from sidecar.formats.values import one_line, read_object

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sidecar.config.settings import OutputTarget

__all__ = [
    "NAMES",
    "SEED_NAMES",
    "Contents",
    "Format",
    "for_target",
    "problems",
    "recognise",
    "seed_contents",
]

_PLAIN: dict[str, Format] = {
    plain.name: plain for plain in (Raw(), Header(), JsonObject(), GmailSdk(), GoogleAuthorizedUser())
}

NAMES = tuple(_PLAIN)
"""Formats of outputs."""

SEED_NAMES = ("raw", "json", "gmail-sdk", "google-authorized-user")
"""Formats of seeds; `raw` is a bare refresh token there."""

_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=[^=].*")


def for_target(target: OutputTarget) -> Format:
    """Return the format that an output is configured with. Raises `ConfigError` with all that is wrong."""
    if found := problems(target):
        raise ConfigError(found)
    return _PLAIN[target.format] if target.fields is None else JsonObject(target.fields)


def problems(target: OutputTarget) -> list[str]:
    """List what is wrong with an output's format and its options, one sentence each, naming the key."""
    if target.format not in _PLAIN:
        return [f"format: there is no `{target.format}`; {_choices(target.format, NAMES)}"]
    found = []
    if target.fields is not None and target.format != "json":
        found.append(f"fields: only the format `json` has fields, and this one is `{target.format}`")
    elif target.fields is not None:
        found += _field_problems(target)
    if target.adopt and not target.include_refresh_token:
        found.append(
            "adopt: needs `include_refresh_token: true`, or the application has nothing to refresh with"
        )
    if found:
        return found
    layout = _PLAIN[target.format] if target.fields is None else JsonObject(target.fields)
    if target.include_refresh_token and not layout.carries_refresh:
        found.append(
            f"include_refresh_token: `{target.format}` as configured has no place for a refresh token"
        )
    if target.adopt and not layout.carries_expiry:
        found.append(f"adopt: `{target.format}` as configured has no expiry, and only a later one is adopted")
    return found


def _field_problems(target: OutputTarget) -> list[str]:
    found = []
    taken: dict[str, str] = {}
    for field, member in (target.fields or {}).items():
        name, written_as = (member, None) if isinstance(member, str) else (member.name, member.type)
        if field not in FIELDS:
            found.append(f"fields.{field}: there is no such value; {_choices(field, FIELDS)}")
        elif written_as is not None and written_as not in TYPES[FIELDS[field]]:
            possible = ", ".join(TYPES[FIELDS[field]])
            found.append(f"fields.{field}.type: `{written_as}` is not possible; one of {possible}")
        if not name:
            found.append(f"fields.{field}: the name is empty")
        elif name in taken:
            found.append(f"fields.{field}: the name `{name}` is already that of `{taken[name]}`")
        taken.setdefault(name, field)
    if "access_token" not in (target.fields or {}):
        found.append("fields: `access_token` is missing, so there would be no token in the file")
    return found


def _choices(given: str, known: Iterable[str]) -> str:
    names = list(known)
    near = difflib.get_close_matches(given, names, n=1)
    return f"did you mean `{near[0]}`?" if near else f"one of {', '.join(names)}"


def recognise(data: bytes) -> str:
    """Tell the format of a seed from its content. Raises `FormatError`, quoting nothing."""
    if not data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return "raw"
    members = read_object(data)
    if "installed" in members or "web" in members:
        raise FormatError(
            "a client's credentials.json, which holds no token (it belongs under `client: {file: …}`)"
        )
    if members.get("type") == "service_account":
        raise FormatError("a service account's key, which holds no refresh token")
    if "access_token" not in members and ("token" in members or members.get("type") == "authorized_user"):
        return "google-authorized-user"
    is_number = isinstance(members.get("expires_at"), int | float)
    return "gmail-sdk" if is_number and members.keys() <= KEYS and "access_token" in members else "json"


def seed_contents(data: bytes, name: str | None = None) -> Contents:
    """Read a seed, whether or not there is a refresh token in it. Raises `FormatError`, quoting nothing.

    JSON of the usual names is understood whatever else is in it: a token endpoint's answer (RFC 6749 §5.1),
    the files of client libraries, a bare `{"refresh_token": …}`.
    """
    name = name or recognise(data)
    if name not in SEED_NAMES:
        raise FormatError(f"`{name}` is no format of seeds; {_choices(name, SEED_NAMES)}")
    if name == "raw":
        return Contents(refresh_token=_bare_token(data))
    return _PLAIN[name].decode(data)


def _bare_token(data: bytes) -> str:
    try:
        token = one_line(data.removeprefix(b"\xef\xbb\xbf"))
    except FormatError:
        raise FormatError(
            "neither a JSON object nor a single line with nothing but a refresh token"
        ) from None
    if token[0] in "\"'<[{" or _ASSIGNMENT.fullmatch(token):
        raise FormatError("one line, but not a bare refresh token (quotes, brackets or `NAME=` around it?)")
    return token
