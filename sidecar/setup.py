"""What a renewer works with: what the configuration says of its token, and what all tokens of a daemon share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sidecar.pace import Line, Pace
from sidecar.ports import Grant, Hook, Output, RemoteOutput, Seed, Store
from sidecar.profile import Profile
from sidecar.schedule import Policy

if TYPE_CHECKING:
    from collections.abc import Callable

    from sidecar.clock import Clock
    from sidecar.escrow import Escrow
    from sidecar.events import Event


class Setup(msgspec.Struct, frozen=True):
    """What the configuration says of one token, with its adapters in place. Spans are seconds."""

    name: str
    key: str
    provider: str
    profile: Profile
    policy: Policy
    grant: Grant
    outputs: tuple[Output, ...] = ()
    """Those that never keep us waiting."""
    remote_outputs: tuple[RemoteOutput, ...] = ()
    hooks: tuple[Hook, ...] = ()
    seed: Seed | None = None
    scopes: tuple[str, ...] = ()
    required: bool = True
    on_dead: str = "restart"
    dead_grace: float | None = None
    refresh_token_ttl: float | None = None
    refresh_without_store: bool = False
    page: str = ""
    """The URL of its page in the console; empty: there is no console."""
    of_set: str = ""
    """The set that it is a member of; empty: it is a plain token."""
    aggregated: bool = False
    """Whether it is told of together with other members."""
    claims: bool = False
    """Whether its lease is mostly taken by a claim, of whoever serves its set."""
    line: Line | None = None
    """How far the claims of its set have come."""
    pace: Pace | None = None
    """How fast its provider may be called; None: as its own answers say."""
    followed: bool = False
    """Whether what others write of it is noticed for it, so that it need not look by itself."""
    absence: float = 0.0
    """For how long a record that is missing from the store is not written again: whoever removed it may have meant
    the account, which is about to leave. 0: it was lost, and is written again at once."""


class Surroundings(msgspec.Struct, frozen=True):
    """What all renewers of a daemon share."""

    clock: Clock
    store: Store
    escrow: Escrow
    instance: str
    """Identifies the owner of this `state_dir`, across restarts."""
    emit: Callable[[Event], None]
    random: Callable[[], float]
    """Draws from [0, 1)."""
