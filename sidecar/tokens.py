"""What is kept of a token: the durable `Record`, its parts, its states and fingerprints.

Everything here is frozen data with no I/O. Secrets are masked in every `repr`, so that a traceback, a log
line or a failed assertion that shows one of these objects shows a fingerprint instead.
"""

from __future__ import annotations

import hashlib
import re
import uuid
from enum import StrEnum
from itertools import pairwise
from typing import Any

import msgspec

SCHEMA_VERSION = 1
HISTORY_LENGTH = 32
SPENT_LENGTH = 64
NAMED = 12
"""Digits of a fingerprint, and of an instance's id in a history."""


class AccessState(StrEnum):
    """What a reader may do with the access token."""

    FRESH = "fresh"
    """Use it: at least `min_validity` is left."""
    STALE = "stale"
    """Use it, but it should have been replaced by now."""
    EXPIRED = "expired"
    """Do not use it."""
    ABSENT = "absent"
    """There is none."""


class GrantState(StrEnum):
    """How the grant itself is doing."""

    OK = "ok"
    UNSEEDED = "unseeded"
    RETRYING = "retrying"
    IN_DOUBT = "in_doubt"
    UNPERSISTED = "unpersisted"
    MISCONFIGURED = "misconfigured"
    DEAD = "dead"


class OutcomeClass(StrEnum):
    """What one call to the provider amounted to."""

    SUCCESS = "success"
    TRANSIENT = "transient"
    IN_DOUBT = "in_doubt"
    MISCONFIGURED = "misconfigured"
    SUSPECT = "suspect"
    DEAD = "dead"


class ExpirySource(StrEnum):
    """Where an access token's expiry was learned."""

    ANSWER = "answer"
    JWT = "jwt"
    PROFILE = "profile"
    ASSUMED = "assumed"
    """Nobody said: refreshed as if it lived 30 minutes, and shown as unknown."""
    NEVER = "never"


class DeadlineRule(StrEnum):
    """What it follows from that a human has to consent again by some time."""

    TOLD = "told"
    """The provider, or the seed, named the refresh token's end."""
    CONFIGURED = "configured"
    """`refresh_token_ttl`, counted from the consent."""
    PROFILE = "profile"
    """The provider's `refresh_ttl`, counted from the consent."""
    IDLE = "idle"
    """The provider's `refresh_idle_ttl`, which every refresh starts anew."""
    LIVING = "living"
    """The access token is what is exchanged for the next one, and this is its end."""


def fingerprint(secret: str) -> str:
    """Name a secret without showing it: the first 12 hex digits of its SHA-256."""
    return hashlib.sha256(secret.encode()).hexdigest()[:NAMED]


def new_id() -> str:
    """Make a random identifier for a lineage, an attempt or an instance."""
    return uuid.uuid4().hex


class AccessToken(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """An access token as one answer of the provider gave it (RFC 6749 §5.1). Times are Unix seconds."""

    value: str
    issued_at: float
    """Taken just before the request was sent, so that the expiry errs to the early side."""
    expires_at: float | None
    """None: never expires."""
    ttl: float | None
    """The lifetime that this answer named, in seconds."""
    expiry_source: ExpirySource = ExpirySource.ANSWER
    token_type: str = "Bearer"
    scope: str | None = None
    repeated_at: float | None = None
    """When the provider last gave this very token again instead of a new one."""

    def __repr__(self) -> str:
        """Show the fingerprint in place of the token."""
        return f"AccessToken({self.fingerprint}, expires_at={self.expires_at})"

    @property
    def fingerprint(self) -> str:
        """The name under which logs, metrics and callers know it."""
        return fingerprint(self.value)

    @property
    def scopes(self) -> tuple[str, ...]:
        """What was granted, one by one: some providers put commas between (GitHub, Slack, Strava)."""
        return tuple((self.scope or "").replace(",", " ").split())

    @property
    def last_came_at(self) -> float:
        """When the provider gave it last, for the first time or again."""
        return self.issued_at if self.repeated_at is None else max(self.issued_at, self.repeated_at)

    def seconds_left(self, now: float) -> float:
        """Tell how long it is still valid; infinite when it never expires."""
        return float("inf") if self.expires_at is None else self.expires_at - now


class RefreshToken(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """A refresh token and what is known of its end. Times are Unix seconds."""

    value: str
    issued_at: float
    expires_at: float | None = None
    """The end that was named for it; None: none was."""
    consented_at: float | None = None
    """When a human consented, as far as that is known; no refresh moves it."""

    def __repr__(self) -> str:
        """Show the fingerprint in place of the token."""
        return f"RefreshToken({self.fingerprint}, expires_at={self.expires_at})"

    @property
    def fingerprint(self) -> str:
        """The name under which logs and `spent` know it."""
        return fingerprint(self.value)


class Attempt(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One use of the right to call the provider; it stays in the record until a definite ending."""

    id: str
    instance: str
    """The daemon instance that holds it, so that a restarted one recognises its own."""
    fingerprint: str
    """The refresh token that it sends; empty for grants without one."""
    started_at: float
    in_doubt_since: float | None = None
    """Set once an attempt may have been processed without a known answer; survives takeovers."""
    holder: str = ""
    """Another instance, whose request is in doubt too and who may yet come back with its answer."""


class Backoff(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Why and until when the provider is left alone; in the record, so that replicas share it."""

    outcome: OutcomeClass
    reason: str
    failures: int
    not_before: float
    since: float
    unreadable: bool = False
    """Whether what came was no answer of a token endpoint."""
    scope_refused: bool = False
    """Whether the provider refuses the scopes that were asked for."""


class Death(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The verdict that a grant is gone, valid for exactly this refresh token, client and endpoint."""

    fingerprint: str
    client_id: str
    endpoint: str
    at: float
    reason: str


REFRESH, SEED, CONSENT, ADOPTION, REVOCATION = "refresh", "seed", "consent", "adoption", "revocation"
"""What a turn of the history may be of. Plain words: a newer version may know others."""


class Turn(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry of a record's history, or several that were alike. Nothing is ever decided by it.

    So this part of a record takes members that it does not know: what a newer version wrote into one is left out.
    """

    at: float
    """When it was over (Unix seconds); of several the last."""
    outcome: OutcomeClass
    reason: str
    generation: int
    """The one that it left."""
    duration: float
    """Seconds that the provider took; of several the longest."""
    what: str = REFRESH
    instance: str = ""
    """Whose it was: the first 12 digits of the id of a daemon's `state_dir`; of several the last's."""
    fingerprint: str = ""
    """Of the access token that it brought."""
    refresh_fingerprint: str = ""
    """Of the refresh token that was held when it was over."""
    times: int = 1
    """How many this one stands for."""
    since: float | None = None
    """When the first of several was over."""

    @property
    def began(self) -> float:
        """When the first of those that it stands for was over."""
        return self.at if self.since is None else self.since

    def is_like(self, other: Turn) -> bool:
        """Tell whether nothing but time, numbers and names differs."""
        return (self.what, self.outcome, without_numbers(self.reason)) == (
            other.what,
            other.outcome,
            without_numbers(other.reason),
        )

    def joined(self, later: Turn) -> Turn:
        """Make one of two that are alike."""
        return msgspec.structs.replace(
            later,
            duration=max(self.duration, later.duration),
            times=self.times + later.times,
            since=self.began,
        )


def without_numbers(text: str) -> str:
    """Make two reasons that differ in their seconds alone look the same."""
    return re.sub(r"\d+", "#", text)


def remembered(history: tuple[Turn, ...], turn: Turn) -> tuple[Turn, ...]:
    """Append to a history. Without room the oldest two neighbours that are alike become one, else the oldest goes.

    So a night of retries, or a week of successes, does not push out what came before it.
    """
    turns = (*history, turn)
    if len(turns) <= HISTORY_LENGTH:
        return turns
    for place, (one, other) in enumerate(pairwise(turns)):
        if one.is_like(other):
            return (*turns[:place], one.joined(other), *turns[place + 2 :])
    return turns[1:]


class Orphan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rotated refresh token that lost its record to a newer lineage; kept, because it may be the living one."""

    lineage: str
    refresh: RefreshToken


class Beyond(msgspec.Struct, frozen=True, omit_defaults=True):
    """Members of a record that this version does not know."""

    members: dict[str, Any] = {}

    def __repr__(self) -> str:
        """Show their names: nobody knows what is secret among them."""
        return f"Beyond({', '.join(self.members)})"


class Record(msgspec.Struct, frozen=True, rename={"history": "turns", "former": "history"}):
    """One token's durable state: one blob, one versioned write.

    Defaults are written too, since a `schema` that was left out would be taken for the reader's own.
    """

    lineage: str
    generation: int = 0
    """Counts commits within the lineage."""
    access: AccessToken | None = None
    refresh: RefreshToken | None = None
    client_id: str = ""
    endpoint: str = ""
    """Origin that the refresh token is bound to; it is never sent anywhere else. Empty: not found yet, see `issuer`."""
    attempt: Attempt | None = None
    backoff: Backoff | None = None
    dead: Death | None = None
    seeds: tuple[str, ...] = ()
    """Fingerprints of every seed ever consumed."""
    replaced: tuple[str, ...] = ()
    """Fingerprints of the last refresh tokens that were replaced."""
    rotates: bool | None = None
    """Whether this grant's refresh token was seen to change (None: not refreshed yet)."""
    granted: tuple[str, ...] = ()
    """Every scope that this lineage was ever granted."""
    orphans: tuple[Orphan, ...] = ()
    history: tuple[Turn, ...] = ()
    """The last turns in which something came of it, oldest first; see `remembered`."""
    former: tuple[Turn, ...] = ()
    """What an older version added to the history that it knows, which refuses what is new in ours: empty once read."""
    issuer: str = ""
    """Who named `endpoint`, or is to name it; empty where the configuration did."""
    account: str = ""
    """Who consented, as the provider's ID token told; empty: it did not tell."""
    end_stands_since: float | None = None
    """When the end of the refresh token was named that later answers did not put off; None: with the token itself."""
    schema: int = SCHEMA_VERSION
    beyond: Beyond = Beyond()
    """What a newer version added, carried along within the lineage."""

    @property
    def spent(self) -> frozenset[str]:
        """Fingerprints that must never be sent again without `--force`."""
        return frozenset(self.seeds) | frozenset(self.replaced)

    def is_dead(self) -> bool:
        """Tell whether the verdict still speaks of the refresh token that is held now."""
        if self.dead is None:
            return False
        held = self.refresh.fingerprint if self.refresh else ""
        return (self.dead.fingerprint, self.dead.client_id, self.dead.endpoint) == (
            held,
            self.client_id,
            self.endpoint,
        )

    def remember(self, turn: Turn) -> Record:
        """Append to the history; see `remembered`."""
        return msgspec.structs.replace(self, history=remembered(self.history, turn))


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Record)
_OWN = {"key", *(field.encode_name for field in msgspec.structs.fields(Record))} - {"beyond"}


def encode_record(record: Record, key: str = "") -> bytes:
    """Serialise a record, with the key that it is kept under (empty: any); the result holds secrets in clear."""
    members = msgspec.structs.asdict(record) | {"key": key}
    members["turns"], members["history"] = members.pop("history"), members.pop("former")
    return _encoder.encode(members.pop("beyond").members | members)


def decode_record(data: bytes) -> Record:
    """Read a record back. Raises `msgspec.MsgspecError` when it is not one."""
    record, members = _decoder.decode(data), msgspec.json.decode(data)
    others = {name: value for name, value in members.items() if name not in _OWN}
    history = record.history
    for turn in record.former:
        if not history or turn.at > history[-1].at:
            history = remembered(history, turn)
    return msgspec.structs.replace(record, beyond=Beyond(others), history=history, former=())
