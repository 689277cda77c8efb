"""Token ↔ bytes, both ways: one file per format. Pure functions of their arguments, no I/O.

Outputs write and read back with `for_target`; seeds are read with `seed_contents`, which `recognise`s the
format from the content unless it is named.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from sidecar.errors import ConfigError, FormatError
from sidecar.formats import dotenv, netrc, template
from sidecar.formats.contents import Contents, Format
from sidecar.formats.fields import FIELDS, TYPES
from sidecar.formats.gmail_sdk import KEYS, GmailSdk
from sidecar.formats.google_authorized_user import GoogleAuthorizedUser
from sidecar.formats.header import Header
from sidecar.formats.json import JsonObject
from sidecar.formats.raw import Raw
from sidecar.formats.values import one_line, read_object

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sidecar.config.settings import OutputTarget

__all__ = [
    "NAMES",
    "READERS",
    "SEED_NAMES",
    "Contents",
    "Format",
    "for_target",
    "problems",
    "recognise",
    "seed_contents",
]

_PLAIN: dict[str, Format] = {
    plain.name: plain
    for plain in (
        Raw(),
        Header(),
        JsonObject(),
        GmailSdk(),
        GoogleAuthorizedUser(),
        dotenv.Dotenv(),
        netrc.Netrc(),
        template.Template(),
    )
}

NAMES = tuple(_PLAIN)
"""Formats of outputs."""

READERS = tuple(
    _PLAIN[name] for name in ("header", "google-authorized-user", "json", "dotenv", "netrc", "raw")
)
"""Read an access token from whatever it is in, tried in this order."""

SEED_NAMES = ("raw", "json", "gmail-sdk", "google-authorized-user", "dotenv")
"""Formats of seeds; `raw` is a bare refresh token there."""

_OPTIONS = {
    "fields": ("json", "dotenv"),
    "machine": ("netrc",),
    "login": ("netrc",),
    "template": ("template",),
}
"""Each option of an output's format, and the formats that have it."""

_SEED_VARIABLE = re.compile(r"\s*(export\s+)?([A-Z0-9_]+_)?REFRESH_TOKEN\s*=", re.IGNORECASE)
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=[^=].*")


def for_target(target: OutputTarget) -> Format:
    """Return the format that an output is configured with. Raises `ConfigError` with all that is wrong."""
    if found := problems(target):
        raise ConfigError(found)
    return _laid_out(target)


def _laid_out(target: OutputTarget) -> Format:
    match target.format:
        case "json":
            return JsonObject(target.fields)
        case "dotenv":
            return dotenv.Dotenv(target.fields)
        case "netrc":
            return netrc.Netrc(target.machine or "", target.login)
        case "template":
            return template.Template(target.template or "")
        case name:
            return _PLAIN[name]


def problems(target: OutputTarget) -> list[str]:
    """List what is wrong with an output's format and its options, one sentence each, naming the key."""
    if target.format not in _PLAIN:
        return [f"format: there is no `{target.format}`; {_choices(target.format, NAMES)}"]
    found = [*_misplaced(target), *_option_problems(target)]
    if target.adopt and not target.include_refresh_token:
        found.append(
            "adopt: needs `include_refresh_token: true`, or the application has nothing to refresh with"
        )
    if found:
        return found
    layout = _laid_out(target)
    if target.include_refresh_token and not layout.carries_refresh:
        found.append(
            f"include_refresh_token: `{target.format}` as configured has no place for a refresh token"
        )
    if target.adopt and not layout.carries_expiry:
        found.append(f"adopt: `{target.format}` as configured has no expiry, and only a later one is adopted")
    return found


def _misplaced(target: OutputTarget) -> list[str]:
    unset = type(target)()
    return [
        f"{option}: only the format {' and '.join(f'`{name}`' for name in having)} has it, and this one is "
        f"`{target.format}`"
        for option, having in _OPTIONS.items()
        if target.format not in having and getattr(target, option) != getattr(unset, option)
    ]


def _option_problems(target: OutputTarget) -> list[str]:
    match target.format:
        case "json" | "dotenv" if target.fields is not None:
            return _field_problems(target)
        case "netrc":
            return _netrc_problems(target)
        case "template":
            return _template_problems(target)
        case _:
            return []


def _template_problems(target: OutputTarget) -> list[str]:
    if not target.template:
        return ["template: is missing; write the text that the application wants, as a Jinja2 template"]
    wrong = template.problem(target.template)
    return [f"template: {wrong}"] if wrong else []


def _netrc_problems(target: OutputTarget) -> list[str]:
    if not target.machine:
        return ["machine: is missing; name the host that the token is for"]
    return [
        f"{option}: must be one word without quotes, `#` or backslash"
        for option in ("machine", "login")
        if not netrc.WORD.fullmatch(getattr(target, option))
    ]


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
        elif target.format == "dotenv" and not dotenv.NAME.fullmatch(name):
            found.append(f"fields.{field}: `{name}` is no name of a variable; use letters, digits and `_`")
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
    text = data.removeprefix(b"\xef\xbb\xbf").decode(errors="replace").strip()
    if not text.startswith("{"):
        return "dotenv" if any(_SEED_VARIABLE.match(line) for line in text.splitlines()) else "raw"
    members = read_object(data)
    if "installed" in members or "web" in members:
        raise FormatError(
            "a client's credentials.json, which holds no token (it belongs under `client: {file: …}`)"
        )
    if members.get("type") == "service_account":
        raise FormatError(
            "a service account's key, which holds no refresh token (it belongs under `client: {file: …}`)"
        )
    if "access_token" not in members and ("token" in members or members.get("type") == "authorized_user"):
        return "google-authorized-user"
    is_number = isinstance(members.get("expires_at"), int | float)
    return "gmail-sdk" if is_number and members.keys() <= KEYS and "access_token" in members else "json"


def seed_contents(data: bytes, name: str | None = None, fields: Mapping[str, str] | None = None) -> Contents:
    """Read a seed, whether or not there is a refresh token in it. Raises `FormatError`, quoting nothing.

    JSON of the usual names is understood whatever else is in it: a token endpoint's answer (RFC 6749 §5.1),
    the files of client libraries, a bare `{"refresh_token": …}`. `fields` names members that are called
    otherwise.
    """
    name = name or recognise(data)
    match name:
        case "raw":
            return Contents(refresh_token=_bare_token(data))
        case "json":
            return JsonObject(fields).decode(data)
        case "dotenv":
            return dotenv.Dotenv(fields or _variables(data)).decode(data)
        case _ if name in SEED_NAMES:
            return _PLAIN[name].decode(data)
        case _:
            raise FormatError(f"`{name}` is no format of seeds; {_choices(name, SEED_NAMES)}")


def _variables(data: bytes) -> dict[str, str]:
    """Find out what the variable with the refresh token is called, where it has a prefix (`GMAIL_REFRESH_TOKEN`)."""
    ending = "refresh_token"
    names = [name for name in dotenv.read_variables(data) if name.lower().endswith(ending)]
    if len(names) > 1:
        raise FormatError(
            f"{len(names)} variables with a refresh token; say which: `fields: {{refresh_token: NAME}}`"
        )
    prefix = names[0][: -len(ending)] if names else ""
    return {field: f"{prefix}{field.upper()}" for field in FIELDS}


def _bare_token(data: bytes) -> str:
    try:
        token = one_line(data.removeprefix(b"\xef\xbb\xbf"))
    except FormatError:
        raise FormatError(_other_than_bare(data)) from None
    if token[0] in "\"'<[{" or _ASSIGNMENT.fullmatch(token):
        raise FormatError("one line, but not a bare refresh token (quotes, brackets or `NAME=` around it?)")
    return token


def _other_than_bare(data: bytes) -> str:
    """Say what a text of several words is, as far as it can be told: formats of ours hold access tokens only."""
    words = data[:64].lower().split()
    if words[:1] == [b"authorization:"]:
        return "an `Authorization` header, which holds an access token and no refresh token"
    if words[:1] == [b"machine"]:
        return "a netrc file, which holds an access token and no refresh token"
    return "neither a JSON object nor a single line with nothing but a refresh token"
