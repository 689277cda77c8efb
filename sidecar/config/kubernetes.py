"""Where a `kubernetes://` store keeps its records, by its URL and a token's name alone.

Whoever writes manifests names the same Secrets as the daemon does: `helm/token-sidecar` in its template language,
and everything else here.
"""

from __future__ import annotations

import hashlib
import re

import msgspec

from sidecar.errors import ConfigError

_LABEL = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_SUBDOMAIN = rf"{_LABEL}(\.{_LABEL})*"
LONGEST_NAMESPACE = 63
LONGEST_PREFIX = 180
"""With the longest name of a token and what is put between, 253 characters: no Secret's name may be longer."""
DIGITS = 8


class SecretPlace(msgspec.Struct, frozen=True):
    """A namespace of Kubernetes, and what the names of the Secrets begin with."""

    namespace: str
    prefix: str

    @property
    def url(self) -> str:
        """The store's URL."""
        return f"kubernetes://{self.namespace}/{self.prefix}"

    def secret_of(self, token: str) -> str:
        """Name the Secret of a token's record.

        A name that Kubernetes would not take is spelt in a way that it does, and told apart by a digest.
        """
        if re.fullmatch(_SUBDOMAIN, token):
            return f"{self.prefix}-{token}"
        slug = re.sub(r"[^a-z0-9]+", "-", token.lower()).strip("-")
        digest = hashlib.sha256(token.encode()).hexdigest()[:DIGITS]
        return "-".join(part for part in (self.prefix, slug, digest) if part)


def secret_place(url: str) -> SecretPlace:
    """Read `kubernetes://NAMESPACE/NAME-PREFIX`. Raises `ConfigError`."""
    namespace, slash, prefix = url.partition("://")[2].partition("/")
    if not slash or not namespace or not prefix:
        raise ConfigError(
            "store: not a usable kubernetes:// URL: write kubernetes://NAMESPACE/NAME-PREFIX, where the namespace is "
            "Kubernetes', and the names of the Secrets begin with the prefix"
        )
    _check("namespace", namespace, _LABEL, LONGEST_NAMESPACE, "letters, digits and -")
    _check("name prefix", prefix, _SUBDOMAIN, LONGEST_PREFIX, "letters, digits, - and .")
    return SecretPlace(namespace, prefix)


def _check(what: str, name: str, pattern: str, longest: int, allowed: str) -> None:
    if not re.fullmatch(pattern, name) or len(name) > longest:
        raise ConfigError(
            f"store: not a usable kubernetes:// URL: its {what} is no name for Kubernetes: at most {longest} small "
            f"{allowed}, with a letter or digit at either end"
        )
