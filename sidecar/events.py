"""One frozen class per thing that happened. Logs, metrics, status and health are observers of these alone.

No event carries a secret: tokens appear as fingerprints. All times are Unix seconds.
"""

from __future__ import annotations

import msgspec

from sidecar.tokens import AccessState, DeadlineRule, GrantState, OutcomeClass


class OutputView(msgspec.Struct, frozen=True, gc=False):
    """An output as it was last read back."""

    output: str
    required: bool
    fingerprint: str | None = None
    lineage: str | None = None
    expires_at: float | None = None
    never_expires: bool = False
    problem: str | None = None
    read_since_write: bool | None = None
    """Whether anybody has read it since we wrote it; None: that can't be told."""


class HookView(msgspec.Struct, frozen=True, gc=False):
    """A hook as it last went."""

    hook: str
    pending: bool = False
    """Whether it has not been run for the present token with success yet: it waits, fails, or was given up."""
    problem: str | None = None


class TokenView(msgspec.Struct, frozen=True, gc=False):
    """Everything that may be shown of one token."""

    token: str
    provider: str
    required: bool
    on_dead: str
    """What is done about a dead grant: restart, unready or report."""
    dead_grace: float | None
    """Seconds; None: the default."""
    grant_state: GrantState = GrantState.UNSEEDED
    """How the grant stands."""
    reason: str = ""
    """Why the grant is not ok, in words."""
    remedy: str = ""
    """What a human can do about it."""
    lineage: str = ""
    generation: int = 0
    fingerprint: str = ""
    """Of the access token."""
    expires_at: float | None = None
    never_expires: bool = False
    expiry_known: bool = False
    """Whether the provider told `expires_at`; otherwise it is an assumption."""
    refresh_fingerprint: str = ""
    """Of the refresh token."""
    refresh_expires_at: float | None = None
    """When a human has to consent again at the latest."""
    refresh_expiry_rule: DeadlineRule | None = None
    """What that follows from."""
    refresh_life: float | None = None
    """Seconds that it has in all, from where that is counted."""
    missing_scopes: tuple[str, ...] = ()
    """Scopes that the access token lacks although they were asked for, or granted before."""
    min_validity: float = 0.0
    """Seconds, as in force for the present token."""
    next_wake: float | None = None
    """When it is looked after next."""
    last_success: float | None = None
    """When the provider last gave an access token."""
    dead_since: float | None = None
    """When the verdict fell."""
    found_dead: bool = False
    """Whether the grant was dead already when this process started."""
    in_doubt_since: float | None = None
    """Since when it is unknown whether a refresh token was used up."""
    unpersisted: bool = False
    """Whether a rotated refresh token is not in the store yet."""
    outputs: tuple[OutputView, ...] = ()
    """Where it is published."""
    hooks: tuple[HookView, ...] = ()
    """Who is told of it."""
    of_set: str = ""
    """The set that it is a member of; empty: it is a plain token."""
    aggregated: bool = False
    """Whether it is told of together with other members, and has no metrics of its own."""

    def access_state(self, now: float) -> AccessState:
        """Say what a reader may do with the access token at `now`."""
        if not self.fingerprint:
            return AccessState.ABSENT
        if self.never_expires or self.expires_at is None or self.expires_at - now >= self.min_validity:
            return AccessState.FRESH
        return AccessState.STALE if self.expires_at > now else AccessState.EXPIRED


class Step(msgspec.Struct, frozen=True):
    """What a turn did at one time."""

    name: str
    """load | decide | lease | arm | call | escrow | commit | publish | hook."""
    at: float
    """Seconds since the turn began."""
    seconds: float
    """How long it took."""
    subject: str = ""
    """The store, output or hook; what was decided, and why."""
    outcome: str = ""
    """Of a call its class, of a lease `taken` or `elsewhere`, of an output or a hook what its event says."""
    error: str = ""
    """The kind of what went wrong, one of a few words; empty: nothing did."""
    problem: str = ""
    """The same in a sentence."""
    status: int | None = None
    """Of the provider's answer, if there was one."""
    address: str = ""
    """Origin that was called, where the configuration names it."""


class Course(msgspec.Struct, frozen=True):
    """What a turn consisted of."""

    id: str
    """32 random hex digits."""
    began: float
    """When it began."""
    seconds: float
    steps: tuple[Step, ...]
    """In the order in which they began."""


class Event(msgspec.Struct, frozen=True):
    """Something that happened."""


class TurnEnded(Event, frozen=True):
    """A turn for one token is over."""

    view: TokenView
    """How it stands now."""
    sentence: str
    """What was done and when the next turn is."""
    noteworthy: bool
    """False for a look that found nothing to do."""
    course: Course | None = None
    """What it consisted of; none where the token was only seen for the first time."""


class TokenForgotten(Event, frozen=True):
    """A token left the configuration."""

    token: str


class SetListed(Event, frozen=True):
    """It was looked who the accounts of a set are, or is about to be for the first time."""

    of: str
    """The set."""
    members: int
    """How many are served now."""
    refused: tuple[tuple[str, str], ...] = ()
    """Accounts that can't be served, and why."""
    problem: str = ""
    """Why those who are known stay as they are; empty: they were brought up to date."""
    listed_at: float | None = None
    """When they last were (Unix seconds)."""
    required: bool = False
    provider: str = ""
    """Of all its members."""


class CallFinished(Event, frozen=True):
    """The provider was called and the outcome is known, at least as a class."""

    token: str
    provider: str
    outcome: OutcomeClass
    reason: str
    seconds: float


class Rotated(Event, frozen=True):
    """A refresh succeeded: the provider gave out a new token, which is not in the store yet."""

    token: str
    provider: str
    lineage: str
    generation: int
    """The one that it makes."""
    fingerprint: str
    """Of the access token that came."""
    replaced: str = ""
    """Of the one that was held before; the same where the provider gave that again."""
    refresh_fingerprint: str = ""
    """Of the refresh token that is held from now on; empty for grants without one."""
    refresh_replaced: str = ""
    """Of the one before; the same where the provider keeps it."""


class Seeded(Event, frozen=True):
    """A new lineage was started from a seed."""

    token: str
    seed: str
    """Where the seed was found, or `command` or `login`."""
    fingerprint: str
    """Of the refresh token."""
    lineage: str
    asked: bool = False
    """Whether somebody asked for it, of whom an `Audited` tells."""


class SeedRefused(Event, frozen=True):
    """A seed cannot be used."""

    token: str
    seed: str
    reason: str


class Adopted(Event, frozen=True):
    """An application's own refresh was taken over from an output."""

    token: str
    output: str
    fingerprint: str


class GrantDied(Event, frozen=True):
    """The provider's verdict on a grant is final."""

    token: str
    fingerprint: str
    reason: str
    remedy: str


class Discarded(Event, frozen=True):
    """What was kept of a dead grant was deleted, as configured."""

    token: str
    place: str
    """What was deleted."""
    fingerprint: str
    reason: str
    """Why the grant was dead."""


class LeaseSought(Event, frozen=True):
    """The right to call the provider for a token was asked for."""

    token: str
    outcome: str
    """taken | elsewhere (another daemon was faster) | failed (the store didn't give it)."""


class StoreAsked(Event, frozen=True):
    """An operation on the store ended."""

    store: str
    """Its kind."""
    outcome: str
    """success (it answered, be it that somebody else was faster) | failed."""


class CommitFinished(Event, frozen=True):
    """A commit to the store ended."""

    token: str
    store: str
    outcome: str
    """committed | failed | superseded."""
    reason: str = ""


class OutputWritten(Event, frozen=True):
    """A publication to one output ended."""

    token: str
    output: str
    outcome: str
    """written | unchanged | failed."""
    reason: str = ""


class HookRan(Event, frozen=True):
    """A hook ended."""

    token: str
    hook: str
    outcome: str
    """done | unneeded | failed."""
    reason: str = ""


class Delivered(Event, frozen=True):
    """Outputs behind a network, and hooks, had their turn."""

    token: str
    sentence: str
    """What was done."""
    noteworthy: bool
    """False for a look that found nothing to do."""
    course: Course | None = None
    """What it consisted of."""
    follows: str = ""
    """Id of the token's turn that handed over what is delivered."""


class ScopesShrank(Event, frozen=True):
    """An access token lacks scopes that were asked for, or that were granted before."""

    token: str
    missing: tuple[str, ...]
    """The scopes that it lacks."""


class ClockSkewSeen(Event, frozen=True):
    """An answer told the provider's clock."""

    provider: str
    seconds: float
    """Positive: the provider's clock is ahead of ours."""


class ConfigLoaded(Event, frozen=True):
    """The configuration was read again."""

    accepted: bool
    """False: the old one stays in force."""
    problems: tuple[str, ...] = ()
    """Every mistake in it."""
    changed: tuple[str, ...] = ()
    """Names of the tokens that it touched."""


class Warned(Event, frozen=True):
    """Something is not as it should be, and goes on all the same."""

    place: str
    reason: str
    token: str = ""


class Audited(Event, frozen=True):
    """Somebody asked for something that changes a token or shows its grant, or for a session."""

    who: str
    """As whom they are signed in, or `uid 1000` for a command on this machine; empty: nobody is."""
    what: str
    """sign-in | sign-out | consent | connect | disconnect | seed | refresh | export | revoke | reload | request."""
    outcome: str
    """begun | done | aside | failed | refused."""
    token: str = ""
    fingerprint: str = ""
    """Of the token that came of it: the access token after a refresh, else the refresh token."""
    reason: str = ""
    origin: str = ""
    """The address that it came from."""
