"""Looks for secrets where none may be: in logs, metrics, status pages, captured output and core files.

Every secret that the tests make is recognised by its beginning (see docs/reference/simulator.md), as it is and
in Base64, as a header or a dump may hold it. What is found is told by its place, never by its value.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KINDS = {b"at": "an access token", b"rt": "a refresh token", b"cs": "a client secret"}
SECRET = re.compile(rb"sim-(at|rt|cs)-[A-Za-z0-9_-]{16,}")
ENCODED = re.compile(rb"[A-Za-z0-9+/_-]{28,}")
"""Long enough to hold a secret in Base64, in either alphabet."""

ELF, CORE = b"\x7fELF", 4
TYPE_AT = 16
"""Where an ELF header tells what kind of file it is (elf(5)): two bytes."""


class Leak(NamedTuple):
    """A secret, or a core file, where it must not be."""

    place: str
    line: int
    what: str

    def __str__(self) -> str:
        """Name the place and the kind, not the secret."""
        return f"{self.place}:{self.line}: {self.what}"


def in_bytes(data: bytes, place: str) -> Iterator[Leak]:
    """Find the secrets in something that was written."""
    for number, line in enumerate(data.splitlines(), start=1):
        for found in SECRET.finditer(line):
            yield Leak(place, number, KINDS[found[1]])
        for hidden in _decoded(line):
            for found in SECRET.finditer(hidden):
                yield Leak(place, number, f"{KINDS[found[1]]} in Base64")


def in_folder(folder: Path) -> Iterator[Leak]:
    """Find the secrets in all files below a folder, and the core files among them."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        if is_core(path):
            yield Leak(str(path), 0, "a core file")
        else:
            yield from in_bytes(path.read_bytes(), str(path))


def is_core(path: Path) -> bool:
    """Tell whether a file is the dump of a process, whatever the system calls it."""
    try:
        with path.open("rb") as file:
            head = file.read(TYPE_AT + 2)
    except OSError:
        return False
    return head[: len(ELF)] == ELF and CORE in (
        int.from_bytes(head[TYPE_AT:], "little"),
        int.from_bytes(head[TYPE_AT:], "big"),
    )


def cores(folder: Path) -> list[Path]:
    """Find the core files below a folder."""
    return [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and is_core(path)]


def _decoded(line: bytes) -> Iterator[bytes]:
    for found in ENCODED.finditer(line):
        text = found[0].translate(bytes.maketrans(b"-_", b"+/"))
        try:
            yield base64.b64decode(text[: len(text) // 4 * 4])
        except binascii.Error:
            continue
