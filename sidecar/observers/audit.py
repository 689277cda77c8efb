"""The record of who did what: one JSON line for each deed, in a file of its own or in the log."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec
import structlog

from sidecar.clock import Clock
from sidecar.events import Audited, Event

if TYPE_CHECKING:
    from pathlib import Path

LONGEST = 500
"""Characters of each word; people write some of them."""


class AuditObserver:
    """Appends each deed to a file, or writes it to the log where none is named.

    A line is one write to a file opened for appending, so that several processes may share it, and that it may be
    moved away at any time.
    """

    def __init__(self, clock: Clock, file: Path | None = None) -> None:
        """Open nothing yet."""
        self._clock = clock
        self._file = file
        self._log = structlog.get_logger("sidecar.audit")

    def notice(self, event: Event) -> None:
        """Write down a deed; into the log where its file can't be written."""
        if not isinstance(event, Audited):
            return
        members = {name: getattr(event, name)[:LONGEST] for name in event.__struct_fields__}
        fields = {name: value for name, value in members.items() if value}
        sentence = f"{event.what}: {event.outcome}"
        if self._file is None:
            self._log.info(sentence, **fields)
            return
        try:
            self._append(self._file, fields)
        except OSError as error:
            self._log.error(f"{sentence}; {self._file} can't be written: {error.strerror}", **fields)

    def _append(self, file: Path, fields: dict[str, str]) -> None:
        at = datetime.fromtimestamp(self._clock.wall(), UTC).isoformat(timespec="milliseconds")
        line = msgspec.json.encode({"at": at.replace("+00:00", "Z"), **fields}) + b"\n"
        opened = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(opened, line)
        finally:
            os.close(opened)
