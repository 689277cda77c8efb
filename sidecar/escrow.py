"""A local, crash-proof place for one answer, between the socket and the store.

A provider that rotates has forgotten the old refresh token by the time its answer arrives; until the store has
the new one, it exists nowhere but here. So room for the answer is taken before the request is sent, the raw
answer is written before anybody judges it, and the entry stays until the store acknowledged the commit.

An entry is one file that is never resized downwards and whose first byte says how far the attempt came. A
payload is written first and its state byte last, in a write of its own: a process killed half-way leaves the
earlier state, never a torn later one. `state_dir` is meant to be a memory volume and is guarded against the
death of the process, not of the machine, so nothing is fsynced and no thread is used: these are microseconds.
"""

from __future__ import annotations

import os
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from sidecar.errors import EscrowError
from sidecar.ports import Answer
from sidecar.tokens import Attempt, Record

if TYPE_CHECKING:
    from pathlib import Path

ROOM_FOR_ANSWER = 128 * 1024
"""Bytes kept free for an answer; the largest seen (Entra with many groups, plus an ID token) is a tenth of it."""

_HEADER_END = b"\n"
_UNSENT = (b"", b"\0", b"A")
"""First bytes of a file that was made before anything was sent: not written yet, allocated, armed."""


class Stage(StrEnum):
    """How far an attempt came. Each value is the file's first byte."""

    ARMED = "A"
    """Nothing was sent."""
    SENT = "S"
    """The first byte may have left; no answer was caught."""
    ANSWERED = "R"
    """The whole answer is in the file."""


class Header(msgspec.Struct, frozen=True):
    """What is needed to finish the attempt without the store."""

    key: str
    base: Record
    """The record as it was committed with the attempt in it."""
    attempt: Attempt
    number: int
    """Counts entries: a chain must be taken over in its order, whatever a clock did to the files' times."""


class Entry(msgspec.Struct, frozen=True):
    """An attempt that was found unfinished."""

    stage: Stage
    number: int
    key: str
    base: Record
    attempt: Attempt
    answer: Answer | None
    slip: Slip


class Slip:
    """The handle of one entry."""

    __slots__ = ("_offset", "_path", "held")

    def __init__(self, path: Path, offset: int) -> None:
        """`offset`: where the answer starts in the file, in bytes."""
        self._path = path
        self._offset = offset
        self.held = True

    def sent(self) -> None:
        """Note that the request is about to leave; from now on the outcome may be in doubt."""
        self._mark(Stage.SENT)

    def answered(self, answer: Answer) -> None:
        """Keep the raw answer. Raises `EscrowError` when even the preallocated room could not be written."""
        try:
            with self._path.open("r+b", buffering=0) as file:
                payload = msgspec.json.encode(answer) + _HEADER_END
                file.seek(self._offset)
                while payload:
                    payload = payload[file.write(payload) :]
        except OSError as error:
            raise EscrowError(f"{self._path}: the answer could not be kept: {error.strerror}") from error
        self._mark(Stage.ANSWERED)

    def release(self) -> None:
        """Remove the entry: its attempt has a definite, committed end."""
        # One that stays behind is recognised as committed at the next start.
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        self.held = False

    def _mark(self, stage: Stage) -> None:
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.pwrite(descriptor, stage.encode(), 0)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise EscrowError(f"{self._path}: the escrow cannot be written: {error.strerror}") from error


class Escrow:
    """All entries of one `state_dir`."""

    def __init__(self, directory: Path) -> None:
        """Use (and create, with mode 0700) this directory."""
        self._directory = directory
        self._armed = 0

    def prepare(self) -> None:
        """Create the directory, and count on from what is in it. Raises `EscrowError`."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise EscrowError(
                f"{self._directory}: cannot be created: {error.strerror}; set state_dir to a directory that the "
                "daemon may write"
            ) from error
        self._armed = max((entry.number for entry in self.entries()), default=0)

    def arm(self, key: str, base: Record, attempt: Attempt) -> Slip:
        """Take room for an answer. Raises `EscrowError`: without it, no call may be made."""
        self._armed += 1
        header = Header(key, base, attempt, self._armed)
        first = Stage.ARMED.encode() + msgspec.json.encode(header) + _HEADER_END
        path = self._path(attempt.id)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, len(first) + ROOM_FOR_ANSWER)
                os.pwrite(descriptor, first, 0)
            finally:
                os.close(descriptor)
        except OSError as error:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            raise EscrowError(
                f"{self._directory}: no room to catch an answer ({error.strerror}), so none is asked for; "
                "free space there or give state_dir a larger volume"
            ) from error
        return Slip(path, len(first))

    def entries(self) -> list[Entry]:
        """Find the attempts that a predecessor left unfinished, oldest first.

        A file that says that nothing was sent, and whose header is torn, is removed: it was made by a process that
        was killed at that. What is unreadable otherwise may hold an answer, and stays. Raises `EscrowError`.
        """
        try:
            found = [entry for path in self._directory.glob("*.escrow") if (entry := _read(path)) is not None]
            return sorted(found, key=lambda entry: entry.number)
        except OSError as error:
            raise EscrowError(f"{self._directory}: cannot be read: {error.strerror}") from error

    def knows(self, attempt: str) -> bool:
        """Tell whether something is kept of this attempt, readable or not."""
        return self._path(attempt).exists()

    def unreadable(self) -> list[Path]:
        """Find what a human has to look at: entries that were sent and can't be read."""
        return sorted(path for path in self._directory.glob("*.escrow") if _read(path) is None)

    def _path(self, attempt: str) -> Path:
        return self._directory / f"{attempt}.escrow"


def _read(path: Path) -> Entry | None:
    data = path.read_bytes()
    end = data.find(_HEADER_END) + 1
    try:
        header = msgspec.json.decode(data[1:end], type=Header)
        stage = Stage(data[:1].decode("ascii"))
    except ValueError:
        if data[:1] in _UNSENT:
            path.unlink()
        return None
    answer = _read_answer(data[end:]) if stage is Stage.ANSWERED else None
    if answer is None and stage is Stage.ANSWERED:
        return None
    return Entry(stage, header.number, header.key, header.base, header.attempt, answer, Slip(path, end))


def _read_answer(data: bytes) -> Answer | None:
    try:
        return msgspec.json.decode(data[: data.find(_HEADER_END)], type=Answer)
    except ValueError:
        return None
