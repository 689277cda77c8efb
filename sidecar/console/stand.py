"""How one token stands, as the console's pages show it: drawn when it is asked for."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from sidecar import links, schedule
from sidecar.console.charts import OVER, Chart, Meter, chart, meter
from sidecar.console.words import Moment, moment, span
from sidecar.enrol.provider import title
from sidecar.events import TokenView
from sidecar.standing import DEADLINES, Troubles, remedy, standing, with_record
from sidecar.tokens import AccessState, DeadlineRule, GrantState, OutcomeClass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sidecar.config.settings import Settings
    from sidecar.profile import Profile
    from sidecar.tokens import Record, Turn

SOON = 86400.0
"""Seconds before a deadline from which it is urgent; when the chart's alert fires, too."""


class Level(StrEnum):
    """Who has to do something."""

    ACT = "act"
    """A human."""
    WATCH = "watch"
    """The daemon, and it is at it."""
    FINE = "fine"


_OF_STATE = {
    GrantState.DEAD: Level.ACT,
    GrantState.UNSEEDED: Level.ACT,
    GrantState.MISCONFIGURED: Level.ACT,
    GrantState.OK: Level.FINE,
}

STATES = {
    GrantState.OK: "ok",
    GrantState.UNSEEDED: "no grant yet",
    GrantState.RETRYING: "retrying",
    GrantState.IN_DOUBT: "in doubt",
    GrantState.UNPERSISTED: "not stored",
    GrantState.MISCONFIGURED: "misconfigured",
    GrantState.DEAD: "dead",
}
"""A grant's state on its badge."""


class Access(msgspec.Struct, frozen=True):
    """The access token's state."""

    state: AccessState
    words: str
    """`59 min left`, `expired 2 h ago`, `never expires`."""
    ends: Moment | None = None
    meter: Meter | None = None


class Deadline(msgspec.Struct, frozen=True):
    """By when a human has to consent again."""

    ends: Moment
    rule: str
    """What it follows from, in words."""
    passed: bool
    soon: bool
    moves: bool
    """Whether each refresh starts it anew, so that nobody need do anything."""
    meter: Meter


class Trouble(msgspec.Struct, frozen=True):
    """Something that went wrong."""

    text: str
    remedy: str = ""
    since: Moment | None = None


class Row(msgspec.Struct, frozen=True):
    """One token, as the overview shows it."""

    name: str
    page: str
    """Path of the token's own page."""
    provider: str
    account: str
    level: Level
    state: GrantState
    badge: str
    badge_level: Level
    """The state's own; a deadline or an output may want more attention."""
    access: Access
    chart: Chart
    deadline: Deadline | None
    error: Trouble | None
    """What is wrong now."""
    past_error: Trouble | None
    """What went wrong last, and is over."""
    consents: bool
    """Whether a human's consent can be asked for."""
    act: str
    """What the button says that asks for it."""


class Due(msgspec.Struct, frozen=True):
    """What a human has to do, and by when."""

    row: Row
    what: str
    lead: str
    """What `when` is the time of, where that isn't when to do it."""
    when: Moment | None
    meter: Meter | None
    urgent: bool

    @property
    def consent(self) -> bool:
        """Tell whether a consent is what is wanted, and can be asked for here."""
        return self.row.consents and self.row.state is not GrantState.MISCONFIGURED


class Fact(msgspec.Struct, frozen=True):
    """A line of a token's page."""

    name: str
    text: str = ""
    when: Moment | None = None
    code: bool = False
    """Whether the text is for copying rather than reading."""


class Group(msgspec.Struct, frozen=True):
    """Lines that belong together."""

    title: str
    facts: tuple[Fact, ...]


class Place(msgspec.Struct, frozen=True):
    """An output or a hook."""

    name: str
    badge: str
    problem: str
    """Why it failed; empty: it did not."""
    ok: bool


class Stand:
    """How one token stands; draws nothing before it is asked to."""

    __slots__ = (
        "_deadline",
        "consents",
        "from_daemon",
        "level",
        "name",
        "now",
        "profile",
        "record",
        "token",
        "unreadable",
        "view",
    )

    def __init__(
        self,
        settings: Settings,
        name: str,
        record: Record | None,
        now: float,
        live: TokenView | None = None,
        unreadable: str = "",
    ) -> None:
        """`unreadable`: why there is no record although the store holds something."""
        # Of ten thousand accounts nobody puts the names into the settings, which here say nothing of the account.
        entry = name if name in settings.tokens else name.partition("/")[0]
        self.name = name
        self.now = now
        self.record = record
        self.token = settings.tokens.get(entry) or settings.sets[entry]
        self.profile: Profile = settings.profiles[entry]
        self._deadline = schedule.deadline(record, self.profile, self.token.refresh_token_ttl)
        stored = self._stored(settings.provider_names[entry])
        self.from_daemon = live is not None
        if unreadable:
            # What stands in the reason is what to do about it, too.
            state = GrantState.MISCONFIGURED
            stored = msgspec.structs.replace(stored, grant_state=state, reason=unreadable, remedy="")
        self.unreadable = bool(unreadable)
        self.view = stored if live is None or unreadable else _merged(stored, live)
        self.consents = self.profile.needs_refresh_token and bool(
            self.profile.authorization_url or self.profile.issuer
        )
        self.level = self._level()

    def _stored(self, provider: str) -> TokenView:
        """Say what the record tells by itself."""
        needs = self.profile.needs_refresh_token
        state, reason = standing(self.record, Troubles(), needs_refresh_token=needs, now=self.now)
        policy = schedule.Policy(min_validity=self.token.min_validity, lease=self.token.lease)
        bare = TokenView(
            token=self.name,
            provider=provider,
            required=self.token.required,
            on_dead=self.token.on_dead.value,
            dead_grace=self.token.dead_grace,
            grant_state=state,
            reason=reason,
            remedy=remedy(self.name, state),
            min_validity=schedule.timing_of(self.record, policy, self.profile).min_validity,
        )
        return with_record(
            bare, self.record, self.profile, ttl=self.token.refresh_token_ttl, scopes=self.token.scopes
        )

    def _level(self) -> Level:
        state, view = self.view.grant_state, self.view
        if self._deadline is not None and not self._moves and self._deadline.at <= self.now:
            return Level.ACT
        level = _OF_STATE.get(state, Level.WATCH)
        troubled = (
            view.access_state(self.now) in {AccessState.STALE, AccessState.EXPIRED}
            or view.missing_scopes
            or any(output.problem for output in view.outputs)
            or any(hook.problem for hook in view.hooks)
            or (self._deadline is not None and not self._moves and self._deadline.at - self.now < SOON)
        )
        return Level.WATCH if level is Level.FINE and troubled else level

    @property
    def _moves(self) -> bool:
        return self._deadline is not None and self._deadline.rule in {
            DeadlineRule.IDLE,
            DeadlineRule.LIVING,
        }

    @property
    def is_due(self) -> bool:
        """Tell whether a human has something to do, now or by a certain day."""
        return self.level is Level.ACT or (self._deadline is not None and not self._moves)

    @property
    def urgency(self) -> tuple[int, float, str]:
        """What comes first: what is broken, by when readers lose their token; then deadlines by their day."""
        if _OF_STATE.get(self.view.grant_state) is Level.ACT:
            return 0, self.view.expires_at or 0.0, self.name
        return 1, self._deadline.at if self._deadline is not None else 0.0, self.name

    def holds(self, text: str) -> bool:
        """Tell whether its name, account or provider has this text in it, in any case."""
        wanted = text.casefold()
        return any(wanted in told.casefold() for told in (self.name, self.account, title(self.profile)))

    @property
    def account(self) -> str:
        """Whose grant it is, as far as that is known."""
        return (self.record.account if self.record is not None else "") or self.name.partition("/")[2]

    def due(self) -> Due:
        """Say what a human has to do."""
        row, view = self.row(), self.view
        if _OF_STATE.get(view.grant_state) is Level.ACT:
            lead = "its token ended" if row.access.state is AccessState.EXPIRED else "its token ends"
            what = "Look after its record" if self.unreadable else _TO_DO[view.grant_state]
            return Due(row, what, lead, row.access.ends, row.access.meter, urgent=True)
        end = row.deadline
        if end is None:
            return Due(row, "Consent again", "", None, None, urgent=True)
        lead = "the grant should have ended" if end.passed else ""
        return Due(row, "Consent again", lead, end.ends, end.meter, urgent=end.soon)

    def row(self) -> Row:
        """Draw what the overview shows."""
        view, record = self.view, self.record
        history = record.history if record is not None else ()
        return Row(
            name=self.name,
            page=links.token(self.name),
            provider=title(self.profile),
            account=self.account,
            level=self.level,
            state=view.grant_state,
            badge=STATES[view.grant_state],
            badge_level=_OF_STATE.get(view.grant_state, Level.WATCH),
            access=self._access(),
            chart=chart(history, self.now),
            deadline=self._drawn_deadline(),
            error=self._error(),
            past_error=_past_error(history, self.now),
            consents=self.consents,
            act="Re-authorize" if view.refresh_fingerprint else "Authorize",
        )

    def _access(self) -> Access:
        view, state = self.view, self.view.access_state(self.now)
        if not view.fingerprint:
            return Access(state, "none yet")
        if view.expires_at is None:
            return Access(state, "never expires")
        left = view.expires_at - self.now
        known = "" if view.expiry_known else ", as far as is known"
        words = f"{span(left)} left{known}" if left > 0 else f"expired {span(-left)} ago"
        issued = self.record.access.issued_at if self.record is not None and self.record.access else self.now
        drawn = meter(left, view.expires_at - issued, floor=view.min_validity)
        return Access(state, words, moment(view.expires_at, self.now), drawn)

    def _drawn_deadline(self) -> Deadline | None:
        end, record, died = self._deadline, self.record, self.view.dead_since
        if died is not None:
            return Deadline(
                moment(died, self.now), "this grant is dead", passed=True, soon=True, moves=False, meter=OVER
            )
        if end is None or record is None or record.refresh is None:
            return None
        left = end.at - self.now
        began = (
            schedule.last_used(record)
            if self._moves
            else record.refresh.consented_at or record.refresh.issued_at
        )
        return Deadline(
            ends=moment(end.at, self.now),
            rule=DEADLINES[end.rule].lstrip(":, "),
            passed=left <= 0,
            soon=not self._moves and left < SOON,
            moves=self._moves,
            meter=meter(left, end.at - began, floor=0.0 if self._moves else min(SOON, (end.at - began) / 2)),
        )

    def _error(self) -> Trouble | None:
        view = self.view
        if view.reason:
            since = view.dead_since or view.in_doubt_since
            if since is None and self.record is not None and self.record.backoff is not None:
                since = self.record.backoff.since
            return Trouble(view.reason, view.remedy, moment(since, self.now) if since else None)
        failed = [f"{output.output}: {output.problem}" for output in view.outputs if output.problem]
        failed += [hook.problem for hook in view.hooks if hook.problem]
        if view.missing_scopes:
            failed.append(f"scopes are missing: {' '.join(view.missing_scopes)}")
        return Trouble("; ".join(failed)) if failed else None

    def groups(self) -> Iterator[Group]:
        """Tell everything, in words."""
        yield Group("Access token", tuple(self._access_facts()))
        if self.profile.needs_refresh_token:
            yield Group("Refresh token", tuple(self._refresh_facts()))
        yield Group("Record", tuple(self._record_facts()))

    def _access_facts(self) -> Iterator[Fact]:
        view, access = self.view, self.record.access if self.record is not None else None
        yield Fact("Fingerprint", view.fingerprint or "none yet", code=bool(view.fingerprint))
        if access is not None:
            yield Fact("Obtained", when=moment(access.issued_at, self.now))
        if view.expires_at is not None:
            yield Fact("Expires", when=moment(view.expires_at, self.now))
        if view.fingerprint:
            yield Fact("Readers find at least", f"{span(view.min_validity)} left")
        if view.next_wake is not None:
            yield Fact("Next look", when=moment(view.next_wake, self.now))

    def _refresh_facts(self) -> Iterator[Fact]:
        refresh = self.record.refresh if self.record is not None else None
        if refresh is None or self.record is None:
            yield Fact("Fingerprint", "none yet")
            return
        yield Fact("Fingerprint", refresh.fingerprint, code=True)
        yield Fact("Issued", when=moment(refresh.issued_at, self.now))
        if refresh.consented_at is not None:
            yield Fact("Consented", when=moment(refresh.consented_at, self.now))
        rotates = {True: "yes", False: "no", None: "not seen yet"}[self.record.rotates]
        yield Fact("Changes with each refresh", rotates)
        if self.record.orphans:
            yield Fact("Set aside", f"{len(self.record.orphans)} that came second to a newer grant")

    def _record_facts(self) -> Iterator[Fact]:
        record = self.record
        if record is None:
            yield Fact("Kept in the store", "nothing yet")
            return
        yield Fact("Lineage", record.lineage, code=True)
        yield Fact("Generation", str(record.generation))
        if record.client_id:
            yield Fact("Client", record.client_id, code=True)
        if record.endpoint:
            yield Fact("Bound to", record.endpoint, code=True)
        if record.attempt is not None:
            yield Fact("A request is under way since", when=moment(record.attempt.started_at, self.now))
        if record.backoff is not None and record.backoff.not_before > self.now:
            yield Fact("Provider left alone until", when=moment(record.backoff.not_before, self.now))

    def places(self) -> Iterator[Place]:
        """Tell how outputs and hooks are doing, as far as the daemon knows."""
        for output in self.view.outputs:
            current = bool(output.fingerprint) and output.fingerprint == self.view.fingerprint
            badge = "failed" if output.problem else "current" if current else "not current"
            yield Place(output.output, badge, output.problem or "", ok=current and not output.problem)
        for hook in self.view.hooks:
            badge = "failed" if hook.problem else "to be run" if hook.pending else "done"
            yield Place(hook.hook, badge, hook.problem or "", ok=not hook.problem)


_TO_DO = {
    GrantState.DEAD: "Consent again: the grant is dead",
    GrantState.UNSEEDED: "Give the first consent",
    GrantState.MISCONFIGURED: "Correct the configuration",
}


def _merged(stored: TokenView, told: TokenView) -> TokenView:
    """Let the daemon speak, unless the store has moved on since; its outputs and hooks count in any case."""
    same = (stored.lineage, stored.generation, stored.dead_since) == (
        told.lineage,
        told.generation,
        told.dead_since,
    )
    base = told if same or not stored.lineage else stored
    return msgspec.structs.replace(base, outputs=told.outputs, hooks=told.hooks, next_wake=told.next_wake)


def _past_error(history: tuple[Turn, ...], now: float) -> Trouble | None:
    failed = [turn for turn in history if turn.outcome is not OutcomeClass.SUCCESS]
    if not failed:
        return None
    return Trouble(failed[-1].reason, since=moment(failed[-1].at, now))
