"""`netrc`: `machine HOST login NAME password TOKEN`, as curl, git, wget, pip and Python's requests read it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from sidecar.errors import FormatError
from sidecar.formats.contents import Contents
from sidecar.formats.values import visible

if TYPE_CHECKING:
    from sidecar.ports import Publication

WORD = re.compile(r"[\x21\x24-\x26\x28-\x5b\x5d-\x7e]+")
"""Visible characters without quotes, backslash and `#`, on which readers of the file disagree."""


class Netrc:
    """The token is the password; which login goes with it is the provider's to say (`oauth2`, `x-access-token`)."""

    name = "netrc"
    carries_expiry = False
    carries_refresh = False

    def __init__(self, machine: str = "", login: str = "") -> None:
        """`machine` is the host that the token is for."""
        self._machine = machine
        self._login = login

    def encode(self, publication: Publication, *, include_refresh_token: bool) -> bytes:  # noqa: ARG002
        """See `Format.encode`."""
        token = visible(publication.access.value)
        if not WORD.fullmatch(token):
            raise FormatError(
                "the access token has quotes, `#` or a backslash, on which readers of netrc disagree"
            )
        return f"machine {self._machine}\nlogin {self._login}\npassword {token}\n".encode("ascii")

    def decode(self, data: bytes) -> Contents:
        """See `Format.decode`. Of several machines ours counts, or the only one."""
        entries = read_machines(data)
        if self._machine in entries:
            return Contents(access_token=entries[self._machine])
        if self._machine or len(entries) != 1:
            raise FormatError("no entry for the machine that is meant")
        return Contents(access_token=next(iter(entries.values())))


def read_machines(data: bytes) -> dict[str, str]:
    """Read each machine's password. Raises `FormatError`, quoting nothing."""
    try:
        words = data.removeprefix(b"\xef\xbb\xbf").decode("ascii").split()
    except UnicodeDecodeError:
        raise FormatError("not a netrc file") from None
    found: dict[str, str] = {}
    machine = None
    pairs = iter(words)
    for word in pairs:
        if word == "default":
            machine = word
            continue
        value = next(pairs, None)
        if value is None or word not in {"machine", "login", "account", "password"}:
            raise FormatError("not a netrc file of `machine`, `login` and `password`")
        if word == "machine":
            machine = value
        elif machine is None:
            raise FormatError(f"`{word}` before any `machine`")
        elif word == "password":
            if machine in found:
                raise FormatError("two passwords for one machine")
            found[machine] = value
    return found
