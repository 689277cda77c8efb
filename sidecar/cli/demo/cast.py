"""Who plays the provider: one that is as strict as can be, or one as a profile describes it."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from sidecar import providers
from sidecar.cli.common import span
from sidecar.errors import ConfigError, UsageError
from sidecar.profile import GrantType, Profile, Rotation

PARTS = 4
"""A token lives for so many of the shortest times between two refreshes, or it could not be replaced in time."""


@dataclass(frozen=True, slots=True)
class Cast:
    """The provider of a demo."""

    name: str | None
    """Its profile; None: a strict one of no name."""
    profile: Profile
    """How it behaves, with lifetimes of the demo's length."""
    ttl: float
    """Seconds that access tokens live."""

    @property
    def arguments(self) -> list[str]:
        """What the simulator is told."""
        behaviour = "--rotation=always" if self.name is None else f"--profile={self.name}"
        return [f"--ttl={self.ttl:g}", behaviour]

    @property
    def settings(self) -> str:
        """What the configuration says of it, beside its address."""
        if self.name is None:
            return (
                "rotation: always # each refresh answers with a new refresh token, and the old one is spent"
            )
        return (
            f"extends: {self.name} # all that is known of it: `token-sidecar providers show {self.name}`\n"
            f"    default_ttl: {self.ttl:g}s # what it really is would be too long for a demo"
        )

    @property
    def reuses(self) -> bool:
        """Tell whether a refresh token may rightly be used more than once."""
        return self.profile.rotation in {Rotation.NEVER, Rotation.SOMETIMES}


def cast(name: str | None, ttl: float) -> Cast:
    """Choose the provider. Raises `UsageError` for one that nothing can be shown of."""
    if name is None:
        return Cast(None, Profile(rotation=Rotation.ALWAYS), ttl)
    try:
        profile = providers.load(name)
    except ConfigError as error:
        raise UsageError(f"{name}: {error}") from None
    if profile.grant is not GrantType.REFRESH_TOKEN:
        raise UsageError(
            f"{name} has no refresh tokens, and the demo is about those; choose another provider"
        )
    if profile.zero_means_never:
        raise UsageError(
            f"the tokens of {name} never expire, so there is nothing to see; choose another provider"
        )
    least = (profile.min_interval or 0.0) * PARTS
    if ttl < least:
        raise UsageError(f"{name} can't be asked that often; let tokens live longer: --ttl {span(least)}")
    return Cast(name, msgspec.structs.replace(profile, default_ttl=ttl), ttl)
