"""One token's record in the store: read, healed, and committed until it is there.

What a call brought is *owed* to the store from the moment it is in escrow. A debt is settled by compare-and-set,
retried for ever, and while it stands it is the truth that the daemon acts on: that token exists nowhere else.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Self

import msgspec

from sidecar.errors import Conflict, StoreError, Unwritten
from sidecar.events import CommitFinished, Warned
from sidecar.inquiry import asking
from sidecar.ports import Held, SupportsClaims, is_version
from sidecar.rotation import Verdict, reconcile, rolled_back, with_orphan, with_orphans_of
from sidecar.tokens import decode_record, encode_record

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from sidecar.clock import Clock
    from sidecar.escrow import Slip
    from sidecar.events import Event
    from sidecar.ports import Store, SupportsDiscard
    from sidecar.tokens import Attempt, Record

RACES = 5
"""Lost races in a row before a commit is left to the next turn."""

FIRST_RETRY, LAST_RETRY = 0.1, 5.0

NEWS_LAST = 5.0
"""Seconds for which what somebody else has read of a record counts as having been read."""

OUT_OF_SIGHT = 30.0
"""Seconds between two looks at the store after which what happened meanwhile is not known any more."""


class Debt(msgspec.Struct):
    """A record that the store does not have yet."""

    record: Record
    attempt: str
    """Id of the attempt that it ends."""
    slips: list[Slip]
    rotation: bool
    """Whether it holds tokens that exist nowhere else, or only a note of how a call failed."""
    alone: bool
    """Whether its refresh token is certainly among them: nobody else can send that one."""
    failures: int = 0

    def retry_delay(self) -> float:
        """Seconds until the next try: soon at first, because a restart would lose the tokens."""
        return min(FIRST_RETRY * 2.0 ** min(self.failures, 10), LAST_RETRY)


class _Folded(msgspec.Struct, frozen=True, gc=False):
    """A record in a tenth of the room that it takes opened: its history alone is some two hundred objects."""

    blob: bytes
    version: str
    lease_left: float
    sealed_with: str

    @classmethod
    def of(cls, held: Held) -> Self:
        blob = zlib.compress(encode_record(held.record), 1)
        return cls(blob, held.version, held.lease_left, held.sealed_with)

    def __repr__(self) -> str:
        """Show no byte of the record: it holds secrets."""
        return f"_Folded({self.version}, {len(self.blob)} bytes)"

    def opened(self) -> Held:
        record = decode_record(zlib.decompress(self.blob))
        return Held(record, self.version, self.lease_left, self.sealed_with)


class Ledger:
    """The durable side of one token."""

    __slots__ = (
        "_clock",
        "_due",
        "_emit",
        "_folded",
        "_key",
        "_looked_at",
        "_mine",
        "_missing_since",
        "_news",
        "_open",
        "_store",
        "_token",
        "_unmoved_since",
        "_wrote_at",
        "debt",
    )

    def __init__(
        self,
        token: str,
        key: str,
        store: Store,
        emit: Callable[[Event], None],
        clock: Clock,
        due: Callable[[Record], float | None] | None = None,
    ) -> None:
        """Know nothing until the first `sync`. `due`: see `SupportsClaims`; None: nobody claims this record."""
        self._due = due
        self._token = token
        self._key = key
        self._store = store
        self._emit = emit
        self._clock = clock
        self._looked_at = self._unmoved_since = clock.boot()
        self._wrote_at = float("-inf")
        self._open: Held | None = None
        self._folded: _Folded | None = None
        self._missing_since: float | None = None
        self._news: tuple[Held | None, float] | None = None
        """What somebody else has read of the record, and from when on (boot-time clock) that is true."""
        self._mine = False
        """Whether what the store was last seen to hold is followed, or was written by us, with nothing under way."""
        self.debt: Debt | None = None

    @property
    def _held(self) -> Held | None:
        """What the store was last seen to hold."""
        if self._open is None and self._folded is not None:
            self._open = self._folded.opened()
        return self._open

    @_held.setter
    def _held(self, held: Held | None) -> None:
        self._open, self._folded = held, None

    def fold(self) -> None:
        """Keep what is known in little room, until somebody asks for it."""
        if self._open is not None and self._folded is None:
            self._folded = _Folded.of(self._open)
        self._open = None

    def twin(self) -> Ledger:
        """Make another ledger of the same token, which knows what the store was last seen to hold and owes nothing."""
        made = Ledger(self._token, self._key, self._store, self._emit, self._clock, self._due)
        made._held = self._held
        return made

    @property
    def record(self) -> Record | None:
        """The truth to act on: what is owed to the store, else what it was last seen to hold."""
        if self.debt is not None:
            return self.debt.record
        return self._held.record if self._held else None

    @property
    def stored(self) -> Record | None:
        """What the store was last seen to hold."""
        return self._held.record if self._held else None

    @property
    def lease_left(self) -> float:
        """Seconds that an attempt in the record was still protected when it was read."""
        return self._held.lease_left if self._held else 0.0

    @property
    def watched(self) -> float:
        """Seconds for which nobody wrote the record, which was in sight and could be written.

        Looks may be `OUT_OF_SIGHT` apart.
        """
        return self._looked_at - self._unmoved_since

    @property
    def unread(self) -> float:
        """Seconds since the store was seen to hold the record that is known; infinite where others wrote it.

        Until a poll is due, one's own record need not be read again: if somebody has replaced it, the lease, which
        names the version that it replaces, is not given.
        """
        known = self._mine and self.debt is None and self._news is None
        return self._clock.boot() - self._looked_at if known else float("inf")

    def sighted(self, version: str | None, at: float) -> bool:
        """Take note of the version that the store had from `at` (boot-time clock) on, None: there was no record.

        Returns whether that has to be looked at: what is known of the record is another version.
        """
        held = self._open or self._folded
        if (held is None) != (version is None) or (
            held and version and not is_version(held.version, version)
        ):
            return True
        if at > self._looked_at:
            self._in_sight(at)
        return False

    def hear(self, stored: Held | None, at: float) -> None:
        """Take what the store was found to hold `at` that time or later, for the next `sync`."""
        self._news = stored, at

    def is_seen_since(self, at: float) -> bool:
        """Tell whether the record was in sight since then."""
        return self._looked_at >= at or (self._news is not None and self._news[1] >= at)

    async def _read(self) -> tuple[Held | None, float]:
        """Read the record, unless somebody just has; what was found before we last looked or wrote is old.

        Returns it with when it was seen (boot-time clock).
        """
        news, self._news = self._news, None
        if news is not None:
            looked_at = self._looked_at if self._held is not None else self._wrote_at
            if news[1] > max(looked_at, self._wrote_at, self._clock.boot() - NEWS_LAST):
                return news
        stored = await self._load()
        return stored, self._clock.boot()

    @property
    def unpersisted(self) -> bool:
        """Whether a restart of the machine would lose a token now."""
        return self.debt is not None and self.debt.rotation

    @property
    def alone(self) -> bool:
        """Whether the refresh token exists nowhere but here, so that no lease is needed to use it."""
        return self.debt is not None and self.debt.alone

    @property
    def overdue(self) -> bool:
        """Whether the store has failed to take such a token: no ordinary commit on its way."""
        return self.debt is not None and self.debt.rotation and self.debt.failures > 0

    async def sync(self, *, hold: float = 0.0, absence: float = 0.0, followed: bool = False) -> None:
        """Settle what is owed, then read what is there; a store that fell back is healed. Raises `StoreError`.

        `hold`: seconds for which nobody may use what is written then, since others may know more. It is a lease with
        no attempt, which everybody sees. `absence`: seconds for which a record that is missing altogether is not
        written again, but is a `StoreError`. `followed`: what others write from now on is noticed.
        """
        await self.settle()
        stored, at = await self._read()
        known = self._held
        self._mourn(stored, absence)
        if known is not None and rolled_back(stored.record if stored else None, known.record):
            self._emit(Warned("store", "the store lost a newer record, which is written again", self._token))
            self.distrust()
            healed = with_orphans_of(known.record, stored.record if stored else None)
            expected = stored.version if stored else None
            version = await self._put(healed, expected=expected, lease=hold)
            self._held = Held(healed, version, lease_left=hold)
        else:
            self._watch(stored, at)
            self._held = stored
            # One with an attempt, or a lease, is read whenever it matters.
            if followed and stored is not None:
                self._mine = stored.record.attempt is None and stored.lease_left <= 0

    def take(self, held: Held, since: float) -> bool:
        """Go on from what a claim has brought that began `since` (boot-time clock): the record with our attempt in it.

        Returns False for a store that fell back, which is to be read, and healed, first; and for a record that was
        written here meanwhile, or read and found to be another: what the claim says may have been sent already then.
        """
        known = self._held
        same = known is None or known.record in (
            held.record,
            msgspec.structs.replace(held.record, attempt=None),
        )
        if self._wrote_at >= since or (self._looked_at >= since and not same):
            return False
        if self._held is not None and rolled_back(held.record, self._held.record):
            return False
        self._missing_since = None
        self._watch(held, self._clock.boot())
        self._held = held
        self.distrust()
        return True

    async def _put(self, record: Record, *, expected: str | None, lease: float = 0.0) -> str:
        store, self._wrote_at = self._store, self._clock.boot()
        with self._asking():
            if self._due is None or not isinstance(store, SupportsClaims):
                return await store.write(self._key, record, expected=expected, lease=lease)
            due = None if lease > 0 else self._due(record)
            return await store.write_due(self._key, record, expected=expected, lease=lease, due=due)

    async def _load(self) -> Held | None:
        with self._asking():
            return await self._store.load(self._key)

    def _asking(self) -> AbstractContextManager[None]:
        return asking(self._store.kind, self._emit)

    def distrust(self) -> None:
        """Have the record read at the next turn: somebody else has written it, or may have."""
        self._mine = False

    async def write(self, record: Record, *, lease: float = 0.0) -> None:
        """Replace the record that was last read. Raises `Conflict` or `StoreError`."""
        expected = self._held.version if self._held else None
        self.distrust()
        try:
            version = await self._put(record, expected=expected, lease=lease)
        except Conflict:
            raise
        except StoreError:
            # While the store takes nothing from us it may take nothing from the holder of an attempt either: that
            # nobody wrote is no sign of a death, and whoever has the pair must come first when it takes again.
            self._unmoved_since = self._clock.boot()
            raise
        self._keep(record, version)

    async def discard(self, store: SupportsDiscard) -> str:
        """Have the record that was last read deleted; returns what that was, in words. Raises `StoreError`."""
        version = self._held.version if self._held else ""
        self.distrust()
        with self._asking():
            place = await store.discard(self._key, expected=version)
        self._held = None
        return place

    async def renew(self, record: Record, *, lease: float) -> None:
        """Protect the attempt in `record` anew. Raises `Conflict` when it is not in the store any more."""
        try:
            await self.write(record, lease=lease)
        except Conflict:
            # Unless it was our own write, whose reply was lost.
            stored = await self._load()
            if stored is None or stored.record != record:
                raise
            self._held = stored
            await self.write(record, lease=lease)

    def owe(
        self, record: Record, attempt: Attempt, slip: Slip, *, rotation: bool, late: bool = False
    ) -> None:
        """Take on a debt; it replaces an older one, whose tokens it descends from.

        `late`: a commit of it has failed already, or died with a predecessor.
        """
        older = self.debt
        replaced = (
            rotation and record.refresh is not None and record.refresh.fingerprint != attempt.fingerprint
        )
        self.debt = Debt(
            record,
            attempt.id,
            slips=[*(older.slips if older else ()), slip],
            rotation=rotation or (older is not None and older.rotation),
            # A predecessor may have died with its commit made, and others may use that refresh token by now.
            alone=not late and (replaced or (older is not None and older.alone)),
            failures=int(late) + (older.failures if older else 0),
        )

    async def settle(self) -> None:
        """Commit what is owed, if anything, and release its escrow. Raises `StoreError` while it stays owed."""
        debt = self.debt
        if debt is None:
            return
        try:
            outcome = await self._commit(debt)
        except StoreError as error:
            debt.failures += 1
            # Any other fault may have come behind a commit that was made, and that others act on by now.
            debt.alone = debt.alone and isinstance(error, Unwritten)
            self._emit(CommitFinished(self._token, self._store.kind, "failed", str(error)))
            raise
        self.debt = None
        for slip in debt.slips:
            slip.release()
        self._emit(CommitFinished(self._token, self._store.kind, outcome))

    async def _commit(self, debt: Debt) -> str:
        expected = self._held.version if self._held else None
        self.distrust()
        record, lease, outcome = debt.record, 0.0, "committed"
        for _ in range(RACES):
            try:
                self._keep(record, await self._put(record, expected=expected, lease=lease))
            except Conflict:
                theirs = await self._load()
                expected = theirs.version if theirs else None
                match reconcile(debt.record, debt.attempt, theirs.record if theirs else None):
                    case Verdict.OVERWRITE:
                        record = with_orphans_of(debt.record, theirs.record if theirs else None)
                        lease, outcome = 0.0, "committed"
                    case Verdict.YIELD_AND_KEEP if theirs is not None:
                        record = with_orphan(theirs.record, debt.record)
                        lease, outcome = theirs.lease_left, "superseded"
                    case verdict:
                        self._held = theirs
                        return "committed" if verdict is Verdict.LANDED else "superseded"
            else:
                return outcome
        raise Conflict("the record is changed by others faster than this daemon can commit to it")

    def _mourn(self, stored: Held | None, absence: float) -> None:
        if stored is not None or self._held is None:
            self._missing_since = None
            return
        now = self._clock.boot()
        since = self._missing_since = now if self._missing_since is None else self._missing_since
        if now - since < absence:
            raise StoreError(
                f"the record {self._key} is not in the store any more; if its account is not gone, it is written again "
                f"after {absence:g} s"
            )

    def _watch(self, stored: Held | None, now: float) -> None:
        known = self._held
        moved = stored is None or known is None or stored.version != known.version
        if moved:
            self._unmoved_since = now
        self._in_sight(now)
        self._mine = self._mine and not moved

    def _in_sight(self, now: float) -> None:
        if now - self._looked_at > OUT_OF_SIGHT:
            self._unmoved_since = now
        self._looked_at = now

    def _keep(self, record: Record, version: str) -> None:
        self._held = Held(record, version, lease_left=0.0)
        self._looked_at = self._unmoved_since = self._clock.boot()
        # One with an attempt is read whenever it matters: whose it is, and what is left of the lease.
        self._mine = record.attempt is None
