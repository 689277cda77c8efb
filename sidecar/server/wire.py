"""What travels over the control socket: replies, requests, and errors as status codes and back.

Both ends import this module and neither imports the other's libraries: commands start fast.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import msgspec

from sidecar.errors import (
    ConfigError,
    HumanNeeded,
    SidecarError,
    TemporarilyUnavailable,
    UnknownToken,
    UsageError,
)
from sidecar.ports import Seeding

SOCKET_FILE = "control.sock"
ADDRESS_FILE = "http.json"
BODY_LIMIT = 256 * 1024
"""Bytes of a request; the longest pairs of tokens known have a few thousand."""

LOGIN = "login"
"""The origin of what a consent brought."""

_STATUS_OF_EXIT_CODE = {1: 500, 2: 400, 3: 409, 4: 503}


class RefreshRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a refresh."""

    rejected: str | None = None
    """Fingerprint of the access token that was refused: nothing is done if it was already replaced."""


class SeedRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of a seed, or of what a login brought."""

    seeding: Seeding
    origin: str = "command"
    """Who gives it, for the log."""
    force: bool = False
    """Take a refresh token that was spent before, or the consent of another account than it was."""
    since: str | None = None
    """The lineage that was there when the consent began; see `Renewer.plant`."""

    @property
    def deed(self) -> str:
        """What it is called in the record of who did what."""
        return "consent" if self.origin == LOGIN else "seed"


class Exported(msgspec.Struct, frozen=True):
    """Body of what a command tells that has shown a grant, for the record of who did what."""

    fingerprint: str
    """Of the refresh token."""


class RefreshReply(msgspec.Struct, frozen=True):
    """What came of a refresh."""

    refreshed: bool
    """False: it was not necessary."""
    message: str
    """One sentence."""
    fingerprint: str
    """Of the access token that is valid now."""
    expires_at: float | None = None


class SeedReply(msgspec.Struct, frozen=True):
    """What came of a seed."""

    message: str
    fingerprint: str
    """Of the refresh token."""
    lineage: str
    """The one that is in force now."""
    aside: bool = False
    """Whether that is another's, who was faster, and this refresh token is kept beside it."""


class RevokeReply(msgspec.Struct, frozen=True):
    """What came of a revocation that the provider confirmed."""

    access_expires_at: float | None = None
    """When the last access token ends, should the provider not end it at once (Unix seconds)."""
    fingerprint: str = ""
    """Of the refresh token that was ended."""


class ReloadReply(msgspec.Struct, frozen=True):
    """What came of reading the configuration again."""

    message: str
    changed: tuple[str, ...] = ()


def url_to(host: str, port: int) -> str:
    """Return the URL under which this machine reaches what listens on an address or a name."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0] or "::")
    except ValueError:
        return f"http://{host}:{port}"
    if address.is_unspecified:
        host = _loopback()
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _loopback() -> str:
    """Find the loopback address that this machine has: IPv4's, but for a pod that has IPv6 alone."""
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
            trial.connect(("127.0.0.1", 9))  # asks for the way, and sends nothing
    except OSError:
        return "::1"
    return "127.0.0.1"


def to_status(error: SidecarError) -> int:
    """Map an error to an HTTP status."""
    return 404 if isinstance(error, UnknownToken) else _STATUS_OF_EXIT_CODE.get(error.exit_code, 500)


def to_body(error: SidecarError) -> dict[str, Any]:
    """Map an error to a JSON body."""
    body: dict[str, Any] = {"error": str(error)}
    if isinstance(error, ConfigError):
        body["problems"] = error.problems
    return body


def from_answer(status: int, body: Any) -> SidecarError:
    """Map a status and a body back to an error of the same exit code."""
    message = body.get("error") if isinstance(body, dict) else None
    if not isinstance(message, str):
        message = f"the daemon answered with status {status}; its log says why"
    match status:
        case 404:
            return UnknownToken(message)
        case 400 if isinstance(body, dict) and isinstance(body.get("problems"), list):
            return ConfigError([str(problem) for problem in body["problems"]])
        case 400 | 413:
            return UsageError(message)
        case 409:
            return HumanNeeded(message)
        case 503:
            return TemporarilyUnavailable(message)
        case _:
            return SidecarError(message)
