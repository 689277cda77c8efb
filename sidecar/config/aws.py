"""Where an `aws-secretsmanager://` store keeps its records, by its URL and a token's name alone."""

from __future__ import annotations

import re
from urllib.parse import unquote

import msgspec

from sidecar.errors import ConfigError

SCHEME = "aws-secretsmanager"
_PLAIN = r"A-Za-z0-9/_+.@\-"
"""What a secret's name may have; `=` too, by which all others are spelt."""
LONGEST_NAME = 512


class SecretsPlace(msgspec.Struct, frozen=True):
    """What the names of the secrets begin with."""

    prefix: str

    @property
    def url(self) -> str:
        """The store's URL."""
        return f"{SCHEME}://{self.prefix}"

    def secret_of(self, key: str) -> str:
        """Name the secret of a record: the prefix, and what its key has after the namespace."""
        return f"{self.prefix}/{_spelt(key.partition('/')[2])}"

    def record_of(self, secret: str) -> str | None:
        """Undo `secret_of`, but for the namespace; None for a secret that is no record's."""
        _, found, name = secret.partition(f"{self.prefix}/")
        if not found or not name or not secret.startswith(f"{self.prefix}/"):
            return None
        try:
            record = unquote(re.sub("=(?=[0-9A-F]{2})", "%", name), errors="strict")
        except UnicodeDecodeError:
            return None
        return record if _spelt(record) == name else None

    def beginning_of(self, prefix: str) -> str:
        """Name what all secrets begin with whose keys begin with `prefix`."""
        return f"{self.prefix}/{_spelt(prefix.partition('/')[2])}"


def _spelt(name: str) -> str:
    """Write a name with what AWS takes: other characters as `=`, followed by two digits for each of their bytes."""
    literal = re.sub("=(?=[0-9A-F]{2})", "=3D", name)
    return re.sub(
        rf"[^={_PLAIN}]", lambda found: "".join(f"={byte:02X}" for byte in found[0].encode()), literal
    )


def secrets_place(url: str) -> SecretsPlace:
    """Read `aws-secretsmanager://PREFIX`. Raises `ConfigError`."""
    prefix = url.partition("://")[2].rstrip("/")
    if not re.fullmatch(rf"[{_PLAIN}=]{{1,256}}", prefix) or prefix.startswith("/") or "://" not in url:
        raise ConfigError(
            "store: not a usable aws-secretsmanager:// URL: write aws-secretsmanager://PREFIX, with which the names of "
            "the secrets begin: letters, digits and /_+=.@-"
        )
    return SecretsPlace(prefix)
