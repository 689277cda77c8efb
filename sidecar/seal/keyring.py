"""Sealing with keys from files: AES-256-GCM under a data key of its own for every write (RFC 7518 §4.4, §5.3).

The data key is wrapped with the first key (AES key wrap, RFC 3394). That needs no nonce, so that no number of
writes wears a key out. docs/explanation/encryption.md has the reasons; imported only where keys are configured,
since the library takes 9 MiB of memory.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
import string
from typing import TYPE_CHECKING

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap, aes_key_wrap

from sidecar.errors import ConfigError, SealError
from sidecar.files import Signature, SmallFile, UnfitFile, read_small, signature
from sidecar.seal import silent
from sidecar.seal.layout import armoured, key_of, unarmoured

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

FORMAT = 1
KEY_BYTES, NONCE_BYTES, TAG_BYTES = 32, 12, 16
HEX_DIGITS = 2 * KEY_BYTES

_REMEDY = "make a file with one: token-sidecar store keygen FILE"
_LABEL = b"token-sidecar key id\0"
_PRINTABLE = frozenset(string.printable.encode())
_FEWEST_VALUES = 8
"""Random keys have about 30 different bytes; fewer than these never happens by chance."""


class Key(msgspec.Struct, frozen=True):
    """A key that seals data keys."""

    secret: bytes

    def __repr__(self) -> str:
        """Show the id in place of the key."""
        return f"Key({self.id})"

    @property
    def id(self) -> str:
        """Its public name: the first 12 hex digits of a SHA-256 that serves nothing else."""
        return hashlib.sha256(_LABEL + self.secret).hexdigest()[:12]


class KeyFile:
    """One file of keys, read again when it has changed."""

    def __init__(self, path: Path) -> None:
        """Read it. Raises `ConfigError`."""
        self.path = path
        self._seen: Signature | None = None
        self._told = ""
        self.keys: tuple[Key, ...] = ()
        self._read()

    def refresh(self, tell: Callable[[str], None]) -> None:
        """Read it again if it has changed. What became unreadable keeps the keys that it had."""
        try:
            if signature(self.path.stat()) != self._seen:
                self._read()
            self._told = ""
        except (OSError, ConfigError) as error:
            problem = str(error) if isinstance(error, ConfigError) else f"{self.path}: {error.strerror}"
            if problem != self._told:
                tell(f"{problem}; the keys that it held are used until this process ends")
            self._told = problem

    def _read(self) -> None:
        found = _content(self.path)
        self.keys = parse(found.data, self.path)
        self._seen = signature(found.stat) if found.settled else None


class Keyring:
    """All keys that are configured. See `Sealer` for the contract."""

    def __init__(self, files: Sequence[Path], *, strict: bool = False) -> None:
        """Read every file. A `strict` one opens nothing that is in clear. Raises `ConfigError`."""
        self._strict = strict
        self.tell: Callable[[str], None] = silent
        self._files = [KeyFile(path) for path in files]
        self._told: set[str] = set()

    def __repr__(self) -> str:
        """Show the keys' ids."""
        return f"Keyring({', '.join(key.id for file in self._files for key in file.keys)})"

    @property
    def first(self) -> str:
        """See `Sealer.first`."""
        return next(iter(self._keys()))

    def seal(self, clear: bytes, purpose: str, key_id: str) -> tuple[bytes, str]:
        """See `Sealer.seal`."""
        if not key_id:
            return clear, ""
        keys = self._keys()
        key = keys.get(key_id) or next(iter(keys.values()))
        return _seal(key, clear, purpose), key.id

    def open(self, data: bytes, purpose: str) -> tuple[bytes, str]:
        """See `Sealer.open`."""
        key_id = key_of(data)
        if key_id is None and self._strict:
            raise SealError(
                f"{purpose} is kept in clear, which store.require_encryption refuses",
                remedy="if nobody slipped it in, seal it: token-sidecar store rekey",
            )
        if key_id is None:
            self._tell_once(f"{purpose} is kept in clear; to seal all records: token-sidecar store rekey")
            return data, ""
        key = self._keys().get(key_id)
        if key is None:
            raise SealError(
                f"{purpose} is sealed with the key {key_id}, which is not among those that are configured "
                f"({self._inventory()})",
                remedy="name the file that holds it under store.encryption_keys again",
            )
        return _open(key, data, purpose), key_id

    def _keys(self) -> dict[str, Key]:
        for file in self._files:
            file.refresh(self.tell)
        return {key.id: key for file in self._files for key in file.keys}

    def _inventory(self) -> str:
        return "; ".join(f"{file.path}: {', '.join(key.id for key in file.keys)}" for file in self._files)

    def _tell_once(self, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            self.tell(reason)


def parse(data: bytes, path: Path) -> tuple[Key, ...]:
    """Read the keys of one file: 32 raw bytes, or a key a line as base64 or hex, with `#` comments.

    Raises `ConfigError`, which repeats nothing of the content.
    """
    if len(data) == KEY_BYTES and not _PRINTABLE.issuperset(data):
        found = [Key(data)]
    else:
        lines = [line.strip() for line in data.splitlines()]
        found = [_key(line, path) for line in lines if line and not line.startswith(b"#")]
    if not found:
        raise ConfigError(f"{path} holds no key; {_REMEDY}")
    for key in found:
        if _PRINTABLE.issuperset(key.secret) or len(set(key.secret)) < _FEWEST_VALUES:
            raise ConfigError(f"{path} holds a password or a pattern and not 32 random bytes; {_REMEDY}")
    return tuple(found)


def _key(line: bytes, path: Path) -> Key:
    try:
        secret = bytes.fromhex(line.decode()) if len(line) == HEX_DIGITS else _from_base64(line)
    except ValueError:
        raise ConfigError(f"{path} holds what is neither base64 nor hex; {_REMEDY}") from None
    if len(secret) != KEY_BYTES:
        raise ConfigError(f"{path} holds {len(secret)} bytes where a key has {KEY_BYTES}; {_REMEDY}")
    return Key(secret)


def _from_base64(text: bytes) -> bytes:
    standard = text.rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
    try:
        return base64.b64decode(standard + b"=" * (-len(standard) % 4), validate=True)
    except binascii.Error:
        raise ValueError from None


def _content(path: Path) -> SmallFile:
    try:
        return read_small(path, follow=True)
    except UnfitFile as unfit:
        raise ConfigError(f"{path} {unfit}; name a file with keys") from None
    except OSError as error:
        raise ConfigError(
            f"{path} can't be read: {error.strerror}; give access to it, or put it back"
        ) from None


def _header(key: Key, purpose: str) -> bytes:
    """Write the header, all of which is authenticated: what was sealed for one purpose opens for no other."""
    fields = {"alg": "A256KW", "enc": "A256GCM", "kid": key.id, "for": purpose, "v": FORMAT}
    return armoured(json.dumps(fields, separators=(",", ":")).encode())


def _seal(key: Key, clear: bytes, purpose: str) -> bytes:
    header, data_key, nonce = _header(key, purpose), os.urandom(KEY_BYTES), os.urandom(NONCE_BYTES)
    text = AESGCM(data_key).encrypt(nonce, clear, header)
    parts = (aes_key_wrap(key.secret, data_key), nonce, text[:-TAG_BYTES], text[-TAG_BYTES:])
    return b".".join((header, *map(armoured, parts)))


def _open(key: Key, data: bytes, purpose: str) -> bytes:
    header, *parts = data.split(b".")
    if header != _header(key, purpose):
        raise SealError(
            f"{purpose} holds what was sealed for another purpose or in another format",
            remedy="put back what belongs there, from a backup",
        )
    try:
        wrapped, nonce, text, tag = map(unarmoured, parts)
        return AESGCM(aes_key_unwrap(key.secret, wrapped)).decrypt(nonce, text + tag, header)
    except (ValueError, InvalidUnwrap, InvalidTag):
        raise SealError(
            f"{purpose} is damaged or was tampered with: its own key {key.id} does not open it",
            remedy="restore it from a backup",
        ) from None
