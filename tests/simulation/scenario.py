"""What kind of world a history takes place in; all of it follows from the seed, unless somebody says otherwise."""

from __future__ import annotations

import random
from dataclasses import dataclass, fields, replace
from typing import Any

from sidecar.profile import InDoubt, Profile, Rotation
from sidecar.testing import ProviderConfig
from sidecar.testing import Rotation as ProviderRotation


@dataclass(frozen=True)
class Kind:
    """One kind of provider, and the profile that tells the truth of it."""

    profile: Profile
    provider: ProviderConfig


def kind_of(name: str, ttl: float) -> Kind:
    """Describe one of `KINDS`, whose access tokens live for `ttl` seconds."""
    # A quarter of it is more than any two of the simulated clocks are apart.
    always, grace = ProviderRotation.ALWAYS, 0.8 * ttl
    match name:
        case "no-replay":
            return Kind(
                Profile(rotation=Rotation.ALWAYS, in_doubt=InDoubt.NO_REPLAY),
                ProviderConfig(access_ttl=ttl, rotation=always),
            )
        case "unknown":
            return Kind(
                Profile(),
                ProviderConfig(access_ttl=ttl, rotation=ProviderRotation.SOMETIMES, rotate_every=3),
            )
        case "kills-old":
            return Kind(
                Profile(rotation=Rotation.ALWAYS, kills_old_access_token=True),
                ProviderConfig(access_ttl=ttl, rotation=always, kills_old_access_token=True),
            )
        case "window":
            return Kind(
                Profile(rotation=Rotation.ALWAYS, in_doubt=InDoubt.REPLAY_WINDOW, grace=grace),
                ProviderConfig(access_ttl=ttl, rotation=always, grace=grace),
            )
        case "until-used":
            return Kind(
                Profile(rotation=Rotation.ALWAYS, in_doubt=InDoubt.REPLAY_UNTIL_USED),
                ProviderConfig(access_ttl=ttl, rotation=always, grace=float("inf"), grace_until_used=True),
            )
        case _:
            return Kind(
                Profile(rotation=Rotation.NEVER, in_doubt=InDoubt.REPLAY_OK),
                ProviderConfig(access_ttl=ttl, rotation=ProviderRotation.NEVER),
            )


KINDS = ("no-replay", "unknown", "kills-old", "window", "until-used", "steady")


@dataclass(frozen=True)
class Scenario:
    """The frame of one history. Spans are virtual seconds."""

    seed: int
    kind: str = "no-replay"
    replicas: int = 3
    tokens: int = 1
    ttl: float = 300.0
    troubled: float = 3600.0
    """For how long things go wrong; peace follows."""
    roughness: float = 1.0
    """How often they do: 1 is a fault a minute or more."""
    steps_clocks: bool = False

    @classmethod
    def of(cls, seed: int, **changes: Any) -> Scenario:
        """Let the seed choose, in short rough histories and in long mild ones, and then change what is asked for."""
        dice = random.Random(f"{seed}/scenario")  # noqa: S311 - dice, no secrets
        mild = dice.random() < 0.5
        drawn = cls(
            seed,
            kind=dice.choice(KINDS),
            replicas=dice.choice([1, 2, 2, 3] if mild else [1, 2, 3, 3, 4, 5]),
            tokens=dice.choice([1, 2, 3]) if mild else dice.choice([1, 1, 2]),
            ttl=dice.choice([60.0, 60.0, 120.0]) if mild else dice.choice([60.0, 300.0, 900.0]),
            troubled=dice.choice([2, 3, 4]) * 3600.0 if mild else 2400.0,
            roughness=dice.choice([0.01, 0.03, 0.1]) if mild else dice.choice([0.3, 1.0, 1.0]),
            steps_clocks=dice.random() < 0.15,
        )
        return replace(drawn, **changes)

    def command(self, plan: str | None = None) -> str:
        """Tell how to live it again."""
        own = Scenario.of(self.seed)
        told = [
            f"{field.name.upper()}={_plain(getattr(self, field.name))}"
            for field in fields(self)
            if field.name == "seed" or getattr(self, field.name) != getattr(own, field.name)
        ]
        if plan is not None:
            told.append(f"PLAN={plan!r}")
        return f"make sim {' '.join(told)}"


def _plain(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
