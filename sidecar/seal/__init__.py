"""How records and escrow are sealed at rest: with the keys that are configured, or not at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.errors import SealError
from sidecar.seal.layout import key_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from sidecar.ports import Sealer


def silent(_reason: str) -> None:
    """Tell nobody."""


class Clear:
    """The sealer of those who have no keys: bytes stay as they are. See `Sealer` for the contract."""

    first = ""

    def __init__(self) -> None:
        """It never has anything to tell."""
        self.tell: Callable[[str], None] = silent

    def seal(self, clear: bytes, purpose: str, key_id: str) -> tuple[bytes, str]:  # noqa: ARG002 - the contract
        """See `Sealer.seal`."""
        return clear, ""

    def open(self, data: bytes, purpose: str) -> tuple[bytes, str]:
        """See `Sealer.open`."""
        key_id = key_of(data)
        if key_id is not None:
            raise SealError(
                f"{purpose} is sealed with the key {key_id}, and no keys are configured",
                remedy="name the file with that key under store.encryption_keys",
            )
        return data, ""


CLEAR = Clear()


def open_sealer(files: Sequence[Path], *, strict: bool = False) -> Sealer:
    """Make the sealer for these key files; a `strict` one opens nothing that is in clear.

    Raises `ConfigError` for a file that holds no key.
    """
    if not files:
        return Clear()
    from sidecar.seal.keyring import Keyring

    return Keyring(files, strict=strict)
