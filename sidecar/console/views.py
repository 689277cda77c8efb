"""What is on the console's pages: frozen values, made of configuration, records and time by pure functions.

Nothing in them is secret: tokens appear as fingerprints. What the running daemon says of a token (`live`, its part of
the status document) counts for as long as it speaks of the same record as the store.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import msgspec

from sidecar.console.charts import KINDS, NAMES
from sidecar.console.stand import Deadline, Due, Group, Level, Place, Row, Stand
from sidecar.console.words import Moment, moment, span
from sidecar.enrol.provider import title
from sidecar.tokens import REFRESH, GrantState, OutcomeClass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sidecar.config.settings import Settings
    from sidecar.events import TokenView
    from sidecar.tokens import Record, Turn

ROWS = 50
"""On one page of the overview."""
DUE = 8
"""Deadlines that the overview shows before it counts the rest."""
LONGEST_QUERY = 255


class Asked(msgspec.Struct, frozen=True):
    """Which part of the overview somebody wants to see."""

    q: str = ""
    """In a token's name, account or provider."""
    show: str = ""
    """A `Level`, a `GrantState` or `due`; empty: all."""
    page: int = 1

    def href(self, **changes: Any) -> str:
        """Return the overview's path with these changes."""
        given = msgspec.structs.replace(self, **changes)
        members = {"q": given.q, "show": given.show, "page": given.page if given.page > 1 else ""}
        query = urlencode({name: value for name, value in members.items() if value})
        return f"/?{query}" if query else "/"


class Filter(msgspec.Struct, frozen=True):
    """One of the overview's choices, and how many tokens it holds."""

    words: str
    href: str
    count: int
    chosen: bool
    level: str = ""


class Pager(msgspec.Struct, frozen=True):
    """Where in a long list we are."""

    page: int
    pages: int
    first: int
    last: int
    matching: int
    previous: str
    """Path; empty on the first page."""
    next: str
    """Path; empty on the last page."""


class AddTo(msgspec.Struct, frozen=True):
    """A set of tokens that an account can be added to."""

    name: str
    provider: str
    accounts: int


class Overview(msgspec.Struct, frozen=True):
    """Every token, those first that need a human."""

    now: Moment
    total: int
    due: tuple[Due, ...]
    more_due: int
    more_href: str
    filters: tuple[Filter, ...]
    rows: tuple[Row, ...]
    asked: Asked
    pager: Pager
    ungranted: tuple[Row, ...]
    """Configured tokens that a human can give their first grant."""
    sets: tuple[AddTo, ...]


class Past(msgspec.Struct, frozen=True):
    """One turn of the history."""

    when: Moment
    outcome: str
    """In words; what it was of, where that was no refresh."""
    kind: str
    reason: str
    generation: int
    took: str
    """How long the provider took; empty where it was not asked."""
    times: int = 1
    """How many turns this one stands for."""
    since: Moment | None = None
    """When the first of several was."""


class TokenPage(msgspec.Struct, frozen=True):
    """One token, with all that may be shown."""

    row: Row
    now: Moment
    from_daemon: bool
    """Whether the daemon that runs here had its say."""
    refreshes: bool
    """Whether there is something to refresh with."""
    revokes: bool
    """Whether there is a grant that can be taken back."""
    missing_scopes: tuple[str, ...]
    scopes: tuple[str, ...]
    groups: tuple[Group, ...]
    places: tuple[Place, ...]
    """Outputs, then hooks."""
    history: tuple[Past, ...]


class Account(msgspec.Struct, frozen=True):
    """One service, as its user sees it."""

    set: str
    provider: str
    kind: str
    """How the words look: a `Level`, or idle."""
    words: str
    """Connected, not connected, or has to be connected again, and why."""
    connected: bool
    account: str
    since: Moment | None
    deadline: Deadline | None
    scopes: tuple[str, ...]
    act: str


class Accounts(msgspec.Struct, frozen=True):
    """A user's own accounts."""

    user: str
    accounts: tuple[Account, ...]


class Result(msgspec.Struct, frozen=True):
    """What came of an action."""

    action: str
    """consent | refresh | revoke | disconnect."""
    token: str
    done: bool
    worked: bool
    text: str
    back: str
    """Path of the page to go on with."""


_ORDER = {level: place for place, level in enumerate(Level)}


def asked(query: Mapping[str, str]) -> Asked:
    """Read the overview's query; what makes no sense is left out."""
    show = query.get("show", "")
    number = query.get("page", "")[:6]
    return Asked(
        q=query.get("q", "").strip()[:LONGEST_QUERY],
        show=show if show in {"due", *Level, *GrantState} else "",
        page=max(1, int(number)) if number.isascii() and number.isdigit() else 1,
    )


def overview(
    settings: Settings,
    records: Mapping[str, Record | None],
    now: float,
    *,
    live: Mapping[str, TokenView | None] | None = None,
    unreadable: Mapping[str, str] | None = None,
    asked: Asked = Asked(),  # noqa: B008 - frozen
) -> Overview:
    """Show what of all tokens is asked for; only what is shown is drawn.

    `unreadable`: names of tokens → why their records can't be read.
    """
    told, broken = live or {}, unreadable or {}
    stands = [
        Stand(settings, name, record, now, told.get(name), broken.get(name, ""))
        for name, record in records.items()
    ]
    stands.sort(key=lambda stand: (_ORDER[stand.level], stand.name))
    waiting = sorted((stand for stand in stands if stand.is_due), key=lambda stand: stand.urgency)
    counts = Counter(stand.level for stand in stands)
    found = waiting if asked.show == "due" else stands
    found = [stand for stand in found if _matches(stand, asked)]
    pager = _pager(asked, len(found))
    # A search is for a token, and not for what else is due.
    shown_due = [] if asked.q or asked.show else waiting[:DUE]
    return Overview(
        now=moment(now, now),
        total=len(stands),
        due=tuple(stand.due() for stand in shown_due),
        more_due=len(waiting) - len(shown_due) if shown_due else 0,
        more_href=Asked(show="due").href(),
        filters=_filters(asked, counts, len(waiting)),
        rows=tuple(stand.row() for stand in found[max(0, pager.first - 1) : pager.last]),
        asked=asked,
        pager=pager,
        ungranted=tuple(
            stand.row()
            for stand in stands
            if stand.view.grant_state is GrantState.UNSEEDED and stand.consents
        )[:DUE],
        sets=tuple(_sets(settings, records)),
    )


def token(
    settings: Settings, name: str, record: Record | None, now: float, *, live: TokenView | None = None
) -> TokenPage:
    """Show one token."""
    stand = Stand(settings, name, record, now, live)
    view = stand.view
    return TokenPage(
        row=stand.row(),
        now=moment(now, now),
        from_daemon=stand.from_daemon,
        refreshes=not stand.profile.needs_refresh_token or bool(view.refresh_fingerprint),
        revokes=bool(view.refresh_fingerprint) and bool(stand.profile.revocation_url or stand.profile.issuer),
        missing_scopes=view.missing_scopes,
        scopes=record.access.scopes if record is not None and record.access is not None else (),
        groups=tuple(stand.groups()),
        places=tuple(stand.places()),
        history=tuple(_past(turn, now) for turn in reversed(record.history if record else ())),
    )


def accounts(settings: Settings, user: str, records: Mapping[str, Record | None], now: float) -> Accounts:
    """Show a user's own accounts: `records` by the name of the set that each belongs to."""
    return Accounts(
        user, tuple(_account(settings, name, user, record, now) for name, record in sorted(records.items()))
    )


def _past(turn: Turn, now: float) -> Past:
    called = turn.what == REFRESH
    return Past(
        when=moment(turn.at, now),
        outcome=NAMES[turn.outcome] if called else turn.what,
        kind=KINDS[turn.outcome],
        reason=turn.reason
        or ("a new access token" if called and turn.outcome is OutcomeClass.SUCCESS else ""),
        generation=turn.generation,
        took=span(turn.duration) if called else "",
        times=turn.times,
        since=moment(turn.began, now) if turn.times > 1 else None,
    )


def _matches(stand: Stand, asked: Asked) -> bool:
    shown = asked.show in {"", "due", stand.level, stand.view.grant_state}
    return shown and (not asked.q or stand.holds(asked.q))


def _pager(asked: Asked, matching: int) -> Pager:
    pages = max(1, -(-matching // ROWS))
    page = min(asked.page, pages)
    return Pager(
        page=page,
        pages=pages,
        first=(page - 1) * ROWS + 1 if matching else 0,
        last=min(page * ROWS, matching),
        matching=matching,
        previous=asked.href(page=page - 1) if page > 1 else "",
        next=asked.href(page=page + 1) if page < pages else "",
    )


def _filters(asked: Asked, counts: Counter[Level], due: int) -> tuple[Filter, ...]:
    choices = (
        ("All", "", counts.total(), ""),
        ("Need a human", Level.ACT, counts[Level.ACT], "bad"),
        ("To watch", Level.WATCH, counts[Level.WATCH], "warn"),
        ("Fine", Level.FINE, counts[Level.FINE], "ok"),
        ("Now or by a date", "due", due, ""),
    )
    return tuple(
        Filter(words, asked.href(show=str(show), page=1), count, asked.show == show, kind)
        for words, show, count, kind in choices
    )


def _sets(settings: Settings, records: Mapping[str, Record | None]) -> Iterator[AddTo]:
    members = Counter(name.partition("/")[0] for name in records if "/" in name)
    for name, one in settings.sets.items():
        if one.for_each is not None and one.for_each.sql is None:
            yield AddTo(name, title(settings.profiles[name]), members[name])


def _account(settings: Settings, name: str, user: str, record: Record | None, now: float) -> Account:
    stand = Stand(settings, f"{name}/{user}", record, now)
    row, state = stand.row(), stand.view.grant_state
    connected = bool(stand.view.refresh_fingerprint) and state is not GrantState.DEAD
    words = {
        GrantState.DEAD: "has to be connected again",
        GrantState.UNSEEDED: "not connected",
        GrantState.OK: "connected",
    }.get(state, "connected; something is being sorted out")
    refresh = record.refresh if record is not None else None
    return Account(
        set=name,
        provider=row.provider,
        kind="idle" if state is GrantState.UNSEEDED else stand.level,
        words=words,
        connected=connected,
        account=record.account if record is not None else "",
        since=moment(refresh.consented_at, now) if refresh is not None and refresh.consented_at else None,
        deadline=row.deadline,
        scopes=record.access.scopes if record is not None and record.access is not None else (),
        act="Connect" if state is GrantState.UNSEEDED else "Connect again",
    )
