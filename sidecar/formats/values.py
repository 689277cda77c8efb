"""Single values in and out of token files: times, texts and the JSON around them."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sidecar.errors import FormatError
from sidecar.tokens import ExpirySource

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from sidecar.ports import Publication
    from sidecar.tokens import AccessToken

OPEN_END = 253402300799.0
"""9999-12-31T23:59:59Z: for readers that demand a time where there is none."""

_MILLISECONDS = 1e11
"""Numbers from here on can't be seconds (year 5138) and are read as JavaScript's milliseconds."""

_AGES = 1e10
"""A lifetime of centuries is what we ourselves write where there is none."""

_NUMBER = re.compile(r"-?\d{1,18}(\.\d{1,18})?")
_VISIBLE = re.compile(r"[\x21-\x7e]+")


def known_expiry(access: AccessToken) -> float | None:
    """Return the expiry for a reader that takes "unknown" for an answer; None: never, or nobody said."""
    return None if access.expiry_source is ExpirySource.ASSUMED else access.expires_at


def demanded_expiry(access: AccessToken, *, can_refresh: bool) -> float:
    """Return the expiry for a reader that needs a time and refreshes by itself when that comes near.

    A reader that was given no refresh token could only fail on its own, so an expiry that nobody knows is put
    at the open end for it; one that `can_refresh` gets the assumed time, since then it is of help.
    """
    expires_at = access.expires_at if can_refresh else known_expiry(access)
    return OPEN_END if expires_at is None else expires_at


def scope_of(publication: Publication) -> str | None:
    """Return the scope that was granted, else the configured one (RFC 6749 §5.1: omitted if identical)."""
    return publication.access.scope or " ".join(publication.scopes) or None


def iso8601(seconds: float) -> str:
    """Write a time in UTC to the second, rounded down."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def iso8601_naive(seconds: float) -> str:
    """Write a time in UTC without saying so, to the microsecond, as Python's naive `isoformat` does."""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat(timespec="microseconds")


def visible(token: str) -> str:
    """Return a token that can stand in a header line (RFC 6750 §2.1); raises `FormatError` otherwise."""
    if not _VISIBLE.fullmatch(token):
        raise FormatError("the access token is empty or has characters that cannot stand in an HTTP header")
    return token


def one_line(data: bytes) -> str:
    """Read one line of visible characters, with any white space around it."""
    try:
        line = data.strip(b" \t\r\n").decode("ascii")
    except UnicodeDecodeError:
        line = "\0"
    if not _VISIBLE.fullmatch(line):
        raise FormatError("not a single line with nothing but a token")
    return line


def write_object(members: Mapping[str, Any]) -> bytes:
    """Write a JSON object in plain ASCII, whatever encoding the reader takes it for."""
    return json.dumps(members, indent=2, allow_nan=False).encode("ascii") + b"\n"


def read_object(data: bytes) -> dict[str, Any]:
    """Read a JSON object, none of whose members comes twice. Raises `FormatError`."""
    try:
        found = json.loads(
            data.removeprefix(b"\xef\xbb\xbf").decode(), object_pairs_hook=_unique, parse_constant=_no_number
        )
    except (ValueError, RecursionError):
        # Not chained: the parser's own error may hold the content.
        raise FormatError("not valid JSON (half written, or another format?)") from None
    if not isinstance(found, dict):
        raise FormatError("valid JSON, but not an object")
    return found


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        # Two of them make two readers see two tokens: a file that was edited by halves.
        raise FormatError("a JSON object in which a member comes twice")
    return members


def _no_number(constant: str) -> float:
    raise ValueError(constant)


def text(members: Mapping[str, Any], name: str) -> str | None:
    """Read a string member; empty, null and absent are one."""
    value = members.get(name)
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise FormatError(f"member `{name}` is not a string")
    return value


def words(members: Mapping[str, Any], name: str) -> str | None:
    """Read a scope, written as one string or as a list of them."""
    value = members.get(name)
    if isinstance(value, list) and all(isinstance(word, str) for word in value):
        return " ".join(value) or None
    return text(members, name)


def time_of(members: Mapping[str, Any], names: Iterable[str]) -> float | None:
    """Read a time from the first of these members that is there.

    Seconds or milliseconds since the epoch, as a number or a string, or ISO 8601, taken for UTC when it names
    no offset. None when absent, null, empty, before the epoch (Go's zero time) or at the open end.
    """
    for name in names:
        value = members.get(name)
        if value is None or value == "":
            continue
        seconds = _number(value)
        if seconds is None:
            seconds = _iso8601(value)
        if seconds is not None and seconds >= _MILLISECONDS and seconds != OPEN_END:
            seconds /= 1000
        if seconds is None or seconds > OPEN_END:
            raise FormatError(f"member `{name}` is not a time")
        return None if seconds < 0 or seconds == OPEN_END else seconds
    return None


def duration_of(members: Mapping[str, Any], names: Iterable[str]) -> float | None:
    """Read a number of seconds from the first of these members that is there; None where it says nothing."""
    for name in names:
        value = members.get(name)
        if value is None or value == "":
            continue
        seconds = _number(value)
        if seconds is None:
            raise FormatError(f"member `{name}` is not a number of seconds")
        return seconds if 0 < seconds < _AGES else None
    return None


def _number(value: object) -> float | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        return float(value) if _NUMBER.fullmatch(value) else None
    if not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _iso8601(value: object) -> float | None:
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
