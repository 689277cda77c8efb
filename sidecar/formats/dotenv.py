"""`dotenv`: lines `NAME=value`, as a shell, systemd, Compose and the dotenv libraries read them."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING

from sidecar.errors import FormatError
from sidecar.formats.fields import Selection

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.config.settings import JsonField
    from sidecar.formats.contents import Contents
    from sidecar.formats.fields import Value
    from sidecar.ports import Publication

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
"""What every reader takes for a variable's name."""

_PLAIN = re.compile(r"[A-Za-z0-9_./+:=@%,~-]*")
_QUOTABLE = re.compile(r"[\x20-\x23\x25\x26\x28-\x5b\x5d-\x7e]*")
"""Printable ASCII without quote, backslash and dollar sign: python-dotenv expands that even within single quotes."""


class Dotenv:
    """Without `fields`: ACCESS_TOKEN, TOKEN_TYPE, EXPIRES_AT, SCOPE, and REFRESH_TOKEN where it is included.

    Values are bare where that is safe, and in single quotes otherwise, which nobody expands. Docker's `--env-file`
    takes quotes for a part of the value, so that only bare values are for it: an access token nearly always is one.
    """

    name = "dotenv"

    def __init__(self, fields: Mapping[str, str | JsonField] | None = None) -> None:
        """Take `fields`: our value's name → the variable's name, or its name and type."""
        self._selection = Selection(fields, named=str.upper)
        self.carries_expiry = self._selection.carries_expiry
        self.carries_refresh = self._selection.carries_refresh

    def encode(self, publication: Publication, *, include_refresh_token: bool) -> bytes:
        """See `Format.encode`."""
        members = self._selection.written(publication, include_refresh_token=include_refresh_token)
        return "".join(f"{name}={_quoted(name, value)}\n" for name, value in members.items()).encode("ascii")

    def decode(self, data: bytes) -> Contents:
        """See `Format.decode`."""
        found = read_variables(data)
        lower = {name.lower(): value for name, value in found.items()}
        return self._selection.contents({**lower, **found})


def read_variables(data: bytes) -> dict[str, str]:
    """Read lines `NAME=value`; nothing is expanded. Raises `FormatError`, quoting nothing."""
    from dotenv.parser import parse_stream

    try:
        text = data.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError:
        raise FormatError("not text in UTF-8") from None
    found: dict[str, str] = {}
    for binding in parse_stream(io.StringIO(text)):
        if binding.error or (binding.key is not None and binding.value is None):
            raise FormatError(f"line {binding.original.line} is no `NAME=value`")
        if binding.key is None or binding.value is None:
            continue
        if binding.key in found:
            raise FormatError(f"line {binding.original.line} sets a variable that was set before")
        found[binding.key] = binding.value
    return found


def _quoted(name: str, value: Value) -> str:
    text = "" if value is None else str(value)
    if _PLAIN.fullmatch(text):
        return text
    if not _QUOTABLE.fullmatch(text):
        raise FormatError(f"the value of {name} has characters that not every reader would understand alike")
    return f"'{text}'"
