"""A local, crash-proof place for one answer, between the socket and the store.

A provider that rotates has forgotten the old refresh token by the time its answer arrives; until the store has
the new one, it exists nowhere but here. So room for the answer is taken before the request is sent, the raw
answer is written before anybody judges it, and the entry stays until the store acknowledged the commit.

An entry is one file that is never resized downwards and whose first byte says how far the attempt came. A
payload is written first and its state byte last, in a write of its own: a process killed half-way leaves the
earlier state, never a torn later one. `state_dir` is meant to be a memory volume and is guarded against the
death of the process, not of the machine, so nothing is fsynced and no thread is used: these are microseconds.

Where keys are configured, header and answer are sealed like records. The state byte is not: what was sent is
known even if the key is gone. An entry that cannot be opened stays: somebody may find the key. Only one that is
torn, and says that nothing was sent, is removed.
"""

from __future__ import annotations

import os
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from sidecar.errors import EscrowError, SealError
from sidecar.ports import Answer
from sidecar.seal import CLEAR
from sidecar.tokens import Attempt, Record

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidecar.ports import Sealer

ROOM_FOR_ANSWER = 128 * 1024
"""Bytes kept free for an answer; the largest seen (Entra with many groups, plus an ID token) is a tenth of it."""

SUFFIX = ".escrow"
UNREAD = ".unread"
"""Suffix of answers that nobody could read, and that may hold a pair: kept until the profile is corrected."""
MOST_UNREAD = 32
"""Files; who answers in riddles for ever fills no volume."""

_ROOM = ROOM_FOR_ANSWER * 4 // 3 + 1024
"""Bytes taken: a sealed answer is a third larger, and has a header of its own."""
_HEADER_END = b"\n"
_UNSENT = (b"", b"\0", b"A")
"""First bytes of a file that was made before anything was sent: not written yet, allocated, armed."""
_KEPT = "it is left untouched, and the refresh token that it used counts as in doubt"


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


class Locked(msgspec.Struct, frozen=True):
    """An entry that was found, and that cannot be opened."""

    path: Path
    problem: str


class Slip:
    """The handle of one entry."""

    __slots__ = ("_offset", "_path", "_purpose", "_sealer", "held", "unread")

    def __init__(self, path: Path, offset: int, sealer: Sealer, purpose: str) -> None:
        """`offset`: where the answer starts in the file, in bytes. `purpose`: what the answer is sealed for."""
        self._path = path
        self._offset = offset
        self._sealer = sealer
        self._purpose = purpose
        self.held = True
        self.unread = False
        """Whether it holds an answer that could not be read; then `release` puts it aside."""

    @property
    def is_there(self) -> bool:
        """Whether nobody has removed it since it was found."""
        return self._path.exists()

    def sent(self) -> None:
        """Note that the request is about to leave; from now on the outcome may be in doubt."""
        self._mark(Stage.SENT)

    def answered(self, answer: Answer) -> None:
        """Keep the raw answer. Raises `EscrowError` when even the preallocated room could not be written."""
        sealed, _ = self._sealer.seal(msgspec.json.encode(answer), self._purpose, self._sealer.first)
        try:
            with self._path.open("r+b", buffering=0) as file:
                payload = sealed + _HEADER_END
                file.seek(self._offset)
                while payload:
                    payload = payload[file.write(payload) :]
        except OSError as error:
            raise EscrowError(f"{self._path}: the answer could not be kept: {error.strerror}") from error
        self._mark(Stage.ANSWERED)

    def release(self) -> None:
        """Remove the entry, or put it aside if nobody could read it: the record says what became of its attempt."""
        # One that stays behind is recognised as committed at the next start.
        with suppress(OSError):
            if self.unread and len(list(self._path.parent.glob(f"*{UNREAD}"))) < MOST_UNREAD:
                self._path.rename(self._path.with_suffix(UNREAD))
            else:
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

    def __init__(self, directory: Path, sealer: Sealer = CLEAR) -> None:
        """Use (and create, with mode 0700) this directory."""
        self._directory = directory
        self._sealer = sealer
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
        clear = msgspec.json.encode(Header(key, base, attempt, self._armed))
        sealed, _ = self._sealer.seal(clear, _header_purpose(attempt.id), self._sealer.first)
        header = Stage.ARMED.encode() + sealed + _HEADER_END
        path = self._path(attempt.id)
        with suppress(OSError):
            # Somebody may have emptied state_dir under us; what happens if it can't be made is told below.
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            descriptor = os.open(path, flags, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, len(header) + _ROOM)
                os.pwrite(descriptor, header, 0)
            finally:
                os.close(descriptor)
        except OSError as error:
            with suppress(OSError):
                path.unlink(missing_ok=True)
            raise EscrowError(
                f"{self._directory}: no room to catch an answer ({error.strerror}), so none is asked for; "
                "free space there or give state_dir a larger volume"
            ) from error
        return Slip(path, len(header), self._sealer, _answer_purpose(attempt.id, key))

    def entries(self) -> list[Entry]:
        """Find the attempts that a predecessor left unfinished, oldest first.

        A file that says that nothing was sent, and whose header is torn, is removed: it was made by a process that
        was killed at that. What is unreadable otherwise may hold an answer, and stays. Raises `EscrowError`.
        """
        found = (found for found in self._found() if isinstance(found, Entry))
        return sorted(found, key=lambda entry: entry.number)

    def unread(self, key: str) -> list[Entry]:
        """Find the answers that nobody could read, oldest first; those that cannot be opened are passed over."""
        with suppress(EscrowError):
            found = [found for found in self._found(UNREAD) if isinstance(found, Entry) and found.key == key]
            return sorted(found, key=lambda entry: entry.number)
        return []

    def locked(self) -> list[str]:
        """Tell which unfinished attempts cannot be opened, and what to do. Raises `EscrowError`."""
        return [f"{found.path}: {found.problem}" for found in self._found() if isinstance(found, Locked)]

    def may_have_sent(self, attempt_id: str) -> bool:
        """Tell whether an entry of this attempt is here that says that its request may have left."""
        try:
            with self._path(attempt_id).open("rb", buffering=0) as file:
                return file.read(1) not in _UNSENT
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def _path(self, attempt_id: str) -> Path:
        return self._directory / f"{attempt_id}{SUFFIX}"

    def _found(self, suffix: str = SUFFIX) -> Iterator[Entry | Locked]:
        try:
            for path in sorted(self._directory.glob(f"*{suffix}")):
                found = self._read(path)
                if found is not None:
                    yield found
        except OSError as error:
            raise EscrowError(f"{self._directory}: cannot be read: {error.strerror}") from error

    def _read(self, path: Path) -> Entry | Locked | None:
        data = path.read_bytes()
        try:
            return self._opened(path, data)
        except SealError as error:
            return Locked(path, f"{error.reason}; {_KEPT}: {error.remedy}, and restart the daemon")
        except ValueError:
            if data[:1] in _UNSENT:
                path.unlink()
                return None
            return Locked(path, f"it is damaged; {_KEPT}: remove it once the token works again")

    def _opened(self, path: Path, data: bytes) -> Entry:
        end = data.index(_HEADER_END) + 1
        stage, attempt_id = Stage(data[:1].decode("ascii")), path.stem
        clear, _ = self._sealer.open(data[1 : end - 1], _header_purpose(attempt_id))
        header = msgspec.json.decode(clear, type=Header)
        purpose = _answer_purpose(attempt_id, header.key)
        answer = None
        if stage is Stage.ANSWERED:
            clear, _ = self._sealer.open(data[end : data.index(_HEADER_END, end)], purpose)
            answer = msgspec.json.decode(clear, type=Answer)
        slip = Slip(path, end, self._sealer, purpose)
        return Entry(stage, header.number, header.key, header.base, header.attempt, answer, slip)


def _header_purpose(attempt_id: str) -> str:
    return f"escrowed attempt {attempt_id}"


def _answer_purpose(attempt_id: str, key: str) -> str:
    return f"escrowed answer to {attempt_id} for {key}"
