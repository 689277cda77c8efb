"""The main flow for one token: load → decide → lease → grant → escrow → commit → publish → emit.

Nothing after *grant* ever calls the provider again to repair a failure, and nothing cancels the way from the
first byte of the request to the commit: not SIGTERM, not a reload, not a failing sibling. A turn is bounded and
never sleeps; whatever has to wait is a `Wake` that the scheduler keeps.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING

import anyio
import msgspec

from sidecar import answers, outcomes, rotation, schedule
from sidecar.courier import Courier
from sidecar.errors import (
    CallError,
    ConfigError,
    Conflict,
    EscrowError,
    LeaseLost,
    NoAnswer,
    StoreError,
)
from sidecar.escrow import Stage
from sidecar.events import (
    CallFinished,
    ClockSkewSeen,
    Discarded,
    GrantDied,
    LeaseSought,
    Rotated,
    ScopesShrank,
    TokenView,
    TurnEnded,
    Warned,
)
from sidecar.intake import Intake, Planting
from sidecar.ledger import Ledger
from sidecar.ports import Answer, Publication, SupportsDiscard, SupportsNoScope
from sidecar.profile import InDoubt
from sidecar.publisher import STABLE_AFTER, Publisher
from sidecar.schedule import Refresh, Situation, Wait, Wake
from sidecar.setup import Setup, Surroundings
from sidecar.standing import (
    Troubles,
    consent,
    fallen_back,
    missing_scopes,
    quoted,
    remedy,
    standing,
    with_record,
)
from sidecar.stopwatch import Stopwatch
from sidecar.tokens import DeadlineRule, GrantState, OutcomeClass

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.clock import Clock
    from sidecar.escrow import Entry, Slip
    from sidecar.events import OutputView
    from sidecar.outcomes import Outcome
    from sidecar.ports import Held, Seeding
    from sidecar.schedule import Decision, Timing
    from sidecar.stopwatch import Note
    from sidecar.tokens import Record, RefreshToken

FAILURE = 300
"""The first HTTP status that is no success."""

OVERLOADED = (OutcomeClass.TRANSIENT, OutcomeClass.IN_DOUBT)
"""What calls come to that a provider can't take."""

OBSTACLE_RETRY = 60.0
STORE_RETRY = 2.0
RACE_RETRY = 0.25


class Renewer:
    """Keeps one token alive."""

    __slots__ = (
        "_around",
        "_asked",
        "_blank",
        "_born",
        "_claim",
        "_did",
        "_failed_credentials",
        "_fallen_back",
        "_first_seen",
        "_forced",
        "_found_dead",
        "_intake",
        "_leaving",
        "_ledger",
        "_missing",
        "_next_wake",
        "_obstacle",
        "_overdue",
        "_publisher",
        "_raced",
        "_refused",
        "_store_trouble",
        "_successor",
        "_unread",
        "_watch",
        "courier",
        "setup",
    )

    def __init__(self, setup: Setup, around: Surroundings) -> None:
        """Do nothing yet: the first turn does."""
        self.setup = setup
        self._successor: Setup | None = None
        self._around = around
        due = self._claimable_at if setup.claims else None
        self._ledger = Ledger(setup.name, setup.key, around.store, around.emit, around.clock, due)
        self._intake = Intake(around, self._ledger)
        self._publisher = Publisher(setup.name, setup.outputs, around.emit)
        self.courier = Courier(setup.name, around.emit, around.clock)
        """Brings the token to whoever may keep us waiting."""
        self.courier.furnish(setup.remote_outputs, setup.hooks)
        self._blank: Record | None = None
        self._refused: str | None = None
        self._forced: str | None = None
        self._failed_credentials: str | None = None
        self._found_dead: bool | None = None
        self._next_wake: float | None = None
        self._first_seen: tuple[str, float] | None = None
        """Name of the present access token, and by how much wall was ahead of boot-time clock when it was met."""
        self._overdue = False
        self._fallen_back = ""
        self._store_trouble = ""
        self._obstacle = ""
        self._missing: tuple[str, ...] = ()
        self._did: list[str] = []
        self._asked = self._raced = False
        self._unread = True
        """Whether answers may be there that this profile has not looked at."""
        self._born = around.clock.wall()
        self._claim: tuple[Held, float] | None = None
        """A lease that was claimed for this token, and its end on the boot-time clock."""
        self._leaving: Callable[[], None] | None = None
        """Takes note that nothing of this token is under way any more; None: it stays."""

    # The flow

    async def turn(self, late: Callable[[], None]) -> Wake:
        """Take one turn and say when the next is due.

        `late` is called when an answer does not come within the deadline: the turn goes on, but should no longer
        occupy a worker.
        """
        if self._leaving is not None:
            return await self._leave(self._leaving)
        self._take_over()
        self._read_again()
        self._did, self._asked, self._watch = [], False, Stopwatch(self._around.clock)
        self._forced, self._refused = self._refused, None
        await self.setup.grant.locate()
        with self._watch.step("load", self._around.store.kind) as note:
            lease = await self._take_claim()
            raced = lease is None and not await self._load()
            note.problem, note.error = self._store_trouble, StoreError.__name__ if self._store_trouble else ""
        await self._publish()
        # Not before: whoever asks meanwhile is told what was found the last time.
        self._obstacle = ""
        with self._watch.step("decide") as note:
            decision = self._decide()
            if lease is None and isinstance(decision, Refresh) and self._forced is None:
                decision = self._in_pace(decision)
            note.subject = decision.reason
            note.outcome = "refresh" if isinstance(decision, Refresh) else "wait"
        if (lease is not None or isinstance(decision, Refresh)) and not raced and self._may_call():
            raced = not await self._renew(late, lease)
            decision = self._decide()
        if await self._discard():
            decision = self._decide()
        return await self._end(decision, raced=raced)

    def claimed(self, held: Held, until: float) -> None:
        """Refresh at the next turn, which is to be asked for: the lease is ours `until` then (boot-time clock)."""
        self._claim = held, until
        line, due = self.setup.line, self._claimable_at(msgspec.structs.replace(held.record, attempt=None))
        if line is not None and due is not None:
            # The longest due come first. A line that never empties would hide whoever isn't in it.
            line.passed = max(line.passed, min(due, self._now()))

    async def _take_claim(self) -> float | None:
        """Go on from a lease that was claimed; returns its end, or None where there is none that is of use.

        An attempt that nobody goes on from is found, and cleared, when the record is read.
        """
        claim, self._claim = self._claim, None
        if claim is None or self._ledger.debt is not None:
            return None
        held, until = claim
        if until - self._around.clock.boot() < self._times().lease / 2:
            return None
        if not self._ledger.take(held, until - held.lease_left):
            return None
        self._store_trouble, self._found_dead = "", bool(self._found_dead)
        self._sought("taken")
        await self._compare()
        return None if self._fallen_back else until

    # What is followed: others look in its stead

    @property
    def name(self) -> str:
        """See `Followed.name`."""
        return self.setup.name

    @property
    def key(self) -> str:
        """See `Followed.key`."""
        return self.setup.key

    def sighted(self, version: str | None, at: float) -> bool:
        """See `Followed.sighted`."""
        moved = self._ledger.sighted(version, at)
        # Its first turn may wait for this, and so does one that could not be taken for the store's sake.
        return moved or self._found_dead is None or bool(self._store_trouble)

    def hear(self, stored: Held | None, at: float) -> None:
        """See `Followed.hear`."""
        self._ledger.hear(stored, at)

    def distrust(self) -> None:
        """See `Followed.distrust`."""
        self._ledger.distrust()

    def is_seen_since(self, at: float) -> bool:
        """See `Followed.is_seen_since`."""
        return self._ledger.is_seen_since(at)

    def is_touched(self) -> bool:
        """See `Followed.is_touched`."""
        return self._publisher.is_touched()

    async def _load(self) -> bool:
        """Learn what the store, the seed and the applications hold; returns whether it stood still meanwhile."""
        try:
            if (
                self._forced is not None
                or self._store_trouble
                or self._ledger.unread >= self._poll_interval()
            ):
                await self._ledger.sync(
                    hold=self._hold(), absence=self.setup.absence, followed=self.setup.followed
                )
                self._store_trouble = ""
            if self._found_dead is None:
                self._found_dead = self.record is not None and self.record.is_dead()
            await self._compare()
            await self._clear_unsent()
            await self._take_in()
        except Conflict:
            self._store_trouble = ""
            return False
        except StoreError as error:
            self._store_trouble = str(error)
        return True

    def _decide(self) -> Decision:
        """Decide by what is known now; asked again after every step that may have changed it."""
        record = self.record
        seen = Situation(
            now=self._now(),
            jitter=schedule.jitter(self._around.instance, _name_of(record)),
            lease_left=self._ledger.lease_left,
            own=self._owns_attempt(record),
            watched=self._ledger.watched,
            forced=self._is_forced(record),
            fallen_back=bool(self._fallen_back),
            one_of_many=bool(self.setup.of_set),
            followed=self.setup.followed,
        )
        decision = schedule.decide(record, self._times(), self.setup.profile, seen)
        return self._left_to_claims(record, decision, seen) if self.setup.claims else decision

    def _in_pace(self, decision: Decision) -> Decision:
        """Wait where the provider takes no more calls just now."""
        pace, boot = self.setup.pace, self._around.clock.boot()
        if pace is None or pace.room(boot) >= 1 or self._is_forgiven():
            return decision
        return Wait(self._now() + pace.delay(boot), "its provider takes no more just now")

    def _is_forgiven(self) -> bool:
        """Tell whether a refresh token that may have been used can be sent again, and only for a short while."""
        attempt = self.record.attempt if self.record is not None else None
        return attempt is not None and self.setup.profile.in_doubt is InDoubt.REPLAY_WINDOW

    def _left_to_claims(self, record: Record | None, decision: Decision, seen: Situation) -> Decision:
        """Leave what is merely due to whoever claims it, for a while."""
        if self._is_claimed(record):
            return Wait(seen.now + seen.lease_left, "claimed by this daemon")
        if record is None or seen.forced or seen.fallen_back or seen.lease_left > 0:
            return decision
        passed = self.setup.line.passed if self.setup.line is not None else math.inf
        until = schedule.left_to_claims(
            record, self._times(), self.setup.profile, now=seen.now, passed=passed
        )
        if isinstance(decision, Refresh):
            return Wait(until, "due, and left to whoever claims it") if seen.now < until else decision
        # By then it's known what became of it.
        return Wait(until, decision.reason) if seen.followed and decision.until < until else decision

    def _is_claimed(self, record: Record | None) -> bool:
        """Tell whether this process claimed a record, and may be about to go on from that.

        Until its lease has ended, such an attempt is neither cleared nor replaced: another turn will begin with it.
        """
        attempt = record.attempt if record is not None and self._ledger.debt is None else None
        return (
            self.setup.claims
            and attempt is not None
            and attempt.in_doubt_since is None
            and self._owns_attempt(record)
            and attempt.started_at >= self._born
            and self._ledger.lease_left > 0
        )

    def _claimable_at(self, record: Record) -> float | None:
        times = schedule.timing_of(record, self.setup.policy, self.setup.profile)
        return schedule.claimable_at(record, times, self.setup.profile)

    async def _renew(self, late: Callable[[], None], lease: float | None = None) -> bool:
        """Call the provider once and see the answer home; returns False when another instance was faster.

        `lease`: the end of the one that is held already.
        """
        pace, boot = self.setup.pace, self._around.clock.boot()
        place = pace.call(boot) if pace is not None else nullcontext(_nothing)
        # Not even the lease is cancelled: an intent that nobody ends keeps the other replicas waiting.
        with anyio.CancelScope(shield=True), place as is_late:
            try:
                base, deadline = await self._lease() if lease is None else (self._directed(), lease)
            except Conflict:
                return False
            except StoreError as error:
                self._store_trouble = str(error)
                return True
            self._forced = None
            await self._see_home(base, deadline, partial(_each, is_late, late))
        return True

    async def _discard(self) -> bool:
        """Delete what is kept of a grant that the provider has declared dead, where that is configured."""
        store, record = self._around.store, self.record
        if not isinstance(store, SupportsDiscard) or not store.deletes_dead:
            return False
        if record is None or record.dead is None or not record.is_dead() or self._ledger.debt is not None:
            return False
        if not record.dead.client_id:
            return False  # nobody has asked the provider
        try:
            with anyio.CancelScope(shield=True):
                place = await self._ledger.discard(store)
        except Conflict:
            return False
        except StoreError as error:
            self._store_trouble = str(error)
            return False
        self._around.emit(Discarded(self.setup.name, place, record.dead.fingerprint, record.dead.reason))
        self._did.append(f"deleted {place}, whose grant is dead")
        return True

    async def _lease(self) -> tuple[Record, float | None]:
        """Write the intent; returns the record with the attempt in it, and the lease's end on the boot-time clock.

        The end is None where the call goes without a lease, because the token exists nowhere but here.
        """
        record, clock, times = self._directed(), self._around.clock, self._times()
        grace = self.setup.profile.grace or 0.0
        base = rotation.intended(record, self._around.instance, self._now(), grace)
        if self._ledger.alone:
            return base, None
        # Counted from before the statement was sent: ours ends earlier than anybody else believes.
        began, note = clock.boot(), self._watch.note("lease", self._around.store.kind)
        try:
            with self._watch.timed(note):
                await self._ledger.write(base, lease=times.lease)
                note.outcome = "taken"
        except Conflict:
            self._sought("elsewhere")
            note.outcome, note.error, note.problem = "elsewhere", "", ""
            raise
        except StoreError:
            self._sought("failed")
            if not self._may_go_without_lease():
                raise
            return base, None
        self._sought("taken")
        return base, began + times.lease

    def _sought(self, outcome: str) -> None:
        self._around.emit(LeaseSought(self.setup.name, outcome))

    def _directed(self) -> Record:
        record, grant = self.record, self.setup.grant
        if record is None:
            raise Conflict
        return rotation.directed(
            record, client_id=grant.client_id(), endpoint=grant.endpoint, issuer=grant.issuer
        )

    async def _see_home(self, base: Record, deadline: float | None, late: Callable[[], None]) -> None:
        attempt = base.attempt
        if attempt is None:
            return
        began = self._around.clock.boot()
        # Before the call: a grant that was refused may show something else from then on.
        shown = self.setup.grant.credentials_fingerprint()
        try:
            with self._watch.step("arm"):
                slip = self._around.escrow.arm(self.setup.key, base, attempt)
        except EscrowError as error:
            self._obstacle = str(error)
            await self._load()
            return
        self._asked = True
        result, note = await self._call(base, slip, deadline, late)
        record, success = self._conclude(base, result, self._around.clock.boot() - began, shown)
        self._end_call(result, record)
        _noted(note, result, record)
        self._keep_unread(slip, result, record)
        self._ledger.owe(record, attempt, slip, rotation=success)
        if self.setup.profile.kills_old_access_token:
            # What the readers hold is dead already; the new token is safe in escrow and goes out before the commit.
            await self._publish()
        try:
            with self._watch.step("commit", self._around.store.kind):
                await self._ledger.settle()
        except StoreError as error:
            self._store_trouble = str(error)
        else:
            if success:
                self._forget_unread()
        await self._publish()

    def _end_call(self, result: Answer | CallError, record: Record) -> None:
        if self.setup.pace is None:
            return
        refused = record.backoff is not None and record.backoff.outcome in OVERLOADED
        asked = answers.retry_after(result) if refused and isinstance(result, Answer) else None
        self.setup.pace.judge(self._around.clock.boot(), refused=refused, retry_after=asked)

    async def _call(
        self, base: Record, slip: Slip, deadline: float | None, late: Callable[[], None]
    ) -> tuple[Answer | CallError, Note]:
        times = self._times()
        gate = _Gate(self._around.clock, deadline, times.lease / 3, slip)
        grant, note = self.setup.grant, self._watch.note("call", self.setup.provider)
        # What the provider's own metadata says of it is nobody's configuration.
        note.address = "" if grant.issuer else grant.endpoint
        result: Answer | CallError
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._hold_lease, base, times, late, deadline is not None)
            try:
                with self._watch.timed(note):
                    result = await self._request(base)(base.refresh, gate, send_timeout=times.request_timeout)
                with self._watch.step("escrow"):
                    slip.answered(result)
            except CallError as error:
                result = error
            except EscrowError as error:
                # Its room was preallocated, so the volume broke; the answer is still in hand and goes on.
                self._around.emit(Warned("escrow", str(error), self.setup.name))
            tasks.cancel_scope.cancel()
        self._overdue = False
        return result, note

    def _request(self, base: Record) -> Callable[..., Awaitable[Answer]]:
        """Choose the request that names no scopes where the last answer refused them: fewer may have been granted."""
        grant = self.setup.grant
        refused = base.backoff is not None and base.backoff.scope_refused
        return grant.call_without_scope if refused and isinstance(grant, SupportsNoScope) else grant.call

    async def _hold_lease(self, base: Record, times: Timing, late: Callable[[], None], leased: bool) -> None:  # noqa: FBT001
        """Free the worker once the deadline has passed, and renew the lease for as long as the answer takes."""
        await anyio.sleep(times.request_timeout)
        self._overdue = True
        late()
        while leased:
            try:
                await self._ledger.renew(base, lease=times.lease)
            except Conflict:
                return
            except StoreError as error:
                self._store_trouble = str(error)
            await anyio.sleep(times.lease / 3)

    def _conclude(
        self, base: Record, result: Answer | CallError, seconds: float, shown: str
    ) -> tuple[Record, bool]:
        """Judge what came back; returns the record that follows from it and whether it holds a new token.

        `shown` is the fingerprint of the credentials that the request was made with.
        """
        setup, now = self.setup, self._now()
        if isinstance(result, CallError):
            outcome = outcomes.judge_failure(result, setup.profile)
        else:
            outcome = outcomes.judge(result, setup.profile, sent=base.refresh, previous=base.access)
        delay = self._delay(base, outcome, now)
        record = rotation.concluded(base, outcome, setup.profile, now=now, delay=delay)
        died = record.is_dead() and record.dead != base.dead
        verdict = OutcomeClass.DEAD if died else outcome.outcome
        record = rotation.told(
            record, verdict, outcome.reason, now=now, instance=self._around.instance, seconds=seconds
        )
        self._report(base, record, outcome, verdict, seconds)
        self._failed_credentials = shown if verdict is OutcomeClass.MISCONFIGURED else None
        return record, verdict is OutcomeClass.SUCCESS

    def _delay(self, base: Record, outcome: Outcome, now: float) -> float:
        first = base.backoff is None
        if first and outcome.outcome is OutcomeClass.IN_DOUBT and self.setup.profile.replays_at_once:
            # A window in which a replay is forgiven may be seconds long.
            return 0.0
        return outcomes.backoff(
            outcome,
            1 if base.backoff is None else base.backoff.failures + 1,
            now=now,
            expires_at=base.access.expires_at if base.access else None,
            jitter=self._around.random(),
            since=base.backoff.since if base.backoff else None,
        )

    def _report(
        self, base: Record, record: Record, outcome: Outcome, verdict: OutcomeClass, seconds: float
    ) -> None:
        setup, emit = self.setup, self._around.emit
        emit(CallFinished(setup.name, setup.provider, verdict, outcome.reason, seconds))
        if outcome.skew is not None:
            emit(ClockSkewSeen(setup.provider, outcome.skew))
        if verdict is OutcomeClass.DEAD:
            self._found_dead = False
            refused = base.refresh.fingerprint if base.refresh else ""
            emit(
                GrantDied(
                    setup.name, refused, outcome.reason, remedy(setup.name, GrantState.DEAD, setup.page)
                )
            )
        if verdict is OutcomeClass.SUCCESS:
            self._compare_scopes(record)
            emit(_rotated(setup, base, record))
            self._did.append(f"refreshed to generation {record.generation}")
        else:
            self._did.append(f"refresh failed ({verdict}): {outcome.reason}")

    def _compare_scopes(self, record: Record) -> None:
        missing = missing_scopes(record, self.setup.scopes)
        if missing and missing != self._missing:
            self._around.emit(ScopesShrank(self.setup.name, missing))
        self._missing = missing

    async def _publish(self) -> None:
        record, now = self.record, self._now()
        if record is None or record.access is None or record.access.seconds_left(now) <= 0:
            return
        if self._fallen_back:
            # What the readers have is newer; and it must not be forgotten what that was.
            return
        if self._ledger.unpersisted and not self._may_publish_uncommitted(now):
            return
        publication = Publication(
            token=self.setup.name,
            access=record.access,
            refresh=self._handed_out(record),
            lineage=record.lineage,
            generation=record.generation,
            seeds=len(record.seeds),
            client_id=record.client_id,
            token_url=self.setup.grant.token_url,
            scopes=self.setup.scopes or record.access.scopes,
        )
        written = await self._publisher.publish(publication, self._watch)
        if written:
            self._did.append(f"published to {', '.join(written)}")
        settled = self._ledger.debt is None and self._publisher.retry_delay() is None
        self.courier.post(publication, settled=settled, turn=self._watch.id)

    def _handed_out(self, record: Record) -> RefreshToken | None:
        """Return the refresh token for outputs that include it, with the end that no use puts off."""
        setup, refresh = self.setup, record.refresh
        deadline = schedule.deadline(record, setup.profile, setup.refresh_token_ttl)
        if refresh is None or setup.profile.lives_by_itself:
            return None
        if deadline is None or deadline.rule is DeadlineRule.IDLE:
            return refresh
        return msgspec.structs.replace(refresh, expires_at=deadline.at)

    async def _end(self, decision: Decision, *, raced: bool) -> Wake:
        self._raced, now = raced, self._now()
        at = decision.until if isinstance(decision, Wait) else now
        if isinstance(decision, Refresh) and (self._obstacle or self._store_trouble):
            at = now + OBSTACLE_RETRY
        if raced and self._refused is None:
            self._refused = self._forced
        delays = (
            RACE_RETRY * (1 + self._around.random()) if raced else None,
            self._ledger.debt.retry_delay() if self._ledger.debt else None,
            STORE_RETRY if self._store_trouble and not self.setup.followed else None,
            STABLE_AFTER if self._publisher.unsettled else None,
            self._publisher.retry_delay(),
        )
        at = min([at, *(now + delay for delay in delays if delay is not None)])
        poll = self._poll_interval()
        if self._ledger.unread < poll:
            poll -= self._ledger.unread
        # By the wall clock again, which the scheduler looks at.
        ahead = now - self._around.clock.wall()
        self._next_wake = at - ahead
        view = await self.look()
        doing = "; ".join(self._did) or self._obstacle or self._store_trouble or decision.reason
        sentence, noteworthy = f"{doing}; next turn in {_span(at - now)}", bool(self._did or self._obstacle)
        self._around.emit(TurnEnded(view, sentence, noteworthy, self._watch.course()))
        # There may be very many of us, and most of them have no turn.
        del self._watch
        urgency = view.expires_at if view.expires_at is not None else at
        if self.setup.followed:
            # It is one of very many, and not looked at before it is due.
            self._did = []
            self._ledger.fold()
        return Wake(min(at, now + poll) - ahead, urgency=urgency)

    # What else may change the record

    async def _compare(self) -> None:
        """Hold what the store has against what this `state_dir` published from it, before and after a restart."""
        record, self._fallen_back = self.record, ""
        if not self._may_be_spent(record):
            return
        marks = [await self._publisher.mark(), *await self.courier.marks()]
        mark = max((mark for mark in marks if mark is not None), key=attrgetter("issued_at"), default=None)
        if mark is not None and rotation.behind(record, mark):
            self._fallen_back = fallen_back(self.setup.name, record, mark, self.setup.page)

    async def _clear_unsent(self) -> None:
        """Forget an own attempt of which escrow knows nothing: room is taken there before anything is sent."""
        record = self._ledger.record
        if record is None or record.attempt is None or self._ledger.debt is not None:
            return
        if self._is_claimed(record):
            return
        if self._owns_attempt(record) and record.attempt.in_doubt_since is None:
            # An entry that cannot be opened (its key is gone) was not recovered, and still says what was sent.
            sent = self._around.escrow.may_have_sent(record.attempt.id)
            attempt = rotation.doubted(record.attempt) if sent else None
            await self._ledger.write(msgspec.structs.replace(record, attempt=attempt))

    async def _take_in(self) -> None:
        """Take what operators and applications left, if there is anything new."""
        setup, done = self.setup, []
        if setup.seed is not None:
            done.append(await self._intake.take_seed(setup, setup.seed, fallen_back=self._fallen_back))
        if not self._fallen_back:
            done.append(await self._intake.adopt(setup, self._publisher))
        self._did += filter(None, done)

    async def plant(
        self, seeding: Seeding, *, origin: str, force: bool = False, since: str | None = None
    ) -> Planting:
        """Start a new lineage on request; whatever is under way will find it and yield.

        `since`: the lineage that a human saw when the consent began (empty: none). Where another one that lives has
        come meanwhile, that one stays, and this pair is kept among its orphans. None: whatever is there yields.
        Raises `SeedError` for a spent refresh token and `ConsentFailed` for another account's consent (unless `force`),
        `ConfigError`, `StoreError`.
        """
        return await self._intake.plant(self.setup, seeding, origin=origin, force=force, since=since)

    async def reread(self) -> Record | None:
        """Read the record as the store has it now. Raises `StoreError`."""
        return await self._intake.reread()

    async def bury(self, fingerprint: str, *, reason: str) -> bool:
        """Call the grant dead because its refresh token was ended on request; False where it holds another by now.

        Raises `StoreError`.
        """
        return await self._intake.bury(fingerprint, reason=reason)

    def reconfigure(self, setup: Setup) -> None:
        """Work by another configuration from the next turn on; what is owed to the store stays owed."""
        self._successor = setup

    def leave(self, gone: Callable[[], None]) -> None:
        """Go with the account: at the next turn, which is to be asked for, once nothing is owed to the store.

        `gone` is called then. A turn that is under way ends as it would have, with its call and its commit.
        """
        self._leaving = gone

    def stay(self) -> None:
        """Go on after all: the account is back."""
        self._leaving = None

    async def _leave(self, gone: Callable[[], None]) -> Wake:
        try:
            await self._ledger.settle()
        except StoreError:
            debt = self._ledger.debt
            at = self._around.clock.wall() + (debt.retry_delay() if debt is not None else STORE_RETRY)
            return Wake(at, urgency=at)
        for problem in self._publisher.withdraw():
            self._around.emit(Warned("output", problem, self.setup.name))
        gone()
        return Wake(float("inf"), urgency=float("inf"))

    def _take_over(self) -> None:
        if self._successor is not None:
            self.setup, self._successor, self._blank = self._successor, None, None
            self._unread = True
            self._publisher = Publisher(self.setup.name, self.setup.outputs, self._around.emit)
            self.courier.furnish(self.setup.remote_outputs, self.setup.hooks)

    def recover(self, entry: Entry) -> None:
        """Take over an attempt that a predecessor left in escrow; to be called before the first turn."""
        seconds = max(0.0, self._around.clock.wall() - entry.attempt.started_at)
        if entry.stage is Stage.ARMED:
            record, success = (
                msgspec.structs.replace(entry.base, attempt=rotation.unsent(entry.attempt)),
                False,
            )
        else:
            lost = NoAnswer("the daemon died between sending the request and keeping the answer")
            shown = self.setup.grant.credentials_fingerprint()
            record, success = self._conclude(entry.base, entry.answer or lost, seconds, shown)
            self._keep_unread(entry.slip, entry.answer, record)
        self._ledger.owe(record, entry.attempt, entry.slip, rotation=success, late=True)

    def _keep_unread(self, slip: Slip, result: Answer | CallError | None, record: Record) -> None:
        """Have an answer put aside that may hold a pair, and of which nobody can tell."""
        doubt = record.attempt is not None and record.attempt.in_doubt_since is not None
        if isinstance(result, Answer) and result.status < FAILURE and doubt and self.setup.profile.may_rotate:
            slip.unread = True
            text = (
                "an answer could not be read, and may hold a new refresh token: it is kept in state_dir, and read "
                "again when the provider's profile (`answer`) is corrected"
            )
            self._around.emit(Warned("escrow", text, self.setup.name))

    def _read_again(self) -> None:
        """Look at the answers that could not be read with the eyes of the present profile; the newest counts."""
        if not self._unread or self._ledger.debt is not None:
            return
        self._unread = False
        for entry in reversed(self._around.escrow.unread(self.setup.key)):
            sent, previous = entry.base.refresh, entry.base.access
            if entry.answer is not None and (
                outcomes.judge(entry.answer, self.setup.profile, sent=sent, previous=previous).outcome
                is OutcomeClass.SUCCESS
            ):
                self.recover(entry)
                return

    def _forget_unread(self) -> None:
        """Remove answers that nobody could read: what they may have held is older than what the store has now."""
        for entry in self._around.escrow.unread(self.setup.key):
            entry.slip.release()

    # What others may ask

    @property
    def record(self) -> Record | None:
        """What is known of the token right now."""
        record = self._ledger.record
        if record is not None or self.setup.profile.needs_refresh_token:
            return record
        grant = self.setup.grant
        if self._blank is None:
            try:
                self._blank = rotation.begun(grant.client_id(), grant.endpoint, grant.issuer)
            except ConfigError as error:
                self._obstacle = str(error)
        return self._blank

    def refuse(self, fingerprint: str) -> bool:
        """Ask for a new access token in place of the one that was refused; the next turn calls the provider.

        Returns False when that token is not the present one any more, so that any number of callers cause one call.
        """
        if fingerprint != _name_of(self.record):
            return False
        self._refused = fingerprint
        return True

    @property
    def asked(self) -> bool:
        """Whether the last turn called the provider."""
        return self._asked

    @property
    def awaited(self) -> float:
        """Seconds for which another instance may call the provider, counted from when the record was read."""
        record = self.record
        # A lease without an attempt protects a healed record from everybody, and nobody is at it.
        if record is None or record.attempt is None or self._owns_attempt(record):
            return 0.0
        return self._ledger.lease_left

    @property
    def yields(self) -> bool:
        """Whether the last turn gave way to another instance, of which more is to be heard soon."""
        return not self._store_trouble and (self._raced or self.awaited > 0)

    @property
    def unpersisted(self) -> bool:
        """Whether a token is held that exists nowhere but in this process and its escrow."""
        return self._ledger.unpersisted

    @property
    def owes(self) -> bool:
        """Whether anything is owed to the store, be it a token or a note of how a call failed."""
        return self._ledger.debt is not None

    async def settle(self) -> None:
        """Commit what is owed to the store, outside of any turn. Raises `StoreError` while it stays owed."""
        await self._ledger.settle()

    async def look(self) -> TokenView:
        """Return the present view, with the outputs as they are at this moment."""
        return self._view((*await self._publisher.views(), *await self.courier.views()))

    # How it stands

    def _now(self) -> float:
        """Tell the time (Unix seconds) by which the present token is judged.

        It follows the wall clock forwards at once, and backwards only with the next token: setting a clock back
        makes no token live longer, and no back-off last longer.
        """
        clock, name = self._around.clock, _name_of(self.record)
        offset = clock.wall() - clock.boot()
        if self._first_seen is None or self._first_seen[0] != name:
            self._first_seen = name, offset
        return clock.boot() + max(offset, self._first_seen[1])

    def _times(self) -> Timing:
        return schedule.timing_of(self._ledger.record, self.setup.policy, self.setup.profile)

    def _poll_interval(self) -> float:
        record = self.record
        alone = record is None or record.attempt is None or self._owns_attempt(record)
        return schedule.poll_interval(record, self._times(), followed=self.setup.followed and alone)

    def _owns_attempt(self, record: Record | None) -> bool:
        return (
            record is not None
            and record.attempt is not None
            and record.attempt.instance == self._around.instance
        )

    def _is_forced(self, record: Record | None) -> bool:
        if record is None:
            return False
        if self._forced is not None and self._forced == _name_of(record):
            return True
        misconfigured = record.backoff is not None and record.backoff.outcome is OutcomeClass.MISCONFIGURED
        return misconfigured and self._failed_credentials not in (
            None,
            self.setup.grant.credentials_fingerprint(),
        )

    def _may_call(self) -> bool:
        """Check what no provider should be bothered with; notes the obstacle."""
        record, grant = self.record, self.setup.grant
        if record is None:
            return False
        try:
            client_id = grant.client_id()
        except ConfigError as error:
            self._obstacle = str(error)
            return False
        moved = rotation.misdirected(
            record, client_id=client_id, endpoint=grant.endpoint, issuer=grant.issuer
        )
        if moved is not None:
            self._obstacle = self._told_of_move(*moved)
            return False
        return not self._store_trouble or self._ledger.alone or self._may_go_without_lease()

    def _told_of_move(self, bound: str, wanted: str) -> str:
        name, grant = self.setup.name, self.setup.grant
        says = f"the configuration with the issuer {grant.issuer}" if grant.issuer else "the configuration"
        rebind = f"if both are yours, stop the daemon and run: token-sidecar store rebind {quoted(name)}"
        if self.record is not None and self.record.refresh is None:
            return (
                f"the token was got at {bound}, but {says} names {wanted}, where no secret is sent; "
                f"correct the configuration, or name token_url; {rebind}"
            )
        return (
            f"the refresh token belongs to {bound}, but {says} names {wanted}, where it is not sent; correct the "
            f"configuration, or {consent(name, self.setup.page)}; {rebind}"
        )

    def _may_be_spent(self, record: Record | None) -> bool:
        """Tell whether the refresh token may be one that was used, should the store have lost what followed."""
        profile = self.setup.profile
        if not profile.needs_refresh_token or profile.in_doubt is InDoubt.REPLAY_OK or self._ledger.alone:
            return False
        return profile.may_rotate if record is None else rotation.may_rotate(record, profile)

    def _hold(self) -> float:
        """Seconds for which the record is left alone, should the store turn out to have lost it."""
        record = self.record
        return schedule.hold(record, self._times(), self._now()) if self._may_be_spent(record) else 0.0

    def _may_go_without_lease(self) -> bool:
        # By the profile, not by what was seen: a provider may rotate every other time, or once a day.
        return self.setup.refresh_without_store or not self.setup.profile.may_rotate

    def _may_publish_uncommitted(self, now: float) -> bool:
        """Keep a provider's own way back open while the store is down: using the new pair would close it."""
        stored = self._ledger.stored
        if not self.setup.profile.survives_until_used or stored is None or stored.access is None:
            return True
        return stored.access.seconds_left(now) < self._times().min_validity

    def _view(self, outputs: tuple[OutputView, ...]) -> TokenView:
        setup, record, ledger = self.setup, self.record, self._ledger
        troubles = Troubles(
            obstacle=self._obstacle,
            store=self._store_trouble
            or ("its first turn is still to come" if self._found_dead is None else ""),
            seed=self._intake.problem,
            no_seed=self._intake.missing,
            healed=schedule.HEALED
            if record is not None and not record.attempt and ledger.lease_left > 0
            else "",
            fallen_back=self._fallen_back,
            unpersisted=ledger.overdue,
            unanswered=self._overdue if self._owns_attempt(record) else ledger.lease_left <= 0,
        )
        state, reason = standing(
            record, troubles, needs_refresh_token=setup.profile.needs_refresh_token, now=self._now()
        )
        view = TokenView(
            token=setup.name,
            provider=setup.provider,
            required=setup.required,
            on_dead=setup.on_dead,
            dead_grace=setup.dead_grace,
            grant_state=state,
            reason=reason,
            remedy=remedy(setup.name, state, setup.page),
            min_validity=self._times().min_validity,
            next_wake=self._next_wake,
            unpersisted=ledger.overdue,
            found_dead=bool(self._found_dead),
            outputs=outputs,
            hooks=self.courier.hooks(),
            of_set=setup.of_set,
            aggregated=setup.aggregated,
        )
        return with_record(view, record, setup.profile, ttl=setup.refresh_token_ttl, scopes=setup.scopes)


class _Gate:
    """Lets a request pass only while enough of the lease is left for it to be processed."""

    def __init__(self, clock: Clock, deadline: float | None, margin: float, slip: Slip) -> None:
        self._clock = clock
        self._deadline = deadline
        self._margin = margin
        self._slip = slip

    def open(self) -> None:
        if self._deadline is not None and self._clock.boot() + self._margin > self._deadline:
            raise LeaseLost
        try:
            self._slip.sent()
        except EscrowError as error:
            raise LeaseLost(str(error)) from error


def _nothing() -> None:
    """Nobody minds that an answer is late."""


def _each(*those: Callable[[], None]) -> None:
    for one in those:
        one()


def _noted(note: Note, result: Answer | CallError, record: Record) -> None:
    """Say of the step what the call came to."""
    last = record.history[-1]
    note.outcome, note.problem = last.outcome.value, last.reason
    note.error = "" if last.outcome is OutcomeClass.SUCCESS else last.outcome.value
    note.status = result.status if isinstance(result, Answer) else None


def _rotated(setup: Setup, base: Record, record: Record) -> Rotated:
    return Rotated(
        token=setup.name,
        provider=setup.provider,
        lineage=record.lineage,
        generation=record.generation,
        fingerprint=_name_of(record),
        replaced=_name_of(base),
        refresh_fingerprint=record.refresh.fingerprint if record.refresh is not None else "",
        refresh_replaced=base.refresh.fingerprint if base.refresh is not None else "",
    )


def _name_of(record: Record | None) -> str:
    return record.access.fingerprint if record is not None and record.access is not None else ""


def _span(seconds: float) -> str:
    """Write a span the way the configuration does."""
    whole = max(0, round(seconds))
    parts = [(whole // 3600, "h"), (whole % 3600 // 60, "m"), (whole % 60, "s")]
    return "".join(f"{value}{unit}" for value, unit in parts if value) or "0s"
