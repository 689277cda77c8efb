"""The commands' end of the control socket and of the probes, on the standard library alone."""

from __future__ import annotations

import http.client
import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import msgspec

from sidecar.errors import SidecarError, TemporarilyUnavailable, UsageError
from sidecar.server.wire import (
    ADDRESS_FILE,
    Exported,
    RefreshReply,
    RefreshRequest,
    ReloadReply,
    RevokeReply,
    SeedReply,
    SeedRequest,
    from_answer,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

PROBES = {"live": "/livez", "ready": "/readyz", "startup": "/startupz"}
REFRESH_TIMEOUT = 330.0
"""Seconds: a provider's answer is waited for up to five minutes."""

_ANSWER_LIMIT = 64 * 1024 * 1024
_TEXT_LIMIT = 64 * 1024


class NotRunning(TemporarilyUnavailable):
    """No daemon answers."""


class ShownToken(msgspec.Struct, frozen=True):
    """An access token as the daemon handed it out."""

    access_token: str
    token_type: str
    expires_at: float | None
    """Unix seconds; None: never."""
    fingerprint: str

    def __repr__(self) -> str:
        """Show the fingerprint in place of the token."""
        return f"ShownToken({self.fingerprint}, expires_at={self.expires_at})"


class ControlClient:
    """Asks the daemon behind one control socket.

    Every method raises `NotRunning` when nobody answers, and otherwise the error that the daemon met, with
    the same exit code: `UnknownToken` and `UsageError` 2, `HumanNeeded` 3, `TemporarilyUnavailable` 4.
    """

    def __init__(self, path: Path, *, timeout: float = 10.0) -> None:
        """`timeout` (seconds) bounds all but `refresh`, which has its own."""
        self._path = path
        self._timeout = timeout

    def status(self, name: str = "") -> dict[str, Any]:
        """Return the status document; `name`: of this token alone."""
        document: dict[str, Any] = self._ask("GET", f"/status/{_quoted(name)}" if name else "/status")
        return document

    def history(self, name: str = "") -> dict[str, list[dict[str, Any]]]:
        """Return each token's last turns, oldest first; `name`: of this token alone."""
        found: dict[str, list[dict[str, Any]]] = self._ask(
            "GET", f"/history/{_quoted(name)}" if name else "/history"
        )
        return found

    def token(self, name: str) -> ShownToken:
        """Return a valid access token."""
        return msgspec.convert(self._ask("GET", f"/tokens/{_quoted(name)}"), ShownToken)

    def refresh(
        self, name: str, *, rejected: str | None = None, timeout: float = REFRESH_TIMEOUT
    ) -> RefreshReply:
        """Refresh now; given the fingerprint of a rejected access token, only while that is current."""
        body = msgspec.to_builtins(RefreshRequest(rejected))
        answer = self._ask("POST", f"/tokens/{_quoted(name)}/refresh", body, timeout=timeout)
        return msgspec.convert(answer, RefreshReply)

    def seed(self, name: str, request: SeedRequest) -> SeedReply:
        """Start a new lineage from a refresh token, and from the access token that came with it."""
        body = msgspec.to_builtins(request)
        return msgspec.convert(self._ask("POST", f"/tokens/{_quoted(name)}/seed", body), SeedReply)

    def revoke(self, name: str) -> RevokeReply:
        """End the grant at the provider."""
        answer = self._ask("POST", f"/tokens/{_quoted(name)}/revoke", {}, timeout=REFRESH_TIMEOUT)
        return msgspec.convert(answer, RevokeReply)

    def exported(self, name: str, fingerprint: str) -> None:
        """Tell that a refresh token was taken out of the store, so that it is written down."""
        self._ask("POST", f"/tokens/{_quoted(name)}/exported", msgspec.to_builtins(Exported(fingerprint)))

    def reload(self) -> ReloadReply:
        """Have the configuration read again."""
        return msgspec.convert(self._ask("POST", "/reload", {}), ReloadReply)

    def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, timeout: float | None = None
    ) -> Any:
        connection = _UnixConnection(self._path, timeout or self._timeout)
        try:
            connection.request(
                method,
                path,
                body=None if body is None else json.dumps(body).encode(),
                headers={"content-type": "application/json"},
            )
            answer = connection.getresponse()
            data = answer.read(_ANSWER_LIMIT)
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotRunning(
                f"no daemon answers on {self._path}; start one with `token-sidecar run`, or name the "
                "configuration of the one that runs"
            ) from None
        except PermissionError:
            raise SidecarError(
                f"{self._path} may not be opened by this user; run it as the daemon's user, or see "
                "control.mode and control.group"
            ) from None
        except TimeoutError:
            raise NotRunning(f"the daemon behind {self._path} did not answer in time") from None
        except (OSError, http.client.HTTPException) as error:
            # The exception's own text is left out: http.client quotes what it read.
            raise NotRunning(f"the daemon behind {self._path} hung up ({type(error).__name__})") from None
        finally:
            connection.close()
        try:
            document = json.loads(data)
        except ValueError:
            document = None
        if answer.status != http.client.OK or document is None:
            raise from_answer(answer.status, document)
        return document


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.sock.settimeout(self.timeout)
            self.sock.connect(str(self._path))
        except BaseException:
            self.sock.close()
            raise


def address_of(state_dir: Path) -> str:
    """Return the URL of the HTTP server whose daemon uses this `state_dir`.

    Raises `NotRunning`, and `PermissionError` for who may not look into that directory.
    """
    path = state_dir / ADDRESS_FILE
    try:
        url = json.loads(path.read_bytes())["url"]
    except PermissionError:
        raise
    except (OSError, ValueError, KeyError, TypeError):
        raise NotRunning(f"no daemon runs on {state_dir}: {path} isn't there or holds no address") from None
    return str(url)


def probe(url: str, name: str, *, timeout: float = 2.0) -> tuple[bool, str]:
    """Ask one probe (`live`, `ready`, `startup`); return whether it's well, and the reasons, one a line.

    A server that doesn't answer is unwell, and that is the reason.
    """
    if name not in PROBES:
        raise UsageError(f"there is no probe {name!r}: it is one of {', '.join(PROBES)}")
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "127.0.0.1", parts.port, timeout=timeout)
    try:
        connection.request("GET", PROBES[name])
        answer = connection.getresponse()
        text = answer.read(_TEXT_LIMIT).decode("utf-8", "replace").strip()
    except (OSError, http.client.HTTPException) as error:
        return False, f"{url} does not answer: {getattr(error, 'strerror', None) or type(error).__name__}"
    finally:
        connection.close()
    return answer.status == http.client.OK, text


def _quoted(name: str) -> str:
    return quote(name, safe="")
