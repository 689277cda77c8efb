"""Every contract that an adapter fulfils. The comments are the contract.

An adapter is one file that implements one of these Protocols. The conformance suites under `tests/` hold every
adapter to what is written here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import AbstractAsyncContextManager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self, runtime_checkable

import msgspec

from sidecar.tokens import AccessToken, Record, RefreshToken, fingerprint

if TYPE_CHECKING:
    from sidecar.errors import RecordUnreadable
    from sidecar.events import Event


class Answer(msgspec.Struct, frozen=True):
    """A whole HTTP answer of a token endpoint, kept raw until it is safe in escrow."""

    status: int
    headers: dict[str, str]
    """Names in lower case; only those that the decision needs (Date, Retry-After, Content-Type, Location)."""
    body: bytes
    sent_at: float
    """Wall clock just before the request was sent."""
    received_at: float

    def __repr__(self) -> str:
        """Show the sizes in place of the body, which holds tokens."""
        return f"Answer(status={self.status}, {len(self.body)} bytes)"


class Gate(Protocol):
    """Stands between a connection that is ready and the first byte of the request."""

    def open(self) -> None:
        """Let the request pass and note that it went out; raises `LeaseLost` when it must not be sent any more."""
        ...


class Grant(Protocol):
    """One way of obtaining access tokens (RFC 6749 §1.3)."""

    tell: Callable[[str], None]
    """Takes what a human should know, in words; set by whoever has observers."""

    @property
    def endpoint(self) -> str:
        """Origin (`https://host[:port]`) of the token endpoint; empty until `locate` has found it."""
        ...

    @property
    def token_url(self) -> str:
        """The token endpoint itself; empty until `locate` has found it."""
        ...

    @property
    def issuer(self) -> str:
        """Who says where the token endpoint is (RFC 8414); empty where the configuration says it."""
        ...

    @property
    def uses_refresh_token(self) -> bool:
        """Whether `call` needs a refresh token, which it may use up."""
        ...

    @property
    def files(self) -> tuple[Path, ...]:
        """Files that it reads anew when they change (client identity, secret), to be watched."""
        ...

    def credentials_fingerprint(self) -> str:
        """Name what the provider is shown as the client's proof; another name is worth another try. Never raises."""
        ...

    def client_id(self) -> str:
        """The client's public identifier, as configured now. Raises `ConfigError` when it cannot be read."""
        ...

    async def locate(self) -> None:
        """Find the token endpoint, or see whether it moved; mostly done already. Never raises: `call` says why not."""
        ...

    async def call(self, refresh: RefreshToken | None, gate: Gate, *, send_timeout: float) -> Answer:
        """Send exactly one token request and return whatever was answered, judged by nobody yet.

        `gate.open()` is called once, after connecting and before the first byte. `send_timeout` (seconds)
        bounds connecting and sending; reading goes on for up to five minutes. No redirect is followed, nothing
        is retried, no other style of client authentication is tried.

        Raises `NotSent` (nothing left this machine, or nothing that the other side can have read) or `NoAnswer`
        (it may have been processed). Callers shield the call: cancelling it after the gate opened would lose an answer.
        """
        ...


@runtime_checkable
class SupportsNoScope(Protocol):
    """A grant that names scopes and would get what was consented to if it named none (RFC 6749 §6)."""

    async def call_without_scope(
        self, refresh: RefreshToken | None, gate: Gate, *, send_timeout: float
    ) -> Answer:
        """Do the same as `call`, naming no scopes."""
        ...


class Held(msgspec.Struct, frozen=True):
    """A record as a store returned it."""

    record: Record
    version: str
    """Opaque; different after every write."""
    lease_left: float
    """Seconds for which the record's attempt is still protected; 0 when it is not.

    Judged by the store's own clock. Where a store has none, by this process's: from when it first saw this version, or
    from before it sent it. So it may be told too long for others' attempts and never too short."""
    sealed_with: str = ""
    """Id of the key that it is sealed with; empty: it is kept in clear."""


class Store(AbstractAsyncContextManager["Store"], Protocol):
    """Durable records by key (`namespace/name`).

    One key holds one blob that is written in whole. All methods may be called concurrently, from several
    processes where the store is shared; a `write` that returned is durable (it survives SIGKILL and, unless
    `volatile`, power loss) and is seen by every later `load`. Every method may raise `StoreError` for a fault
    that a later call may not meet; after such a fault (or a cancellation) a write may or may not have happened,
    and the caller finds out by `load`. `Unwritten` says that it certainly has not.
    """

    kind: str
    """Short name for logs and the metric label, e.g. `sqlite`."""
    volatile: bool
    """Whether records die with the process or its pod."""

    async def __aenter__(self) -> Self:
        """Connect, creating what is missing."""
        ...

    async def load(self, key: str) -> Held | None:
        """Return the record, or None where there is none. Raises `RecordUnreadable` and leaves it untouched."""
        ...

    async def write(self, key: str, record: Record, *, expected: str | None, lease: float = 0.0) -> str:
        """Replace the record if its version is still `expected` (None: if there is none); return the new version.

        `lease` protects the record's attempt for so many seconds from this write on, as `Held.lease_left`
        reports to everybody; 0 leaves it unprotected. A holder that renews its lease writes again, so whoever
        read an expired lease and writes with that version can't take over from a holder that came back.

        Raises `Conflict` when the version has moved, having changed nothing.
        """
        ...

    async def keys(self, prefix: str = "") -> list[str]:
        """List all keys that begin so, sorted. Raises `Unlisted` where that right is lacking."""
        ...

    async def delete(self, key: str, *, expected: str) -> None:
        """Remove the record if its version is still `expected`; raises `Conflict` otherwise."""
        ...


@runtime_checkable
class SupportsMany(Protocol):
    """A store in which many records are read at the price of one."""

    async def load_many(self, keys: Collection[str]) -> dict[str, Held | RecordUnreadable]:
        """Return the records that are there, and why one of them can't be read; raises `StoreError`.

        Each is as `load` would return it, and together they are as of one moment. A few hundred are meant to be
        asked for at once.
        """
        ...


@runtime_checkable
class SupportsFollowing(SupportsMany, Protocol):
    """A store in which it costs little to see which of many records others have written."""

    async def versions(self, prefix: str, *, after: str, most: int) -> list[tuple[str, str]]:
        """Return key and version of the next `most` records that begin so, by key, from behind the key `after`.

        `is_version` tells whether that is the version of a record that was read. Raises `StoreError`.
        """
        ...


def is_version(known: str, found: str) -> bool:
    """Tell whether `found`, by `SupportsFollowing.versions`, is the version `known` of a `Held`."""
    # What a record is sealed with is in the blob alone.
    return known == found or known.startswith(f"{found}@")


@runtime_checkable
class SupportsRekey(Protocol):
    """A store that can change how a record is sealed without changing the record."""

    async def rekey(self, key: str, *, clear: bool = False) -> bool:
        """Seal the record with the first key (`clear`: with none); tell whether anything was to be done.

        Its lease goes on. Raises `Conflict` when somebody else wrote it meanwhile, having changed nothing, and
        `RecordUnreadable`.
        """
        ...


class Claimed(msgspec.Struct, frozen=True):
    """A record whose lease was given out."""

    key: str
    held: Held
    """With the attempt in it that the lease is for."""


@runtime_checkable
class SupportsClaims(Protocol):
    """A store that gives out the leases of several records at once, to whoever asks first.

    It has to be told when each token is due. A record that was written by `write` is due never.
    """

    async def write_due(
        self, key: str, record: Record, *, expected: str | None, lease: float = 0.0, due: float | None
    ) -> str:
        """Do what `write` does. `due`: when somebody may claim it (Unix seconds, by the store's clock); None: never."""
        ...

    async def claim(
        self, prefix: str, instance: str, *, most: int, lease: float, now: float
    ) -> list[Claimed]:
        """Take the leases of at most `most` records whose keys begin so and that are due, the longest due first.

        One statement, which waits for nobody: what others are just taking is left to them. Each record holds the
        attempt from then on, as after a `write` with this lease; nobody else gets it, and it is due no more. `now`
        (Unix seconds) is when the attempts are said to have begun. A record that can't be read is left out.
        """
        ...


class Grade(StrEnum):
    """How a thing was found to be."""

    OK = "ok"
    WARNING = "warning"
    """It works, and may not for long, or not as it should."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """It could not be looked at; the text says why."""


class Finding(msgspec.Struct, frozen=True):
    """What one look at one thing came to, for a human. Neither text nor remedy holds a secret."""

    grade: Grade
    text: str
    remedy: str = ""
    """What to do about it."""
    exit_code: int = 1
    """What a failure means to a script: 1 failed, 2 configuration, 3 a human must act, 4 it may pass."""


@runtime_checkable
class SupportsDiagnosis(Protocol):
    """A store or an output that can tell more of its place than daily work asks for: rights, versions, the medium."""

    async def diagnose(self) -> list[Finding]:
        """Look at it, and try what can be tried without a trace. A store is open by then.

        Returns within seconds, and never raises for what it finds (a store may raise `StoreError`).
        """
        ...


@runtime_checkable
class SupportsProbe(Protocol):
    """A store in which not every key can be written, as where others have to create the places of records.

    Of any other it is found out by a lease on a record of its own, which is removed again.
    """

    async def probe(self, key: str) -> None:
        """Make sure that the record of this key could be written, writing nothing.

        Raises `StoreError` with the reason and the way out.
        """
        ...


@runtime_checkable
class SupportsDiscard(Protocol):
    """A store whose records others read, and which may be told to delete those of dead grants."""

    deletes_dead: bool
    """Whether it was told so."""

    async def discard(self, key: str, *, expected: str) -> str:
        """Remove the record with no way back, if its version is still `expected`; return what was deleted, in words.

        Raises `Conflict` otherwise.
        """
        ...


class Sealer(Protocol):
    """Makes bytes unreadable for those who have no key. Neither blocks nor waits: it runs on a virtual clock.

    `purpose` says in words what the bytes are, and whose (`record ns/name`). It is authenticated: what was
    sealed for one purpose opens for no other. The id of a key is public, and empty for bytes in clear.
    """

    tell: Callable[[str], None]
    """Takes what a human should know, in words; set by whoever has observers."""

    @property
    def first(self) -> str:
        """Id of the key that new things are sealed with; empty: they are kept in clear."""
        ...

    def seal(self, clear: bytes, purpose: str, key_id: str) -> tuple[bytes, str]:
        """Seal with this key, or with the first one if it is gone; return the id of the one that was taken."""
        ...

    def open(self, data: bytes, purpose: str) -> tuple[bytes, str]:
        """Open what was sealed, by whichever key; what is in clear comes back as it is. Raises `SealError`."""
        ...


class Publication(msgspec.Struct, frozen=True):
    """What is handed to the outputs of one token."""

    token: str
    """The configured name."""
    access: AccessToken
    refresh: RefreshToken | None
    lineage: str
    generation: int
    seeds: int = 0
    """How many seeds the record has consumed."""
    client_id: str = ""
    token_url: str = ""
    scopes: tuple[str, ...] = ()

    @property
    def mark(self) -> Mark:
        """How far the record had come."""
        return Mark(self.lineage, self.generation, self.seeds, self.access.issued_at)


class Mark(msgspec.Struct, frozen=True):
    """How far a record had come when it was published: what a store that falls back is recognised by."""

    lineage: str
    generation: int
    seeds: int
    """How many seeds it had consumed."""
    issued_at: float
    """When its access token was issued, in Unix seconds."""

    def is_news_after(self, known: Mark | None, *, by_lineage: bool) -> bool:
        """Tell whether somebody who knows of that one has to hear of this one."""
        if known is None:
            return True
        if self.lineage == known.lineage and by_lineage:
            return False
        # Counts begin anew with a new store, and go back with one that was restored; hosts' clocks differ a little.
        if self.lineage == known.lineage:
            return self.generation > known.generation or self.issued_at > known.issued_at
        return self.seeds > known.seeds or self.issued_at > known.issued_at


class Foreign(msgspec.Struct, frozen=True):
    """A token that an application wrote into an output by itself."""

    access: AccessToken
    refresh: RefreshToken | None
    stable_for: float
    """Seconds since it was last modified."""


class Holding(msgspec.Struct, frozen=True):
    """What an output really holds, as read back."""

    fingerprint: str | None = None
    """Of the access token that is there; None: nothing usable is there."""
    lineage: str | None = None
    """Known only for what this `state_dir` published."""
    expires_at: float | None = None
    """Unix seconds; None: unknown, or never."""
    never_expires: bool = False
    foreign: Foreign | None = None
    """Set when the content is a readable token that was not published by us."""
    problem: str | None = None
    """Why it cannot be used, in words."""
    mark: Mark | None = None
    """What this `state_dir` published there last, or was about to, whatever is there now."""
    read_since_write: bool | None = None
    """Whether anybody but us has read it since it was written; None: that can't be told."""


class Output(Protocol):
    """One place where a token is published."""

    id: str
    """Unique in a daemon; the metric label."""
    required: bool
    adopt: bool
    """Whether a token that the application refreshed by itself is taken over."""

    async def publish(self, publication: Publication) -> bool:
        """Make readers see this token, atomically: they see the old content or the new one, in whole.

        Content that is already right is left alone; returns whether anything was written. Idempotent; repairs
        content, mode and owner. Raises `OutputError`, with the previous content still in place.
        """
        ...

    async def read_back(self) -> Holding:
        """Tell what a reader would find now. Never raises for what it finds."""
        ...


@runtime_checkable
class SupportsGlance(Protocol):
    """An output of which it costs next to nothing to see that nobody touched it."""

    def is_untouched(self) -> bool:
        """Tell whether it holds what was published there last, as it should, and all is told of it. Never raises."""
        ...


@runtime_checkable
class SupportsWithdrawal(Protocol):
    """An output that can be taken away again, because its account is gone."""

    def withdraw(self) -> str:
        """Remove what we published there; what anybody else wrote is left.

        Returns why something is left there, in words; empty: nothing of ours is. Never raises.
        """
        ...


@runtime_checkable
class RemoteOutput(Output, Protocol):
    """An output behind a network, which may keep everybody waiting who asks it.

    `publish` comes back within seconds, whatever the network does. `read_back` asks nobody: it tells what was seen
    last, and since when nothing is known where that is long ago.
    """

    async def look(self) -> None:
        """See what is there, for `read_back`; comes back within seconds. Raises `OutputError`."""
        ...


class Occasion(msgspec.Struct, frozen=True):
    """A new token is in the store and in every output. Holds names, no secret."""

    token: str
    """The configured name."""
    mark: Mark


class Hook(Protocol):
    """Tells somebody that there is a new token."""

    id: str
    """For messages and the metric label: what it does, and to whom."""
    by_lineage: bool
    """Whether it is for grants that began anew, and not for every new access token."""
    timeout: float
    """Seconds that one attempt may take; whoever runs it keeps to that."""
    attempts: int | None
    """How often it is tried for one token; None: until it succeeds."""

    async def run(self, occasion: Occasion) -> bool:
        """Tell of it; returns whether that was needed: False where it had been told, or of a later token.

        May be called again for the same occasion. May be cancelled where it takes too long. Raises `HookError`,
        naming place, reason and way out.
        """
        ...


class Accounts(Protocol):
    """A place that knows who the accounts of a set are."""

    id: str
    """For messages: what it is."""

    async def names(self) -> list[str]:
        """List the names of all accounts there are now, in any order, whatever they look like.

        Comes back within seconds. Raises `AccountsError` and `StoreError`, naming place, reason and way out.
        """
        ...


class Seeding(msgspec.Struct, frozen=True):
    """What a seed holds."""

    refresh: RefreshToken
    access: AccessToken | None = None
    client_id: str = ""
    """The client that it was given to; empty: not known, so that it counts as the configured one's."""
    endpoint: str = ""
    """Origin of the token endpoint that gave it; empty: not known."""
    account: str = ""
    """Who consented, as the provider's ID token told; empty: not known."""

    @property
    def fingerprint(self) -> str:
        """Names the seed, whatever file or layout it came in."""
        return fingerprint(self.refresh.value)


class Seed(Protocol):
    """A place where an operator leaves a refresh token."""

    id: str
    """For messages: what it is and where."""
    missing: str
    """What was missing when `read` returned None, and the way out, in words; empty: nothing."""

    async def read(self) -> Seeding | None:
        """Return the seed; None while it is missing or empty. Raises `SeedError` naming place, reason, remedy."""
        ...


class Observer(Protocol):
    """Watches what happens. Called synchronously: it must return at once and must not raise."""

    def notice(self, event: Event) -> None:
        """Take notice of one event."""
        ...
