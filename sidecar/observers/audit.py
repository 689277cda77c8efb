"""The record of who did what, and of what became of each grant: JSON lines in a file of their own, or in the log."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import structlog

from sidecar.clock import Clock
from sidecar.events import (
    Adopted,
    Audited,
    ConfigLoaded,
    Discarded,
    Event,
    GrantDied,
    Rotated,
    Seeded,
    SeedRefused,
)

if TYPE_CHECKING:
    from pathlib import Path

LONGEST = 500
"""Characters of each word; people write some of them."""

ITSELF = "token-sidecar"
"""Who does what nobody asked for."""


class AuditLine(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One line; what is empty is left out. Times are RFC 3339 in UTC, tokens are named by their fingerprints."""

    at: str
    """When it was over."""
    who: str = ""
    """As whom they are signed in, `uid 1000` for a command on this machine, as the kernel says, or `token-sidecar` for
    what was done without being asked; left out: nobody is signed in."""
    what: str = ""
    """The deed."""
    outcome: str = ""
    """`begun`, `done`, `aside` (another consent was faster), `failed` or `refused`."""
    token: str = ""
    """The token's name, or `SET/ACCOUNT`."""
    provider: str = ""
    """The name of its provider."""
    lineage: str = ""
    """A random id, new with each seed and consent."""
    generation: int = 0
    """How many refreshes the lineage has seen."""
    fingerprint: str = ""
    """Of the token that it is about: the access token of a refresh, a rotation or an adoption, else the refresh
    token."""
    replaced: str = ""
    """Of the access token that was held before; the same where the provider gave that one again."""
    refresh_fingerprint: str = ""
    """Of the refresh token that is held from then on."""
    refresh_replaced: str = ""
    """Of the one before; the same where the provider keeps it."""
    reason: str = ""
    """Why it failed, was refused or had to be."""
    origin: str = ""
    """Where it came from: an address (behind a proxy, the proxy's), a seed or an output."""
    instance: str = ""
    """Id of the `state_dir` of who did it by itself, as `token-sidecar status --json` shows it."""


class AuditObserver:
    """Appends each deed to a file, or writes it to the log where none is named.

    A line is one write to a file opened for appending, so that several processes may share it, and that it may be
    moved away at any time.
    """

    def __init__(
        self, clock: Clock, file: Path | None = None, instance: str = "", *, rotations: bool = False
    ) -> None:
        """Open nothing yet. `instance` is whose deeds nobody asked for; `rotations`: whether each has a line."""
        self._clock = clock
        self._file = file
        self._instance = instance
        self._rotations = rotations
        self._log = structlog.get_logger("sidecar.audit")
        self._torn = False
        """Whether our last line was cut off by a full disk."""

    def notice(self, event: Event) -> None:
        """Write down a deed; into the log where its file can't be written."""
        fields = self._told(event)
        if fields is None:
            return
        at = datetime.fromtimestamp(self._clock.wall(), UTC).isoformat(timespec="milliseconds")
        short = {name: value[:LONGEST] if isinstance(value, str) else value for name, value in fields.items()}
        line = msgspec.convert({"at": at.replace("+00:00", "Z"), **short}, AuditLine)
        shown = {name: value for name, value in short.items() if value}
        sentence = f"{line.what}: {line.outcome}"
        if self._file is None:
            self._log.info(sentence, **shown)
            return
        try:
            self._append(self._file, msgspec.json.encode(line) + b"\n")
        except OSError as error:
            self._log.error(f"{sentence}; {self._file} can't be written: {error.strerror}", **shown)

    def _told(self, event: Event) -> dict[str, str | int] | None:
        """Say what is to be written of an event; None: nothing."""
        match event:
            case Audited():
                return msgspec.structs.asdict(event)
            case Rotated() if self._rotations:
                return self._itself("rotation", **msgspec.structs.asdict(event))
            case Seeded(asked=False):
                fields = {"fingerprint": event.fingerprint, "lineage": event.lineage, "origin": event.seed}
                return self._itself("seed", token=event.token, **fields)
            case SeedRefused():
                told = {"token": event.token, "reason": event.reason, "origin": event.seed}
                return self._itself("seed", "refused", **told)
            case Adopted():
                fields = {"fingerprint": event.fingerprint, "origin": event.output}
                return self._itself("adoption", token=event.token, **fields)
            case GrantDied():
                fields = {"fingerprint": event.fingerprint, "reason": event.reason}
                return self._itself("death", token=event.token, **fields)
            case Discarded():
                fields = {"fingerprint": event.fingerprint, "reason": event.reason, "origin": event.place}
                return self._itself("discard", token=event.token, **fields)
            case ConfigLoaded() if event.changed or not event.accepted:
                outcome = "done" if event.accepted else "refused"
                return self._itself(
                    "configuration", outcome, reason=", ".join(event.changed or event.problems)
                )
            case _:
                return None

    def _itself(self, what: str, outcome: str = "done", **fields: str | int) -> dict[str, str | int]:
        return {"who": ITSELF, "what": what, "outcome": outcome, **fields, "instance": self._instance}

    def _append(self, file: Path, line: bytes) -> None:
        # Not blocking: a pipe that nobody reads is an error, and keeps no renewal waiting.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        opened = os.open(file, flags, 0o600)
        try:
            whole = b"\n" * self._torn + line
            written = os.write(opened, whole)
            self._torn = written < len(whole)
            if self._torn:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(opened)
